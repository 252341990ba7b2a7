"""PT-LVSM: posed targets; of the context views only the first has a pose (arXiv 2506.09885, specs/uplvsm.md 4)."""

import torch
from torch import nn

from novelview.cameras.poses import canonicalise
from novelview.config.models import PTLVSMConfig
from novelview.models.dinov2 import image_tokenizer
from novelview.models.layers import image_token_decoder, make_blocks, patch_tokenizer
from novelview.models.render import DecoderOnly, PosedTargets, Poses, Tokens
from novelview.scenes.batch import Views


class PTLVSM(PosedTargets, DecoderOnly):
    """Renders known target cameras from views of which only the first one's camera is known.

    Attribute and parameter names are those of the published checkpoints."""

    def __init__(self, cfg: PTLVSMConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        d, gain = cfg.transformer.d, cfg.transformer.init_gain
        self.image_tokenizer = image_tokenizer(cfg.dino)
        self.target_pose_tokenizer = patch_tokenizer(d, cfg.patch_size, gain)
        self.canonical_pose_tokenizer = patch_tokenizer(d, cfg.patch_size, gain)
        self.image_token_decoder = image_token_decoder(d, cfg.patch_size, gain)
        self.transformer_blocks = make_blocks(cfg.transformer, cfg.n_layer)
        self.transformer_input_layernorm = nn.LayerNorm(d, bias=False)

    def cameras(self, context: Views, c2w: Poses) -> Poses:
        """Express cameras relative to context view 0 with `canonical_camera`, else leave them as they are."""
        first = self.posed(context, "context")[:, :1]
        return canonicalise(torch.cat([first, c2w], dim=1))[:, 1:] if self.cfg.canonical_camera else c2w

    def encode(self, context: Views) -> Tokens:
        """Return the image tokens of all context views, the first one's marked with its camera."""
        return self.marked_tokens(context, self.cameras(context, self.posed(context, "context")[:, :1])[:, 0])
