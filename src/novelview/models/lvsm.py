"""LVSM: posed context views, posed targets, decoder-only and encoder-decoder (arXiv 2410.17242, specs/lvsm.md)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.cameras.relative import camera_rays
from novelview.config.models import LVSMConfig, LVSMDecoderOnlyConfig, LVSMEncoderDecoderConfig
from novelview.models.layers import image_token_decoder, make_blocks, patch_tokenizer
from novelview.models.render import DecoderOnly, EncoderDecoder, PosedTargets, PosedTokens, Tokens
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
        size = (images.shape[-2], images.shape[-1])
        rays = camera_rays(self.relative, self.posed(context, "context"), context.intrinsics, size)
        return torch.cat([2 * images - 1, rays], dim=2)

    def context_tokens(self, context: Views) -> Tokens:
        """Return the tokens of all posed context views in turn."""
        posed = self.posed_images(context)
        return self.image_tokenizer(posed.flatten(0, 1)).unflatten(0, posed.shape[:2]).flatten(1, 2)


class LVSMDecoderOnly(LVSM, DecoderOnly):
    """Every target camera in a sequence with all context tokens (specs/lvsm.md section 4).

    Context tokens attend to the target's, so only their embedding, not their processing, is shared between targets.
    `model.cameras`: `plucker` puts rays in the tokens, as published; `prope` puts relative matrices in every attention
    and the camera's own rays in the tokens; `both` (specs/prope.md)."""

    def __init__(self, cfg: LVSMDecoderOnlyConfig) -> None:
        super().__init__(cfg)
        self.cfg, self.relative = cfg, cfg.cameras
        self.transformer_blocks = make_blocks(cfg.transformer, cfg.n_layer)
        self.transformer_input_layernorm = nn.LayerNorm(cfg.transformer.d, bias=False)

    def encode(self, context: Views) -> Tokens | PosedTokens:
        """Return the tokens of the posed context views, with relative cameras beside their cameras."""
        tokens = self.context_tokens(context)
        return tokens if self.relative == "plucker" else PosedTokens(tokens, context.c2w, context.intrinsics)


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
