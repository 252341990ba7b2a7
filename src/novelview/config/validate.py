"""Value checks that types alone cannot express; run when a configuration is composed, so `snakemake -n` meets them."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from novelview.config.models import DepthSplatConfig, LaCTConfig
from novelview.config.rooms import check_source
from novelview.config.schema import ViewsConfig
from novelview.config.sources import RoomsSource
from novelview.config.splats import check_context, check_depthsplat
from novelview.config.subsets import SUBSETS
from novelview.errors import ConfigError

CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("RuntimeConfig", "device"): ("auto", "cpu", "cuda"),
    ("RuntimeConfig", "wandb"): ("online", "offline", "disabled"),
    ("ViewsConfig", "portrait"): ("fit", "reference"),
    ("ViewsConfig", "resize"): ("height", "cover", "centred"),
    ("ViewsConfig", "filter"): ("lanczos", "bilinear"),
    ("ViewsConfig", "sampler"): ("interval", "random", "bounded", "boundedv2"),
    ("ViewsConfig", "pose_normalisation"): ("scene", "none"),
    ("Dl3dvSource", "subset"): ("hash", "full"),
    ("Dl3dvSource", "split"): ("test", "train", "held_out"),
    ("OpencvCamerasSource", "split"): ("held_out", "test", "train"),
    ("RenderStage", "select"): ("uniform", "random", "kmeans"),
    ("RenderStage", "split"): ("test", "train"),
    ("RenderStage", "amp"): ("bf16", "none"),
    ("LatencyStage", "amp"): ("bf16", "none"),
    ("DepthStage", "select"): ("uniform", "random", "kmeans"),
    ("DepthStage", "split"): ("test", "train"),
    ("DepthStage", "amp"): ("bf16", "none"),
    ("RenderStage", "path"): ("turntable", "interpolate"),
    ("PathConfig", "blend"): ("slerp", "entrywise"),
    ("EvalConfig", "select"): ("index", "random", "uniform", "kmeans"),
    ("TrainConfig", "schedule"): ("cosine", "linear", "constant", "onecycle"),
    ("TrainConfig", "decay"): ("matrices", "all"),
    ("PointmapLossConfig", "teacher"): ("exact", "vggt"),
    ("PointmapsStage", "teacher"): ("exact", "vggt"),
    ("PointmapsStage", "split"): ("train", "test"),
    ("TrainConfig", "amp"): ("bf16", "fp16", "none"),
    ("EvalConfig", "amp"): ("bf16", "none"),
    ("PosesStage", "align"): ("sim3", "scale", "none"),
    ("GivenEstimator", "frames"): ("all", "entries"),
    ("ColmapEstimator", "frames"): ("all", "entries"),
    ("VggtEstimator", "frames"): ("all", "entries"),
    ("ColmapEstimator", "camera_model"): ("SIMPLE_PINHOLE", "PINHOLE"),
    ("ColmapEstimator", "intrinsics"): ("estimate", "given"),
    ("ColmapEstimator", "matcher"): ("auto", "exhaustive", "sequential"),
    ("VggtEstimator", "mode"): ("crop", "pad"),
    ("VggtEstimator", "amp"): ("bf16", "none"),
    ("TrainStage", "subset"): tuple(SUBSETS),
    ("DinoConfig", "pos_init"): ("normal", "sincos"),
    ("TTTConfig", "precision"): ("accurate", "reference"),
    ("DepthSplatConfig", "many_view_mask"): ("published", "aligned"),
    ("DepthSplatConfig", "rasterizer"): ("auto", "torch", "gsplat"),
    ("GaussianConfig", "scale_activation"): ("softplus", "exp"),
    ("GaussianConfig", "offset_mode"): ("ori", "pixel", "unconstrained"),
    ("GaussianConfig", "sh_rotation"): ("published", "equivariant"),
    ("GaussianConfig", "confidence_activation"): ("none", "softplus", "sigmoid"),
    ("GaussianConfig", "upsampler"): ("dpt", "resize_conv"),
    ("GaussianConfig", "regressor"): ("conv", "unet"),
    ("PhotosSource", "camera_model"): (
        "SIMPLE_PINHOLE",
        "PINHOLE",
        "SIMPLE_RADIAL",
        "RADIAL",
        "OPENCV",
        "OPENCV_FISHEYE",
    ),
}
POSITIVE = {
    "ViewsConfig": ("image_size", "patch_size", "num_context", "num_target", "min_frame_dist", "scene_scale_factor"),
    "TrainConfig": ("steps", "batch_size", "grad_accum", "lr", "clip_norm", "eps"),
    "EvalConfig": ("batch_size", "bootstrap", "num_context"),
    "RenderStage": ("views", "frames", "chunk", "fps"),
    "LatencyStage": ("repeats", "renders"),
    "DepthStage": ("views",),
    "PosesStage": ("length",),
    "ColmapEstimator": ("overlap", "max_features", "seconds"),
    "PointmapsStage": ("chunk",),
    "PathConfig": ("min_radius", "max_radius"),
    "PointmapLossConfig": ("ignore_large",),
    "RuntimeConfig": ("log_every", "keep_checkpoints"),
    "DinoConfig": ("img_size", "patch_size", "embed_dim", "num_heads"),
    "TransformerConfig": ("d", "d_head", "qk_norm_eps", "init_gain"),
    "PTLVSMConfig": ("patch_size", "n_layer"),
    "UPLVSMConfig": ("patch_size", "encoder_n_layer", "estimator_n_layer", "decoder_n_layer", "n_latent_vectors"),
    "LVSMDecoderOnlyConfig": ("patch_size", "n_layer"),
    "LVSMEncoderDecoderConfig": ("patch_size", "encoder_n_layer", "decoder_n_layer", "n_latent_vectors"),
    "TTTConfig": ("d_head", "inter_multi", "base_lr"),
    "LaCTConfig": ("patch_size", "d", "d_head", "n_layer", "mlp_multi", "init_gain"),
    "DepthSplatConfig": ("near", "far", "feature_channels", "attention_splits", "local_mv_match", "unet_head_channels"),
    "GaussianConfig": ("scale_max", "offset_factor", "upsampler_channels"),
}
NOT_NEGATIVE = {
    "ViewsConfig": ("image_width", "start_min_dist", "start_max_dist", "dist_steps", "min_context"),
    "TrainConfig": ("warmup", "weight_decay", "clip_from", "lr_pretrained", "allowed_gradnorm_factor"),
    "RuntimeConfig": (
        *("threads", "workers", "cache_mb", "checkpoint_seconds", "wandb_pictures"),
        *("max_minutes", "stop_at"),
    ),
    "PackConfig": ("max_bad_frames", "max_bad_chunks"),
    "GivenEstimator": ("max_frames",),
    "ColmapEstimator": ("max_frames",),
    "VggtEstimator": ("max_frames",),
    "LossConfig": ("mse", "perceptual", "lpips", "lpips_from", "ignore_large_mse", "damp_above", "damp_after"),
    "PointmapLossConfig": ("weight", "apply_after"),
    "EvalConfig": (
        *("gallery", "video_scenes", "pose_scenes", "num_views", "num_target"),
        *("geometry_entries", "ply_scenes"),
    ),
    "DinoConfig": ("depth", "num_register_tokens"),
    "PhotosSource": ("max_side", "context_gap"),
    "PathConfig": ("frames_per_leg", "between"),
    "TTTConfig": ("steps",),
    "DepthSplatConfig": ("transformer_layers",),
    "DepthStage": ("scenes",),
    "GaussianConfig": ("scale_min",),
}
BETWEEN = {
    ("TrainConfig", "beta1"): (0, 0.999999),
    ("TrainConfig", "beta2"): (0, 0.999999),
    ("TrainConfig", "onecycle_rise"): (0, 1),
    ("LossConfig", "intermediate_decay"): (0, 1),
    ("EvalConfig", "video_frames"): (2, 10_000),
    ("EvalConfig", "video_fps"): (1, 240),
    ("PathConfig", "hfov"): (0.1, 179.9),
    ("PathConfig", "elevation"): (-90, 90),
    ("PhotosSource", "min_registered"): (0, 1),
    ("GaussianConfig", "sh_degree"): (0, 4),
}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # goes into paths and shell commands
OPTIONAL_IO = ("init", "pointmaps", "inputs", "curves", "extras", "models", "images", "save_state", "load_state")


def validate(config: Any) -> None:
    """Raise ConfigError, naming the key and the allowed values, for the first value out of range."""
    for path, node in _nodes(config, ""):
        name = type(node).__name__
        for field in fields(node):
            _check(name, field.name, f"{path}{field.name}", getattr(node, field.name))
    _check_io(getattr(config, "io", {}))
    _check_together(config)


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, node
    for field in fields(node):
        value = getattr(node, field.name)
        if is_dataclass(value):
            yield from _nodes(value, f"{path}{field.name}.")


def _check(owner: str, name: str, key: str, value: Any) -> None:
    choices = CHOICES.get((owner, name))
    if choices and value not in choices:
        raise ConfigError(f"{key}={value}: choose one of {', '.join(choices)}")
    if name in POSITIVE.get(owner, ()) and not value > 0:
        raise ConfigError(f"{key}={value}: must be greater than 0")
    if (name in NOT_NEGATIVE.get(owner, ()) or name == "seed") and value < 0:
        raise ConfigError(f"{key}={value}: must be 0 or more")
    low, high = BETWEEN.get((owner, name), (-math.inf, math.inf))
    if (owner, name) in BETWEEN and not low <= value <= high:
        raise ConfigError(f"{key}={value}: must lie between {low} and {high}")
    if name in ("dataset", "phase") and isinstance(value, str) and not NAME.fullmatch(value):
        raise ConfigError(f"{key}={value}: names a folder; use letters, digits, . _ - and begin with no . or -")
    _check_number(key, value)


def _check_number(key: str, value: Any) -> None:
    """Refuse numbers that nothing computes with: infinite ones, and whole ones beyond 64 bits."""
    if isinstance(value, float | int) and not (math.isfinite(value) and abs(value) < 2**63):
        raise ConfigError(f"{key}={value}: must be a finite number within 64 bits")


def _check_io(paths: Mapping[str, Any]) -> None:
    for key, value in paths.items():
        if value == "" or (value is None and key not in OPTIONAL_IO):
            raise ConfigError(f"io.{key} is empty; give a path as io.{key}=...")


def _check_together(config: Any) -> None:
    if isinstance(getattr(config, "source", None), RoomsSource):
        check_source(config.source)
    views = config if isinstance(config, ViewsConfig) else getattr(config, "views", None)
    model = config if isinstance(config, DepthSplatConfig) else getattr(config, "model", None)
    if isinstance(model, DepthSplatConfig):
        check_depthsplat(model)
    if isinstance(views, ViewsConfig):
        _check_views(views)
    if isinstance(views, ViewsConfig) and model is not None:
        _check_model(views, model)
    train = getattr(config, "train", None)
    if train is not None:
        _check_losses(train.losses)
    if train is not None and isinstance(views, ViewsConfig) and views.sampler == "boundedv2":
        _check_targets(views, train.batch_size)


def _check_losses(losses: Any) -> None:
    for term, key in (("perceptual", "vgg_weights"), ("lpips", "lpips_weights")):
        if getattr(losses, term) > 0 and not getattr(losses, key):
            raise ConfigError(f"train.losses.{key}=null: the {term} loss needs it; give a path or set {term}=0")


def _check_views(views: Any) -> None:
    for key in ("image_size", "image_width"):
        if getattr(views, key) % views.patch_size:
            raise ConfigError(
                f"views.{key}={getattr(views, key)}: not a multiple of views.patch_size={views.patch_size}"
            )
    if views.image_width not in (0, views.image_size) and views.resize == "height":
        raise ConfigError(f"views.image_width={views.image_width}: rectangles need views.resize=cover")
    {"random": _check_random, "interval": _check_interval}.get(views.sampler, _check_bounded)(views)
    if views.sampler != "random" and views.min_frame_dist > views.max_frame_dist:
        raise ConfigError(f"views.min_frame_dist={views.min_frame_dist}: above max_frame_dist={views.max_frame_dist}")


def _check_random(views: Any) -> None:
    for key in ("num_context", "num_target"):
        if getattr(views, key) > views.num_views:
            raise ConfigError(
                f"views.{key}={getattr(views, key)}: above views.num_views={views.num_views}, the views drawn"
            )


def _check_interval(views: Any) -> None:
    pool = views.num_views if views.target_has_input else views.num_views - views.num_context
    if views.num_target > pool:
        raise ConfigError(f"views.num_target={views.num_target}: views.num_views leaves {pool}")
    if views.num_context != 2:
        raise ConfigError(
            f"views.num_context={views.num_context}: training takes the 2 ends of an interval; "
            "any number goes with views.sampler=random"
        )


def _check_bounded(views: Any) -> None:
    if views.dist_steps and not 0 < views.start_min_dist <= views.start_max_dist:
        raise ConfigError(
            f"views.start_min_dist={views.start_min_dist}: must lie between 1 and "
            f"views.start_max_dist={views.start_max_dist} where views.dist_steps is above 0"
        )
    if views.sampler == "bounded" and views.num_context != 2:
        raise ConfigError(f"views.num_context={views.num_context}: sampler bounded takes 2; boundedv2 takes more")
    if views.min_context and not 2 <= views.min_context <= views.num_context:
        raise ConfigError(
            f"views.min_context={views.min_context}: must lie between 2 and views.num_context={views.num_context}"
        )


def _check_targets(views: Any, batch_size: int) -> None:
    """Refuse batches whose samples may have different numbers of targets: short intervals hold fewer."""
    shortest = min(views.min_frame_dist, views.start_min_dist if views.dist_steps else views.min_frame_dist)
    held = max(1, shortest // (views.num_context // (views.min_context or views.num_context))) + 1
    if batch_size > 1 and held < views.num_target:
        raise ConfigError(
            f"views.num_target={views.num_target}: the shortest intervals hold {held} frames, so that samples differ; "
            "use train.batch_size=1, fewer targets, or a larger views.min_frame_dist"
        )


def _check_model(views: Any, model: Any) -> None:
    if views.patch_size != model.patch_size:
        raise ConfigError(f"views.patch_size={views.patch_size}: the model's patch_size is {model.patch_size}")
    transformer, dino = getattr(model, "transformer", None), getattr(model, "dino", None)
    if transformer is not None and transformer.d % transformer.d_head:
        raise ConfigError(f"model.transformer.d={transformer.d}: not a multiple of d_head={transformer.d_head}")
    if transformer is not None and dino is not None:
        _check_dino(transformer, dino)
    if isinstance(model, LaCTConfig):
        _check_lact(model)
    if isinstance(model, DepthSplatConfig):
        check_context(views)
    if getattr(model, "decoder_init_last_only", False) and not (transformer and transformer.special_init):
        raise ConfigError("model.decoder_init_last_only=true: needs model.transformer.special_init=true")


def _check_lact(model: LaCTConfig) -> None:
    for key, width in (("d_head", model.d_head), ("ttt.d_head", model.ttt.d_head)):
        if model.d % width:
            raise ConfigError(f"model.d={model.d}: not a multiple of model.{key}={width}")
    if int(model.ttt.d_head * model.ttt.inter_multi) < 1:
        raise ConfigError(f"model.ttt.inter_multi={model.ttt.inter_multi}: leaves no hidden unit; raise it")


def _check_dino(transformer: Any, dino: Any) -> None:
    if dino.embed_dim != transformer.d:
        raise ConfigError(f"model.dino.embed_dim={dino.embed_dim}: must equal model.transformer.d={transformer.d}")
    if dino.embed_dim % dino.num_heads:
        raise ConfigError(f"model.dino.num_heads={dino.num_heads}: does not divide embed_dim={dino.embed_dim}")
