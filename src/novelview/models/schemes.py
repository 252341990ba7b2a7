"""What systems of the LVSM family share: posed targets, one stack over everything, latents between two stacks."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.models.layers import Block, run_blocks
from novelview.models.render import Render, TokenModel, ViewModel
from novelview.scenes.batch import Views


class PosedTargets(ViewModel):
    """Models that are given the target cameras and render them without ever seeing a target image."""

    needs_context_poses = True
    needs_target_poses = True
    needs_target_images = False

    def forward(self, context: Views, target: Views) -> Render:
        """Render the target cameras [b v] from context images [b c 3 h w] and context cameras, at the context's size.

        Raises DataError without images or poses, or when image sides are no multiple of the patch.
        """
        height, width = self.checked(context).shape[-2:]
        c2w = self.cameras(context, self.posed(target, "target"))
        return Render(self.decode(self.encode(context), c2w, target.intrinsics, height, width))


class DecoderOnly(TokenModel):
    """One stack over [scene tokens; camera tokens], everything attending to everything."""

    transformer_blocks: nn.ModuleList
    transformer_input_layernorm: nn.Module

    def answer(self, queries: Float[Tensor, "n t d"], scene: Float[Tensor, "n m d"]) -> Float[Tensor, "n t d"]:
        """Run the stack on [scene tokens; camera tokens] and return the latter."""
        x = self.transformer_input_layernorm(torch.cat([scene, queries], dim=1))
        return run_blocks(self.transformer_blocks, x, self.activation_checkpointing)[:, scene.shape[1] :]


class EncoderDecoder(TokenModel):
    """A stack that gathers the context views in learnt latents, and one that answers cameras from the latents."""

    n_light_field_latent: nn.Parameter
    transformer_encoder: nn.ModuleList
    transformer_decoder: nn.ModuleList
    transformer_input_layernorm_decoder: nn.Module

    @abstractmethod
    def context_tokens(self, context: Views) -> Float[Tensor, "b n d"]:
        """Return the tokens of all context views in turn."""

    def encoder_input(self, context: Views) -> Float[Tensor, "b n d"]:
        """Return the encoder's sequence: learnt latents, then the tokens of every context view."""
        tokens = self.context_tokens(context)
        return torch.cat([self.n_light_field_latent.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)

    def encode(self, context: Views) -> Float[Tensor, "b m d"]:
        """Return the scene's latents."""
        x = run_blocks(self.transformer_encoder, self.encoder_input(context), self.activation_checkpointing)
        return x[:, : len(self.n_light_field_latent)]

    def answer(self, queries: Float[Tensor, "n t d"], scene: Float[Tensor, "n m d"]) -> Float[Tensor, "n t d"]:
        """Run the decoder on [camera tokens; latents] and return the former."""
        x = self.transformer_input_layernorm_decoder(torch.cat([queries, scene], dim=1))
        return run_blocks(self.transformer_decoder, x, self.activation_checkpointing)[:, : queries.shape[1]]

    @torch.no_grad()
    def attention_map(self, context: Views) -> Float[Tensor, "b n n"]:
        """Return the last encoder layer's attention among image tokens: rows query, columns attended.

        Averaged over heads; the latents' columns are cut off and rows not normalised again (specs/uplvsm.md, 11).
        """
        x = self.encoder_input(context)
        *before, last = self.transformer_encoder
        x = run_blocks(before, x, False)
        assert isinstance(last, Block)
        first = len(self.n_light_field_latent)
        return last.attn.weights(last.norm1(x))[:, first:, first:]
