"""What a model returns, and what models share: encode a scene once, decode any number of cameras from it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.camera import plucker
from novelview.cameras.relative import RelativeCameras, camera_rays, relative_cameras
from novelview.config.models import LVSMEncoderDecoderConfig, UPLVSMConfig
from novelview.errors import DataError
from novelview.models.layers import BASE_STD, Block, check_size, make_blocks, run_blocks, unpatchify
from novelview.scenes.batch import Views

Poses = Float[Tensor, "b v 4 4"]  # camera to world, OpenCV
Lenses = Float[Tensor, "b v 4"]  # fx fy cx cy in pixels
Images = Float[Tensor, "b v 3 h w"]  # RGB in [0,1]
Tokens = Float[Tensor, "b n d"]


class PosedTokens(NamedTuple):
    """Scene tokens of context views in turn, with the cameras they are of: for attention between relative cameras."""

    tokens: Tokens
    c2w: Poses
    intrinsics: Lenses

    def beside(
        self, c2w: Float[Tensor, "n 4 4"], lens: Float[Tensor, "n 4"], size: tuple[int, int], patch: int, d_head: int
    ) -> RelativeCameras:
        """Return the transforms of sequences of all context cameras and one target's."""
        views = len(c2w) // len(self.c2w)
        cameras = torch.cat([self.c2w.repeat_interleave(views, dim=0), c2w[:, None]], dim=1)
        lenses = torch.cat([self.intrinsics.repeat_interleave(views, dim=0), lens[:, None]], dim=1)
        return relative_cameras(cameras, lenses, size, patch, d_head)


@dataclass
class Render:
    """images: [b v 3 h w] in [0,1], one a target view; extras: named intermediate tensors of the model."""

    images: Images
    extras: dict[str, Tensor] = field(default_factory=dict)


class ViewModel(nn.Module, ABC):
    """Base of models that encode context views into a scene (of any type) and decode each target camera on its own."""

    needs_context_poses: bool
    needs_target_poses: bool
    needs_target_images: bool
    activation_checkpointing = False
    patch_size: int
    relative: str = "plucker"  # `model.cameras`: plucker, rays in the world, or prope or both

    @property
    def needs_cameras(self) -> bool:
        return self.needs_context_poses or self.needs_target_poses

    @abstractmethod
    def encode(self, context: Views) -> Any:
        """Return the scene."""

    @abstractmethod
    def decode(self, scene: Any, c2w: Poses, intrinsics: Lenses, height: int, width: int) -> Images:
        """Render cameras of an encoded scene, none of which sees another."""

    def cameras(self, context: Views, c2w: Poses) -> Poses:
        """Express cameras in the frame `decode` takes them in: by default the one they come in."""
        return c2w

    def render_path(self, context: Views, c2w: Poses, intrinsics: Lenses, chunk: int = 4) -> Images:
        """Render cameras at the context's image size, the scene encoded once and `chunk` cameras decoded at a time.

        c2w lives in the frame of the context's cameras for a posed model, in that of the model's own estimates else."""
        height, width = self.checked(context).shape[-2:]
        scene, c2w = self.encode(context), self.cameras(context, c2w)
        legs = zip(c2w.split(chunk, dim=1), intrinsics.split(chunk, dim=1), strict=True)
        return torch.cat([self.decode(scene, poses, lenses, height, width) for poses, lenses in legs], dim=1)

    def checked(self, views: Views, what: str = "context") -> Images:
        """Return the images of views; raises DataError when there are none or their sides do not fit the patches."""
        name, images = type(self).__name__, views.images
        if images is None or images.shape[1] == 0:
            raise DataError(f"{name} needs {what} images, the batch has none")
        if images.shape[2] != 3:
            raise DataError(f"{name} needs RGB {what} images, the batch has {images.shape[2]} channels")
        check_size(images.shape[-2], images.shape[-1], self.patch_size)
        return images

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of a published checkpoint to this model's; most models have the published names."""
        return state

    def posed(self, views: Views, what: str) -> Poses:
        """Return the cameras of views; raises DataError when the batch has none."""
        if views.c2w is None:
            raise DataError(f"{type(self).__name__} needs the poses of {what} views, the batch has none")
        return views.c2w


class PosedTargets(ViewModel):
    """Models that are given the target cameras and render them without ever seeing a target image."""

    needs_context_poses = True
    needs_target_poses = True
    needs_target_images = False

    def forward(self, context: Views, target: Views) -> Render:
        """Render the target cameras at the context's size; raises what `checked` and `posed` raise."""
        height, width = self.checked(context).shape[-2:]
        c2w = self.cameras(context, self.posed(target, "target"))
        return Render(self.decode(self.encode(context), c2w, target.intrinsics, height, width))


