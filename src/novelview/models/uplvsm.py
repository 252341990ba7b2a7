"""UP-LVSM: no poses; a latent camera is estimated from each target image (arXiv 2506.09885, specs/uplvsm.md 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.poses import encoding_to_c2w
from novelview.config.models import UPLVSMConfig
from novelview.devices import full_precision
from novelview.models.dinov2 import DinoMlp, image_tokenizer
from novelview.models.layers import BASE_STD, Block, image_token_decoder, init_linears, patch_tokenizer, run_blocks
from novelview.models.render import EncoderDecoder, Images, Poses, Render, Tokens
from novelview.scenes.batch import Views

MIN_LENGTH = 1e-3  # a quaternion is divided by max(length, this), as the reference does


def _pose_head(d: int, outputs: int, std: float) -> DinoMlp:
    head = DinoMlp(d, d // 2, outputs)
    init_linears(head, std)
    return head


class PoseEstimator(nn.Module):
    """Estimates the camera of an image in the frame of the scene's latents."""

    def __init__(self, cfg: UPLVSMConfig) -> None:
        super().__init__()
        transformer = cfg.transformer
        self.transformer_estimator = nn.ModuleList([Block(transformer) for _ in range(cfg.estimator_n_layer)])
        init_linears(self.transformer_estimator, BASE_STD * transformer.init_gain)
        self.absT_head, self.quaR_head = (_pose_head(transformer.d, count, cfg.pose_head_std) for count in (3, 4))
        if cfg.pose_identity_bias:
            with torch.no_grad():
                self.quaR_head.fc2.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))

    def forward(
        self, tokens: Float[Tensor, "b n d"], latents: Float[Tensor, "b m d"], recompute: bool
    ) -> Float[Tensor, "b 7"]:
        """Return (translation, unit quaternion ijkr) from the tokens of one image a scene and the scene's latents."""
        x = run_blocks(self.transformer_estimator, torch.cat([tokens, latents], dim=1), recompute)
        # Full precision also under autocast: a camera rounded to bfloat16 is off by more than a pixel.
        with full_precision(x):
            pooled = x[:, : tokens.shape[1]].mean(dim=1).to(self.absT_head.fc1.weight.dtype)
            translation, quaternion = self.absT_head(pooled), self.quaR_head(pooled)
            length = quaternion.norm(dim=-1, keepdim=True).clamp(min=MIN_LENGTH)
            return torch.cat([translation, quaternion / length], dim=-1)


class UPLVSM(EncoderDecoder):
    """Renders target views from unposed context views and a 7-number camera estimated from each target image.

    Attribute and parameter names are those of the published checkpoints."""

    needs_context_poses = False
    needs_target_poses = False
    needs_target_images = True

    def __init__(self, cfg: UPLVSMConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        d, gain = cfg.transformer.d, cfg.transformer.init_gain
        self.build_latents(cfg)
        self.image_tokenizer = image_tokenizer(cfg.dino)
        self.target_pose_tokenizer = patch_tokenizer(d, cfg.patch_size, gain)
        self.canonical_pose_tokenizer = self.target_pose_tokenizer
        if not cfg.decoder_as_canonical:
            self.canonical_pose_tokenizer = patch_tokenizer(d, cfg.patch_size, gain)
        self.image_token_decoder = image_token_decoder(d, cfg.patch_size, gain)
        self.build_stacks(cfg)
        self.estimator = PoseEstimator(cfg)

    def forward(self, context: Views, target: Views) -> Render:
        """Render target views [b v]: poses are never read; target images feed the pose estimator alone."""
        images, latents = self.checked(target, "target"), self.encode(context)
        encoding = self.estimate(latents, images)
        c2w = encoding_to_c2w(encoding)
        render = self.decode(latents, c2w, target.intrinsics, *images.shape[-2:])
        return Render(render, {"pose_enc": encoding, "pose_c2w": c2w, "latents": latents})

    def context_tokens(self, context: Views) -> Tokens:
        """Return the image tokens of all context views, the first one marked as the canonical one."""
        identity = torch.eye(4).to(context.intrinsics).expand(len(context.intrinsics), 4, 4)
        return self.marked_tokens(context, identity)

    def estimate(self, latents: Tokens, images: Images) -> Float[Tensor, "b v 7"]:
        """Return the camera (translation, quaternion ijkr) of each image, every one estimated on its own."""
        tokens = self.image_tokenizer(images.flatten(0, 1))
        scenes = latents.repeat_interleave(images.shape[1], dim=0)
        return self.estimator(tokens, scenes, self.activation_checkpointing).unflatten(0, images.shape[:2])

    def estimate_poses(self, context: Views, images: Images) -> Poses:
        """Return camera-to-world matrices of images in the model's own frame of the scene."""
        return encoding_to_c2w(self.estimate(self.encode(context), images))
