"""VGGT as one module under the published key names (specs/vggt.md section 1), and its published weights.

The backbone lets patches of all frames attend within a frame and over all frames in turn; its blocks are those of
DINOv2 with LayerNorm on q and k and rotary positions of two axes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from novelview.config.sources import VGGTConfig
from novelview.devices import full_precision
from novelview.errors import CheckpointError, DataError
from novelview.models.dinov2 import DinoAttention, DinoBlock, DinoMlp, DinoVisionTransformer, imagenet_normalised
from novelview.models.dpt import VggtDPT
from novelview.models.layers import attend, check_size, split_heads
from novelview.models.published import match_keys, read_state

FRAMES_AT_ONCE = 8  # of what works frame by frame: patch embedding and dense heads
Rotation = tuple[Tensor, Tensor]
LEFT_OUT = "track_head."  # follows points given to it; cameras, depth and point maps do without

ENCODING = 9  # translation 3, quaternion 4 (scalar last), vertical and horizontal field of view
ADAPTIVE_EPS = 1e-6
NORM_EPS = 1e-5


def rotation(positions: Int[Tensor, "t 2"], width: int, frequency: float) -> Rotation:
    """Return cosines and sines [t width] of rotary embeddings: rows turn a head's first half, columns the second."""
    quarter = width // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    angles = positions[:, :, None].float() * frequency**-exponents
    # Each half of a head holds pairs (i, i + quarter) that turn by the same angle.
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return angles.cos(), angles.sin()


def turn(x: Float[Tensor, "b heads t k"], by: Rotation) -> Float[Tensor, "b heads t k"]:
    """Rotate queries or keys by their positions."""
    one, two = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    crossed = torch.stack([-two, one], dim=-2).flatten(-3)
    cosine, sine = (table.to(x.dtype) for table in by)
    return x * cosine + crossed * sine


