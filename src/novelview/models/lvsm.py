"""LVSM: posed context views, posed targets, decoder-only and encoder-decoder (arXiv 2410.17242, specs/lvsm.md)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.camera import plucker
from novelview.config.models import LVSMConfig, LVSMDecoderOnlyConfig, LVSMEncoderDecoderConfig
from novelview.models.layers import image_token_decoder, make_blocks, patch_tokenizer
from novelview.models.render import DecoderOnly, EncoderDecoder, PosedTargets, Tokens
from novelview.scenes.batch import Views


class LVSM(PosedTargets):
    """What both variants share: tokens of posed images, tokens of cameras, the head (specs/lvsm.md section 3).

    Any number of context views and targets, any image size whose sides are multiples of the patch. Attribute and
    parameter names are those of the published checkpoints."""

    def __init__(self, cfg: LVSMConfig) -> None:
        super().__init__()
        self.patch_size = cfg.patch_size
        d, gain = cfg.transformer.d, cfg.transformer.init_gain
        self.image_tokenizer = patch_tokenizer(d, cfg.patch_size, gain, channels=9)
        self.target_pose_tokenizer = patch_tokenizer(d, cfg.patch_size, gain)
        self.image_token_decoder = image_token_decoder(d, cfg.patch_size, gain)

    def posed_images(self, context: Views) -> Float[Tensor, "b v 9 h w"]:
        """Return colours in [-1,1] and the Plücker coordinates of every pixel's ray, channels in this order."""
        images = self.checked(context)
        rays = plucker(self.posed(context, "context"), context.intrinsics, *images.shape[-2:])
        return torch.cat([2 * images - 1, rays], dim=2)

    def context_tokens(self, context: Views) -> Tokens:
        """Return the tokens of all posed context views in turn."""
        posed = self.posed_images(context)
        return self.image_tokenizer(posed.flatten(0, 1)).unflatten(0, posed.shape[:2]).flatten(1, 2)


class LVSMDecoderOnly(LVSM, DecoderOnly):
    """Every target camera in a sequence with all context tokens (specs/lvsm.md section 4).

    Context tokens attend to the target's, so only their embedding, not their processing, is shared between targets."""

    def __init__(self, cfg: LVSMDecoderOnlyConfig) -> None:
        super().__init__(cfg)
        self.cfg = cfg
        self.transformer_blocks = make_blocks(cfg.transformer, cfg.n_layer)
        self.transformer_input_layernorm = nn.LayerNorm(cfg.transformer.d, bias=False)

    encode = LVSM.context_tokens


class LVSMEncoderDecoder(LVSM, EncoderDecoder):
    """The context views gathered once in latents, every target camera answered from them (specs/lvsm.md section 5)."""

    def __init__(self, cfg: LVSMEncoderDecoderConfig) -> None:
        super().__init__(cfg)
        self.cfg = cfg
        self.build_latents(cfg)
        self.build_stacks(cfg)
        if cfg.decoder_init_last_only:
            for layer in self.transformer_decoder[:-1].modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()  # PyTorch's own initial values
