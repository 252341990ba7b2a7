"""VGGT's camera head: nine numbers a frame, refined in a few rounds from the last layer's camera tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.config.sources import VGGTConfig
from novelview.models.vggt.blocks import VggtBlock

ENCODING = 9  # translation 3, quaternion 4 (scalar last), vertical and horizontal field of view
ADAPTIVE_EPS = 1e-6


class PoseBranch(nn.Module):
    """Linear, GELU, Linear: from tokens to changes of the encoding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, ENCODING)

    def forward(self, x: Float[Tensor, "b s c"]) -> Float[Tensor, "b s 9"]:
        """Return the change of every frame's encoding."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class CameraHead(nn.Module):
    """Rounds of: modulate the tokens by the estimate so far, let all frames attend, add a change to the estimate."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        own, width = cfg.camera_head, 2 * cfg.embed_dim
        self.iterations = own.num_iterations
        blocks = [VggtBlock(width, own.num_heads, cfg.init_values, False) for _ in range(own.trunk_depth)]
        self.trunk = nn.Sequential(*blocks)
        self.token_norm = nn.LayerNorm(width)
        self.trunk_norm = nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.adaptive_norm = nn.LayerNorm(width, elementwise_affine=False, eps=ADAPTIVE_EPS)
        self.pose_branch = PoseBranch(width)

    def forward(self, tokens: Float[Tensor, "b s c"]) -> list[Float[Tensor, "b s 9"]]:
        """Return the encodings after every round; tokens: the camera tokens of the last layer."""
        tokens = self.token_norm(tokens)
        known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        total = torch.zeros_like(known)
        found = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            modulated = gate * (self.adaptive_norm(tokens) * (1 + scale) + shift) + tokens
            total = total + self.pose_branch(self.trunk_norm(self.trunk(modulated)))
            known = total.detach()  # later rounds see the estimate as a constant, as in training
            found.append(torch.cat([total[..., :7], total[..., 7:].relu()], dim=-1))
        return found
