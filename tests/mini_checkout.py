"""A copy of the project in which the mini scale is tiny: few rooms, small images, few steps, narrow models."""

from pathlib import Path
from typing import Any

from checkout import Checkout

SOURCE = {
    **{"train_scenes": 64, "test_seen_scenes": 1, "test_new_scenes": 1, "chunk_bytes": 1},
    **{"frames": 12, "height": 48, "width": 48, "gaps": [6, 9]},
}
EVAL = {
    **{"splits": ["full", "gap6", "gap9"], "bootstrap": 20, "gallery": 2, "geometry_entries": 1},
    **{"video_frames": 2, "video_scenes": 0, "pose_scenes": 1, "ply_scenes": 1},
}
RUNTIME = {"wandb": "disabled", "log_every": 2, "progress": False, "workers": 0, "cache_mb": 64}
DISTANCES = {"views.min_frame_dist": 7, "views.max_frame_dist": 11}
SMALL = {"transformer": {"d": 32, "d_head": 16}, "dino": {"img_size": 42, "embed_dim": 32, "num_heads": 2}}
MATCHING = "variants.depthsplat_mv"
TRANSFORMERS = ("uplvsm", "ptlvsm", "lvsm_decoder_only", "lact")
SIZES: dict[str, dict[str, Any]] = {
    "uplvsm": {"encoder_n_layer": 1, "estimator_n_layer": 1, "decoder_n_layer": 1, "n_latent_vectors": 8, **SMALL},
    "ptlvsm": {"n_layer": 1, **SMALL},
    "lvsm_decoder_only": {"n_layer": 1, "transformer": SMALL["transformer"]},
    "lact": {"n_layer": 1, "d": 32, "d_head": 16, "ttt.d_head": 16},
    "depthsplat_mv": {
        **{"transformer_layers": 1, "cnn_channels": [16, 24, 32], "feature_channels": 32, "depth_unet_channels": 32},
        **{"unet_head_channels": 16, "num_depth_candidates": 16, "dino.img_size": 56},
        **{"dpt.out_channels": [16, 16, 24, 32], "dpt.features": 16, "dpt.gaussian_features": 16},
        **{"gaussian.sh_degree": 1, "gaussian.upsampler_channels": 16, "gaussian.regressor_channels": 16},
    },
}


class MiniCheckout(Checkout):
    """A checkout for `make mini`; `drive` makes one call of the driver."""

    def __init__(self, folder: Path, steps: int = 6) -> None:
        self.steps = steps
        super().__init__(folder)

    def _shrink(self) -> None:
        self.change("conf/source/rooms_mini.yaml", SOURCE)
        self.change("conf/eval/rooms_mini.yaml", EVAL)
        self.change("conf/runtime/mini.yaml", RUNTIME)
        own = {"train.steps": self.steps, "train.batch_size": 2}
        for phase, size, large in (("pretrain", 28, 32), ("finetune", 42, 64)):
            recipe = {**DISTANCES, **own, "views.image_size": size, "train.warmup": 1}
            self.change_below("conf/models/shared.yaml", f"variants.two_views.recipes.mini.{phase}", recipe)
            for model in TRANSFORMERS:
                self.change_below(f"conf/models/{model}.yaml", f"recipes.mini.{phase}", {"train.batch_size": 2})
            start = {"views.start_min_dist": 6, "views.start_max_dist": 8} if phase == "pretrain" else {}
            recipe = {**DISTANCES, **start, **own, "views.image_size": large}
            self.change_below("conf/models/depthsplat.yaml", f"{MATCHING}.recipes.mini.{phase}", recipe)
        for model, keys in SIZES.items():
            file, prefix = ("depthsplat", f"{MATCHING}.") if model == "depthsplat_mv" else (model, "")
            self.change_below(f"conf/models/{file}.yaml", f"{prefix}sizes.mini", keys)