class VggtAttention(DinoAttention):
    """Self-attention with biases; in the aggregator with LayerNorm on q and k and rotary positions."""

    def forward(self, x: Float[Tensor, "b t d"], by: Rotation | None = None) -> Float[Tensor, "b t d"]:
        q, k, v = split_heads(self.qkv(x), self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if by is not None:
            q, k = turn(q, by), turn(k, by)
        return self.proj(attend(q, k, v))


def _block(width: int, heads: int, init_values: float, norm: Callable[[int], nn.Module]) -> DinoBlock:
    return DinoBlock(VggtAttention(width, heads, norm), width, 4 * width, init_values, NORM_EPS)


class Aggregator(nn.Module):
    """Tokens of every frame: one for its camera, registers, patches; the first two kinds differ in the first frame."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.special = 1 + cfg.num_register_tokens  # tokens before a frame's patches
        self.patch_embed = DinoVisionTransformer(cfg.patch_vit)
        # Among the public weights of DINOv2; inference never reads it.
        self.patch_embed.mask_token = nn.Parameter(torch.zeros(1, cfg.patch_vit.embed_dim))
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, cfg.embed_dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, cfg.num_register_tokens, cfg.embed_dim) * 1e-6)
        shape = (cfg.embed_dim, cfg.num_heads, cfg.init_values, nn.LayerNorm)
        self.frame_blocks = nn.ModuleList([_block(*shape) for _ in range(cfg.depth)])
        self.global_blocks = nn.ModuleList([_block(*shape) for _ in range(cfg.depth)])

    def forward(
        self, images: Float[Tensor, "b s 3 h w"], layers: set[int], chunk: int
    ) -> dict[int, Float[Tensor, "b s t c"]]:
        """Return the outputs of chosen layers: attention within frames beside attention over all of them.

        t: camera, registers, patches. images: in [0,1]. chunk: frames that pass the patch embedding at a time."""
        batch, frames = images.shape[:2]
        parts = [self.patch_embed(imagenet_normalised(part)) for part in images.flatten(0, 1).split(chunk)]
        first, others = torch.cat([self.camera_token, self.register_token], dim=2).unbind(1)
        special = torch.stack([first, *[others] * (frames - 1)], dim=1).expand(batch, -1, -1, -1)
        x = torch.cat([special, torch.cat(parts).unflatten(0, (batch, frames))], dim=2)
        # Rows and columns count from 1; the tokens before the patches are at (0, 0).
        sides = (torch.arange(1, side // self.cfg.patch_vit.patch_size + 1) for side in images.shape[-2:])
        grid = torch.cartesian_prod(*sides).to(x.device)
        positions = torch.cat([grid.new_zeros(self.special, 2), grid])
        width = self.cfg.embed_dim // self.cfg.num_heads
        within = rotation(positions, width, self.cfg.rope_frequency)
        over = rotation(positions.repeat(frames, 1), width, self.cfg.rope_frequency)
        kept = {}
        for layer, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            own = frame_block(x.flatten(0, 1), within).view_as(x)
            x = global_block(own.flatten(1, 2), over).view_as(x)
            if layer in layers:
                kept[layer] = torch.cat([own, x], dim=-1)
        return kept


class CameraHead(nn.Module):
    """Rounds of: modulate the tokens by the estimate so far, let all frames attend, add a change to the estimate."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        own, width = cfg.camera_head, 2 * cfg.embed_dim
        self.iterations = own.num_iterations
        blocks = [_block(width, own.num_heads, cfg.init_values, nn.Identity) for _ in range(own.trunk_depth)]
        self.trunk = nn.Sequential(*blocks)
        self.token_norm, self.trunk_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.adaptive_norm = nn.LayerNorm(width, elementwise_affine=False, eps=ADAPTIVE_EPS)
        self.pose_branch = DinoMlp(width, width // 2, ENCODING)

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


class Prediction(TypedDict):
    """What VGGT says of b scenes of s frames, each scene on a scale of its own; confidences are 1 or more.

    pose_enc: translation and quaternion (scalar last) of world-to-camera, OpenCV axes, and the vertical and horizontal
    field of view in radians. depth: along z. world_points: in the first frame's camera, which is about the world."""

    pose_enc: Float[Tensor, "b s 9"]
    depth: Float[Tensor, "b s h w 1"]
    depth_conf: Float[Tensor, "b s h w"]
    world_points: Float[Tensor, "b s h w 3"]
    world_points_conf: Float[Tensor, "b s h w"]


class VGGT(nn.Module):
    """Cameras, depth and point maps of frames of one scene; the track head of the published weights is left out."""

    def __init__(self, cfg: VGGTConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg or VGGTConfig()
        self.aggregator = Aggregator(self.cfg)
        self.camera_head = CameraHead(self.cfg)
        sizes = (2 * self.cfg.embed_dim, self.cfg.dpt.out_channels, self.cfg.dpt.features)
        # Coordinates of any size out of moderate numbers, sign(x) (exp |x| - 1).
        self.point_head = VggtDPT(*sizes, 4, self.cfg.patch_vit.patch_size, lambda x: x.sign() * x.abs().expm1())
        self.depth_head = VggtDPT(*sizes, 2, self.cfg.patch_vit.patch_size, torch.exp)

    def forward(self, images: Float[Tensor, "b s 3 h w"], chunk: int = FRAMES_AT_ONCE) -> Prediction:
        """Return everything that is predicted, all frames in one world; the heads run in float32 also under autocast.

        images: RGB in [0,1], both sides multiples of the patch. chunk: frames that pass patch embedding and dense
        heads at a time, which bounds memory alone. Raises DataError for images of another size or shape."""
        if images.dim() != 5 or images.shape[2] != 3 or not images.shape[1]:
            raise DataError(f"VGGT takes images [scenes, frames, 3, height, width], got {list(images.shape)}")
        check_size(images.shape[-2], images.shape[-1], self.cfg.patch_vit.patch_size)
        read, last = self.cfg.dpt.intermediate_layer_idx, self.cfg.depth - 1
        layers = self.aggregator(images, {*read, last}, chunk)
        with full_precision(images):
            layers = {number: x.float() for number, x in layers.items()}
            patches = [layers[number][:, :, self.aggregator.special :].flatten(0, 1) for number in read]
            found = {"pose_enc": self.camera_head(layers[last][:, :, 0])[-1]}
            for name, head in (("depth", self.depth_head), ("world_points", self.point_head)):
                parts = zip(*(x.split(chunk) for x in patches), strict=True)
                values, confidences = zip(*(head(part, *images.shape[-2:]) for part in parts), strict=True)
                found[name] = torch.cat(values).unflatten(0, images.shape[:2])
                found[f"{name}_conf"] = torch.cat(confidences).unflatten(0, images.shape[:2])
        return cast(Prediction, found)


def load_vggt(path: Path | str, cfg: VGGTConfig | None = None) -> VGGT:
    """Return VGGT with the weights of a file (`model.safetensors` or `model.pt` of facebook/VGGT-1B), for inference.

    Raises CheckpointError, one line, for a missing or damaged file and for weights that do not fit."""
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path}: the weights of VGGT are not here; fetch them with `python -m novelview.stages.fetch vggt` "
            "(5.0 GB, licence of their own)"
        )
    state = {key: value.float() for key, value in read_state(path).items() if not key.startswith(LEFT_OUT)}
    with torch.device("meta"):
        model = VGGT(cfg)
    match_keys(path, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def inference_bytes(cfg: VGGTConfig, frames: int, height: int, width: int, chunk: int = FRAMES_AT_ONCE) -> int:
    """Return about how many bytes a pass in float32 needs beside the weights: an estimate, for choosing `frames`.

    Three parts: the layers kept for the heads; a block at work on all tokens (residual, q k v, hidden of the MLP,
    without a stored score matrix); and the dense head's maps, `chunk` frames at a time."""
    tokens = frames * (1 + cfg.num_register_tokens + (height // 14) * (width // 14))
    kept = len({*cfg.dpt.intermediate_layer_idx, cfg.depth - 1}) * 2 * cfg.embed_dim
    working = 10 * cfg.embed_dim
    maps = min(chunk, frames) * height * width * (cfg.dpt.features // 2 * 2 + 3 * 32)
    return 4 * (tokens * (kept + working) + maps)