class TokenModel(ViewModel):
    """Models whose scene is a sequence of tokens that a transformer attends to."""

    cfg: Any  # its configuration node
    image_tokenizer: nn.Module
    canonical_pose_tokenizer: nn.Module
    target_pose_tokenizer: nn.Module
    image_token_decoder: nn.Module

    @abstractmethod
    def answer(
        self, queries: Float[Tensor, "n t d"], scene: Float[Tensor, "n m d"], place: RelativeCameras | None
    ) -> Float[Tensor, "n t d"]:
        """Transform the camera tokens of one view a sequence by what the scene's tokens say."""

    def queries(self, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, "n 4"], size: tuple[int, int]) -> Tokens:
        """Return the tokens of target cameras."""
        return self.target_pose_tokenizer(camera_rays(self.relative, c2w, intrinsics, size))

    def decode(self, scene: Tokens | PosedTokens, c2w: Poses, intrinsics: Lenses, height: int, width: int) -> Images:
        """Render cameras of an encoded scene, each in a sequence of its own."""
        views, size = c2w.shape[1], (height, width)
        tokens = scene.tokens if isinstance(scene, PosedTokens) else scene
        c2w, intrinsics = c2w.flatten(0, 1), intrinsics.flatten(0, 1)
        place = None
        if isinstance(scene, PosedTokens):
            place = scene.beside(c2w, intrinsics, size, self.patch_size, self.cfg.transformer.d_head)
        tokens = self.answer(self.queries(c2w, intrinsics, size), tokens.repeat_interleave(views, dim=0), place)
        images = unpatchify(self.image_token_decoder(tokens), self.patch_size, height, width)
        return images.unflatten(0, (-1, views))

    def marked_tokens(self, context: Views, first: Float[Tensor, "b 4 4"]) -> Tokens:
        """Return the image tokens of all context views in turn, the first one's marked with the camera `first`."""
        images = self.checked(context)
        tokens = self.image_tokenizer(images.flatten(0, 1)).unflatten(0, (-1, images.shape[1]))
        marker = self.canonical_pose_tokenizer(plucker(first, context.intrinsics[:, 0], *images.shape[-2:]))
        return torch.cat([tokens[:, 0] + marker, tokens[:, 1:].flatten(1, 2)], dim=1)


class DecoderOnly(TokenModel):
    """One stack over [scene tokens; camera tokens], everything attending to everything."""

    transformer_blocks: nn.ModuleList
    transformer_input_layernorm: nn.Module

    def answer(
        self, queries: Float[Tensor, "n t d"], scene: Float[Tensor, "n m d"], place: RelativeCameras | None
    ) -> Float[Tensor, "n t d"]:
        """Run the stack on [scene tokens; camera tokens] and return the latter."""
        x = self.transformer_input_layernorm(torch.cat([scene, queries], dim=1))
        return run_blocks(self.transformer_blocks, x, self.activation_checkpointing, place)[:, scene.shape[1] :]


class EncoderDecoder(TokenModel):
    """A stack that gathers the context views in learnt latents, and one that answers cameras from the latents."""

    def build_latents(self, cfg: UPLVSMConfig | LVSMEncoderDecoderConfig) -> None:
        """Draw the learnt latents."""
        self.n_light_field_latent = nn.Parameter(torch.empty(cfg.n_latent_vectors, cfg.transformer.d))
        nn.init.trunc_normal_(self.n_light_field_latent, std=BASE_STD)

    def build_stacks(self, cfg: UPLVSMConfig | LVSMEncoderDecoderConfig) -> None:
        """Draw encoder and decoder, in this order."""
        self.transformer_encoder = make_blocks(cfg.transformer, cfg.encoder_n_layer)
        self.transformer_decoder = make_blocks(cfg.transformer, cfg.decoder_n_layer)
        self.transformer_input_layernorm_decoder = nn.LayerNorm(cfg.transformer.d, bias=False)

    @abstractmethod
    def context_tokens(self, context: Views) -> Tokens:
        """Return the tokens of all context views in turn."""

    def encoder_input(self, context: Views) -> Tokens:
        """Return the encoder's sequence: learnt latents, then the tokens of every context view."""
        tokens = self.context_tokens(context)
        return torch.cat([self.n_light_field_latent.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)

    def encode(self, context: Views) -> Tokens:
        """Return the scene's latents."""
        x = run_blocks(self.transformer_encoder, self.encoder_input(context), self.activation_checkpointing)
        return x[:, : len(self.n_light_field_latent)]

    def answer(
        self, queries: Float[Tensor, "n t d"], scene: Float[Tensor, "n m d"], place: RelativeCameras | None
    ) -> Float[Tensor, "n t d"]:
        """Run the decoder on [camera tokens; latents] and return the former."""
        x = self.transformer_input_layernorm_decoder(torch.cat([queries, scene], dim=1))
        return run_blocks(self.transformer_decoder, x, self.activation_checkpointing, place)[:, : queries.shape[1]]

    @torch.no_grad()
    def attention_map(self, context: Views) -> Float[Tensor, "b n n"]:
        """Return the last encoder layer's attention among image tokens: rows query, columns attended.

        Averaged over heads; the latents' columns are cut off and rows not normalised again (specs/uplvsm.md, 11)."""
        *before, last = self.transformer_encoder
        x = run_blocks(before, self.encoder_input(context), False)
        assert isinstance(last, Block)
        first = len(self.n_light_field_latent)
        return last.attn.weights(last.norm1(x))[:, first:, first:]
