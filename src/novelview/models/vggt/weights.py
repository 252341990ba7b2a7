"""The published weights of VGGT, and how much memory a pass takes."""

from pathlib import Path

import torch

from novelview.config.sources import VGGTConfig
from novelview.errors import CheckpointError
from novelview.models.published import match_keys, read_state
from novelview.models.vggt.model import FRAMES_AT_ONCE, VGGT

LEFT_OUT = "track_head."  # follows points given to it; cameras, depth and point maps do without


def load_vggt(path: Path | str, cfg: VGGTConfig | None = None) -> VGGT:
    """Return VGGT with the weights of a file (`model.safetensors` or `model.pt` of facebook/VGGT-1B), for inference.

    Every weight is loaded but those under `track_head.`, which are left out. Raises CheckpointError, one line, for a
    missing or damaged file and for weights missing, unknown or of another shape.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path}: the weights of VGGT are not here; fetch them with `python -m novelview.stages.fetch vggt` "
            "(5.0 GB, licence of their own)"
        )
    state = {key: value.float() for key, value in read_state(path).items() if not key.startswith(LEFT_OUT)}
    with torch.device("meta"):
        model = VGGT(cfg)
    match_keys(path, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def inference_bytes(cfg: VGGTConfig, frames: int, height: int, width: int, chunk: int = FRAMES_AT_ONCE) -> int:
    """Return about how many bytes a pass in float32 needs beside the weights: an estimate, for choosing `frames`.

    Three parts: the layers kept for the heads; a block at work on all tokens (residual, q k v, hidden of the MLP), as
    much as attention without a stored score matrix needs; and the dense head's maps, `chunk` frames at a time.
    """
    tokens = frames * (1 + cfg.num_register_tokens + (height // 14) * (width // 14))
    kept = len({*cfg.dpt.intermediate_layer_idx, cfg.depth - 1}) * 2 * cfg.embed_dim
    working = 10 * cfg.embed_dim
    maps = min(chunk, frames) * height * width * (cfg.dpt.features // 2 * 2 + 3 * 32)
    return 4 * (tokens * (kept + working) + maps)
