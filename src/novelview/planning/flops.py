"""Floating-point operations and parameters of the models, from their configuration alone (2 per multiply-add).

Counted are convolutions, linear layers and attention, which is all but a per cent or two of a model's work. These are
formulas, held to PyTorch's own counter by the tests, because the counter has to run a model: some read values back, so
that they do not run on tensors without values, and planning does not wait for torch.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from novelview.config.schema import LossConfig, ViewsConfig, sides
from novelview.config.stages import TrainStage

# Channels in, channels out, and the shrinking of each side before it: convolutions of VGG-19 up to relu5_2.
VGG = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 2), (128, 256, 4), *[(256, 256, 4)] * 3]
VGG += [(256, 512, 8), *[(512, 512, 8)] * 3, *[(512, 512, 16)] * 2]
REGION = 14  # pixels a patch of DepthSplat's ViT; the image is resized to a multiple of it

Counter = Callable[[Any, int, int, int], float]


def block(tokens: float, d: int, attended: float | None = None) -> float:
    """Return the operations of a transformer block with an MLP of 4 d; attended: keys of a query, all by default."""
    return 24 * tokens * d**2 + 4 * tokens * (tokens if attended is None else attended) * d


def dino(cfg: Any, n: int, views: int) -> float:
    """Return the operations of the image tokenizer on `views` images of n patches."""
    tokens = n + 1 + cfg.num_register_tokens
    embedding = 2 * n * 3 * cfg.patch_size**2 * cfg.embed_dim
    return views * (cfg.depth * block(tokens, cfg.embed_dim) + embedding)


def uplvsm(cfg: Any, n: int, contexts: int, targets: int) -> float:
    """Return the operations of UP-LVSM for one scene (specs/uplvsm.md section 3)."""
    d, latents = cfg.transformer.d, cfg.n_latent_vectors
    decoding = (cfg.estimator_n_layer + cfg.decoder_n_layer) * block(n + latents, d)
    encoding = cfg.encoder_n_layer * block(contexts * n + latents, d)
    return dino(cfg.dino, n, contexts + targets) + encoding + targets * (decoding + _heads(cfg, n, 6))


def ptlvsm(cfg: Any, n: int, contexts: int, targets: int) -> float:
    """Return the operations of PT-LVSM for one scene (specs/uplvsm.md section 4)."""
    decoding = cfg.n_layer * block((contexts + 1) * n, cfg.transformer.d)
    return dino(cfg.dino, n, contexts) + targets * (decoding + _heads(cfg, n, 6))


def lvsm_decoder_only(cfg: Any, n: int, contexts: int, targets: int) -> float:
    """Return the operations of LVSM, decoder-only, for one scene (specs/lvsm.md section 4)."""
    decoding = cfg.n_layer * block((contexts + 1) * n, cfg.transformer.d)
    return contexts * _heads(cfg, n, 9) + targets * (decoding + _heads(cfg, n, 6))


def lvsm_encoder_decoder(cfg: Any, n: int, contexts: int, targets: int) -> float:
    """Return the operations of LVSM, encoder-decoder, for one scene (specs/lvsm.md section 5)."""
    d, latents = cfg.transformer.d, cfg.n_latent_vectors
    encoding = cfg.encoder_n_layer * block(contexts * n + latents, d) + contexts * _heads(cfg, n, 9)
    return encoding + targets * (cfg.decoder_n_layer * block(n + latents, d) + _heads(cfg, n, 6))


def lact(cfg: Any, n: int, contexts: int, targets: int) -> float:
    """Return the operations of LaCT for one scene (specs/lact.md section 6)."""
    d, ttt = cfg.d, cfg.ttt
    learnt, every = contexts * n, (contexts + targets) * n
    width, heads = ttt.d_head, cfg.d // ttt.d_head
    inner = round(width * ttt.inter_multi)
    attention = 8 * every * d**2 + 4 * every * n * d
    projections = 4 * (every + learnt) * d**2 + 6 * learnt * d * heads  # keys, values and rates of learnt tokens alone
    update = heads * (12 * learnt * width * inner + 3 * ttt.steps * (4 * width**2 * inner + 2 * width**3))
    apply = 6 * every * width * inner * heads
    mlp = 4 * every * d**2 * cfg.mlp_multi
    heads_in_out = 2 * every * 12 * cfg.patch_size**2 * d + 2 * targets * n * 3 * cfg.patch_size**2 * d
    return cfg.n_layer * (attention + projections + update + apply + mlp) + heads_in_out


def _heads(cfg: Any, n: int, channels: int) -> float:
    """Return the operations of the token layer of `channels` channels and, for targets, of the image decoder."""
    pixels = 3 if channels == 6 else 0
    return 2 * n * (channels + pixels) * cfg.patch_size**2 * cfg.transformer.d


COUNTERS: dict[str, Counter] = {
    "uplvsm": uplvsm,
    "ptlvsm": ptlvsm,
    "lvsm_decoder_only": lvsm_decoder_only,
    "lvsm_encoder_decoder": lvsm_encoder_decoder,
    "lact": lact,
}


class Conv(NamedTuple):
    """Convolutions of a kind: channels in and out, weights of the kernel, output positions a pixel, how many."""

    into: int
    out: int
    area: int
    share: float
    count: float = 1

    @property
    def weights(self) -> float:
        """Return the parameters of all of them."""
        return self.count * self.into * self.out * self.area


def _is_counted(cfg: Any) -> bool:
    """Tell whether a DepthSplat is one that is counted here: one scale of depth, and the published heads."""
    return cfg.num_scales == 1 and cfg.gaussian.upsampler == "dpt" and cfg.gaussian.regressor == "conv"


def depthsplat(cfg: Any, height: int, width: int, contexts: int) -> float:
    """Return the operations of the Gaussians of one scene (specs/depthsplat.md), matching and warping left out."""
    pixels = height * width
    convolutions = sum(2 * conv.weights * conv.share * pixels for conv in _convolutions(cfg))
    vit = dino(cfg.dino, (height // REGION) * (width // REGION), contexts)
    return contexts * (convolutions + _transformer(cfg, pixels / 16)) + vit


def _transformer(cfg: Any, tokens: float) -> float:
    """Self-attention in windows, cross-attention with its MLP of 8 times twice the width."""
    width = cfg.feature_channels
    attention = 2 * 4 * tokens * (tokens / cfg.attention_splits**2) * width
    return cfg.transformer_layers * (2 * 32 * tokens * width**2 + attention)


def _convolutions(cfg: Any) -> Iterator[Conv]:
    yield from _backbone(cfg.cnn_channels, cfg.feature_channels)
    yield from _regressor(cfg)
    yield from _dense_head(cfg.dpt.out_channels, cfg.dpt.features)
    yield from _dense_head(cfg.dpt.out_channels, cfg.dpt.gaussian_features)
    half = cfg.dpt.features // 2
    yield from (Conv(cfg.dpt.features, half, 9, 1), Conv(half, half, 9, 1))
    yield from _gaussian_head(cfg)


def _backbone(channels: list[int], features: int) -> Iterator[Conv]:
    first, second, third = channels
    yield from (Conv(3, first, 49, 1 / 4), Conv(first, first, 9, 1 / 4, 4))
    yield from (Conv(first, second, 9, 1 / 4), Conv(second, second, 9, 1 / 4, 3), Conv(first, second, 1, 1 / 4))
    yield from (Conv(second, third, 9, 1 / 16), Conv(third, third, 9, 1 / 16, 3), Conv(second, third, 1, 1 / 16))
    yield Conv(third, features, 1, 1 / 16)


def _regressor(cfg: Any) -> Iterator[Conv]:
    """Matches and features to depth: a U-Net of three levels between convolutions, and the head of the candidates."""
    width, candidates = cfg.depth_unet_channels, cfg.num_depth_candidates
    into = candidates + cfg.feature_channels + cfg.cnn_channels[2] + cfg.dino.embed_dim
    yield from (Conv(into, width, 9, 1 / 16), Conv(into, width, 1, 1 / 16), Conv(width, width, 9, 1 / 16))
    # A residual block of the way up has 2 + 1 convolutions of the width, and a 1x1 one past them (2/9 of one).
    up = 2 * (3 + 2 / 9)
    yield Conv(width, width, 9, 1 / 16, 3 + up + 1 + 1)
    yield Conv(width, width, 9, 1 / 64, 3 + up + 1)
    yield Conv(width, width, 9, 1 / 256, 3 + 4 + up)
    yield from (Conv(width, 2 * width, 9, 1 / 16), Conv(2 * width, candidates, 9, 1 / 16))


def _dense_head(channels: list[int], features: int) -> Iterator[Conv]:
    """DPT's fusion of four maps, the finest at half the image's size."""
    for level, own in enumerate(channels):
        share = 1 / 4 ** (level + 1)
        yield Conv(own, features, 9, share)
        yield Conv(features, features, 9, share, 4 if level < 3 else 2)
        yield Conv(features, features, 1, 4 * share)
    yield Conv(channels[3], channels[3], 9, 1 / 256)


def _gaussian_head(cfg: Any) -> Iterator[Conv]:
    width, features = cfg.gaussian.regressor_channels, cfg.dpt.gaussian_features
    channels = 10 + 3 * (cfg.gaussian.sh_degree + 1) ** 2
    yield from (Conv(features + 5, width, 9, 1), Conv(width, width, 9, 1))
    yield from (Conv(width + features + 4, channels, 9, 1), Conv(channels, channels, 9, 1))


def forward(model: Any, views: ViewsConfig, contexts: int, targets: int) -> float | None:
    """Return the operations of rendering `targets` views of one scene, None for a model that is not counted here."""
    height, width = sides(views)
    if model.name == "depthsplat":
        return depthsplat(model, height, width, contexts) if _is_counted(model) else None
    count = COUNTERS.get(model.name)
    return count(model, height // model.patch_size * (width // model.patch_size), contexts, targets) if count else None


def training_step(cfg: TrainStage) -> float | None:
    """Return the operations of one training step of one process: forward, backward, recomputation and losses."""
    views, train = cfg.views, cfg.train
    own = forward(cfg.model, views, views.num_context, views.num_target)
    if own is None:
        return None
    passes = 4 if train.activation_checkpointing else 3
    return train.batch_size * train.grad_accum * (passes * own + _losses(train.losses, views))


def _losses(losses: LossConfig, views: ViewsConfig) -> float:
    """Return what perceptual losses cost a scene: both images forward, the render backward."""
    used = (losses.perceptual > 0) + (losses.lpips > 0)
    return 3 * used * views.num_target * vgg(*sides(views))


def vgg(height: int, width: int) -> float:
    """Return the operations of the perceptual network on one image."""
    return sum(2 * 9 * into * out * height * width / shrink**2 for into, out, shrink in VGG)


def parameters(model: Any) -> float | None:
    """Return about how many parameters a model has, None for one that is not counted here."""
    if model.name == "lact":
        ttt = model.ttt
        fast = 3 * ttt.d_head * round(ttt.d_head * ttt.inter_multi) * (model.d // ttt.d_head)
        return model.n_layer * ((8 + 2 * model.mlp_multi) * model.d**2 + fast)
    if model.name == "depthsplat" and _is_counted(model):
        vit = 12 * model.dino.depth * model.dino.embed_dim**2
        fusion = 32 * model.transformer_layers * model.feature_channels**2
        return sum(conv.weights for conv in _convolutions(model)) + vit + fusion
    if model.name not in COUNTERS:
        return None
    layers = sum(
        getattr(model, key, 0) for key in ("n_layer", "encoder_n_layer", "estimator_n_layer", "decoder_n_layer")
    )
    own = 12 * layers * model.transformer.d**2
    backbone = getattr(model, "dino", None)
    return own + (12 * backbone.depth * backbone.embed_dim**2 if backbone else 0)
