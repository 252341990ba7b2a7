"""Floating-point operations and parameters of the models, from their configuration alone (2 per multiply-add).

Counted are linear layers and attention, which is all but a per cent or two of a model's work.
"""

from collections.abc import Callable
from typing import Any

from novelview.config.schema import LossConfig, ViewsConfig, sides
from novelview.config.stages import TrainStage
from novelview.planning import splats

# Channels in, channels out, and the shrinking of each side before it: convolutions of VGG-19 up to relu5_2.
VGG = [(3, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 2), (128, 256, 4), *[(256, 256, 4)] * 3]
VGG += [(256, 512, 8), *[(512, 512, 8)] * 3, *[(512, 512, 16)] * 2]

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


def forward(model: Any, views: ViewsConfig, contexts: int, targets: int) -> float | None:
    """Return the operations of rendering `targets` views of one scene, None for a model that is not counted here."""
    height, width = sides(views)
    if model.name == "depthsplat":
        return splats.depthsplat(model, height, width, contexts) if splats.counted(model) else None
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
    if model.name == "depthsplat" and splats.counted(model):
        return splats.parameters(model)
    if model.name not in COUNTERS:
        return None
    layers = sum(
        getattr(model, key, 0) for key in ("n_layer", "encoder_n_layer", "estimator_n_layer", "decoder_n_layer")
    )
    own = 12 * layers * model.transformer.d**2
    backbone = getattr(model, "dino", None)
    return own + (12 * backbone.depth * backbone.embed_dim**2 if backbone else 0)
