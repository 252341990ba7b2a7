"""UP-LVSM: no poses; a latent camera is estimated from each target image (arXiv 2506.09885, specs/uplvsm.md 3).

With `model.cameras=prope` or `both` the same idea on relative cameras: every camera but the first context view's is
estimated from its picture and the first one's, and Efficient-LVSM renders from them (specs/prope.md)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.poses import encoding_to_c2w
from novelview.cameras.relative import camray
from novelview.config.models import LVSMEfficientConfig, UPLVSMConfig
from novelview.devices import full_precision
from novelview.models.dinov2 import DinoMlp, image_tokenizer
from novelview.models.layers import BASE_STD, Block, image_token_decoder, init_linears, patch_tokenizer, run_blocks
from novelview.models.lvsm_efficient import EfficientLVSM, Memory
from novelview.models.render import EncoderDecoder, Images, Lenses, Poses, Render, Tokens, ViewModel
from novelview.scenes.batch import Views

MIN_LENGTH = 1e-3  # a quaternion is divided by max(length, this), as the reference does


def _pose_head(d: int, outputs: int, std: float) -> DinoMlp:
    head = DinoMlp(d, d // 2, outputs)
    init_linears(head, std)
    return head


class PoseEstimator(nn.Module):
    """Estimates the camera of an image in the frame of the tokens it is compared with."""

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

    Attribute and parameter names are those of the published checkpoints. With `model.free_code` the seven numbers are
    added to the target's tokens instead, and no camera is made of them: a control that may carry anything."""

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
        self.code_tokenizer = nn.Linear(7, d) if cfg.free_code else None

    def forward(self, context: Views, target: Views) -> Render:
        """Render target views [b v]: poses are never read; target images feed the pose estimator alone."""
        images, latents = self.checked(target, "target"), self.encode(context)
        encoding = self.estimate(latents, images)
        c2w = self.as_camera(encoding)
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
        return self.as_camera(self.estimate(self.encode(context), images))

    def as_camera(self, encoding: Float[Tensor, "b v 7"]) -> Poses:
        """Return the camera of an encoding; a free code's numbers travel where a camera's would."""
        if self.code_tokenizer is None:
            return encoding_to_c2w(encoding)
        return torch.nn.functional.pad(encoding, (0, 9)).unflatten(-1, (4, 4))

    def queries(self, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, "n 4"], size: tuple[int, int]) -> Tokens:
        """Return a target's tokens: its rays, or of a free code the rays of no pose and the code."""
        if self.code_tokenizer is None:
            return super().queries(c2w, intrinsics, size)
        code = self.code_tokenizer(c2w.flatten(1)[:, :7].to(self.code_tokenizer.weight.dtype))
        return self.target_pose_tokenizer(camray(intrinsics, *size)) + code[:, None]


class RelativeUPLVSM(ViewModel):
    """Unposed like UP-LVSM, its cameras used as Efficient-LVSM uses given ones; nothing about them is supervised.

    The first context view's camera is the identity. What a camera is lies in the matrices of all attention, so that it
    can be none but a rigid motion."""

    needs_context_poses = False
    needs_target_poses = False
    needs_target_images = True

    def __init__(self, cfg: UPLVSMConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size, self.relative = cfg, cfg.patch_size, cfg.cameras
        self.image_tokenizer = image_tokenizer(cfg.dino)
        self.first_view = nn.Parameter(torch.zeros(cfg.transformer.d))
        self.estimator = PoseEstimator(cfg)
        node = LVSMEfficientConfig(patch_size=cfg.patch_size, transformer=cfg.transformer, n_layer=cfg.decoder_n_layer)
        self.renderer = EfficientLVSM(replace(node, cameras=cfg.cameras))

    def forward(self, context: Views, target: Views) -> Render:
        """Render target views [b v]: poses are never read; target images feed the pose estimator alone."""
        images = self.checked(target, "target")
        encoding = self.estimate(context, images)
        c2w = encoding_to_c2w(encoding)
        render = self.decode(self.encode(context), c2w, target.intrinsics, *images.shape[-2:])
        return Render(render, {"pose_enc": encoding, "pose_c2w": c2w})

    def estimate(self, context: Views, images: Images) -> Float[Tensor, "b v 7"]:
        """Return the camera (translation, quaternion ijkr) of each image relative to the first context view's."""
        first = self.image_tokenizer(self.checked(context)[:, 0]) + self.first_view
        tokens = self.image_tokenizer(images.flatten(0, 1))
        known = first.repeat_interleave(images.shape[1], dim=0)
        return self.estimator(tokens, known, self.activation_checkpointing).unflatten(0, images.shape[:2])

    def estimate_poses(self, context: Views, images: Images) -> Poses:
        """Return camera-to-world matrices of images in the frame of the first context view."""
        return encoding_to_c2w(self.estimate(context, images))

    def encode(self, context: Views) -> Memory:
        """Return what targets read of the context views, which lie where their pictures say."""
        images = self.checked(context)
        c2w = torch.eye(4).to(context.intrinsics).expand(len(images), 1, 4, 4)
        if images.shape[1] > 1:
            c2w = torch.cat([c2w, self.estimate_poses(context, images[:, 1:]).to(c2w.dtype)], dim=1)
        self.renderer.activation_checkpointing = self.activation_checkpointing
        return self.renderer.encode(replace(context, c2w=c2w))

    def decode(self, scene: Memory, c2w: Poses, intrinsics: Lenses, height: int, width: int) -> Images:
        """Render cameras in the frame of the first context view, none of which sees another."""
        return self.renderer.decode(scene, c2w, intrinsics, height, width)


def build(cfg: UPLVSMConfig) -> UPLVSM | RelativeUPLVSM:
    """Build the published model, or with relative cameras the other one."""
    return UPLVSM(cfg) if cfg.cameras == "plucker" else RelativeUPLVSM(cfg)
