"""LVSM: posed context views, posed targets, decoder-only and encoder-decoder (arXiv 2410.17242, specs/lvsm.md)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.camera import plucker
from novelview.config.models import LVSMConfig, LVSMDecoderOnlyConfig, LVSMEncoderDecoderConfig
from novelview.models.layers import BASE_STD, image_token_decoder, make_blocks, patch_tokenizer, pose_tokenizer
from novelview.models.render import DecoderOnly, EncoderDecoder, PosedTargets
from novelview.scenes.batch import Views


class LVSM(PosedTargets):
    """What both variants share: tokens of posed images, tokens of cameras, the head (specs/lvsm.md section 3).

    Any number of context views and targets, any image size whose sides are multiples of the patch. Attribute and
    parameter names are those of the published checkpoints.
    """

    def __init__(self, cfg: LVSMConfig) -> None:
        super().__init__()
        self.patch_size = cfg.patch_size
        d, gain = cfg.transformer.d, cfg.transformer.init_gain
        self.image_tokenizer = patch_tokenizer(9, d, cfg.patch_size, gain)
        self.target_pose_tokenizer = pose_tokenizer(d, cfg.patch_size, gain)
        self.image_token_decoder = image_token_decoder(d, cfg.patch_size, gain)

    def posed_images(self, context: Views) -> Float[Tensor, "b v 9 h w"]:
        """Return colours in [-1,1] and the Plücker coordinates of every pixel's ray, channels in this order."""
        images = self.checked(context)
        rays = plucker(self.posed(context, "context"), context.intrinsics, *images.shape[-2:])
        return torch.cat([2 * images - 1, rays], dim=2)

    def context_tokens(self, context: Views) -> Float[Tensor, "b n d"]:
        """Return the tokens of all posed context views in turn."""
        posed = self.posed_images(context)
        return self.image_tokenizer(posed.flatten(0, 1)).unflatten(0, posed.shape[:2]).flatten(1, 2)


class LVSMDecoderOnly(LVSM, DecoderOnly):
    """Every target camera in a sequence with all context tokens (specs/lvsm.md section 4).

    Context tokens attend to the target's, so only their embedding, not their processing, is shared between targets.
    """

    def __init__(self, cfg: LVSMDecoderOnlyConfig) -> None:
        super().__init__(cfg)
        self.cfg = cfg
        self.transformer_blocks = make_blocks(cfg.transformer, cfg.n_layer)
        self.transformer_input_layernorm = nn.LayerNorm(cfg.transformer.d, bias=False)

    def encode(self, context: Views) -> Float[Tensor, "b n d"]:
        """Return the tokens of all context views."""
        return self.context_tokens(context)


class LVSMEncoderDecoder(LVSM, EncoderDecoder):
    """The context views gathered once in latents, every target camera answered from them (specs/lvsm.md section 5)."""

    def __init__(self, cfg: LVSMEncoderDecoderConfig) -> None:
        super().__init__(cfg)
        self.cfg = cfg
        self.n_light_field_latent = nn.Parameter(torch.empty(cfg.n_latent_vectors, cfg.transformer.d))
        nn.init.trunc_normal_(self.n_light_field_latent, std=BASE_STD)
        self.transformer_encoder = make_blocks(cfg.transformer, cfg.encoder_n_layer)
        self.transformer_decoder = make_blocks(cfg.transformer, cfg.decoder_n_layer)
        if cfg.decoder_init_last_only:
            for layer in self.transformer_decoder[:-1].modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()  # PyTorch's own initial values
        self.transformer_input_layernorm_decoder = nn.LayerNorm(cfg.transformer.d, bias=False)
