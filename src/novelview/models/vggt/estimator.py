"""VGGT as an estimator of a data set's cameras (`novelview.scenes.estimation`)."""

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from novelview.config.sources import VggtEstimator
from novelview.errors import DataError
from novelview.models.vggt.decode import decode_poses
from novelview.models.vggt.model import VGGT
from novelview.models.vggt.preprocess import Fit, preprocess
from novelview.models.vggt.weights import load_vggt
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.estimation.estimate import Depth, Estimate

FEWEST = 2


class Vggt:
    """All frames of a scene in one pass, one scene at a time."""

    name = "vggt"
    alone = True

    def __init__(self, cfg: VggtEstimator, device: torch.device, model: VGGT | None = None) -> None:
        """Load the weights, unless a model is given; raises CheckpointError where they are not there."""
        self.cfg, self.device = cfg, device
        self.model = (model or load_vggt(cfg.weights, cfg.model)).to(device).eval()

    @torch.no_grad()
    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras and the depth of all frames; raises DataError for fewer than two, or no field of view."""
        if len(frames) < FEWEST:
            raise DataError(f"{len(frames)} frames, VGGT is asked for the cameras of at least {FEWEST}")
        pictures = [Image.open(io.BytesIO(scene.images[frame].numpy().tobytes())).convert("RGB") for frame in frames]
        images, fits = preprocess(pictures, self.cfg.mode)
        half = self.device.type == "cuda" and self.cfg.amp == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            found = self.model(images[None].to(self.device))
        height, width = images.shape[-2:]
        w2c, lenses = (value[0].double().cpu() for value in decode_poses(found["pose_enc"].float(), (height, width)))
        if not lenses.isfinite().all():
            raise DataError("VGGT estimates a field of view of 0")
        depth = Depth(found["depth"][0, ..., 0].float().cpu(), found["depth_conf"][0].float().cpu())
        quality = {"median_depth": float(depth.values.median()), "confidence": float(depth.confidence.mean())}
        return Estimate(frames, w2c, _normalised(lenses, fits, pictures), quality, depth)


def _normalised(lenses: Tensor, fits: list[Fit], pictures: list[Image.Image]) -> Tensor:
    """Return fx/W fy/H cx/W cy/H of the pictures as they were before they were cut for VGGT."""
    own = torch.stack([fit.original(lens) for fit, lens in zip(fits, lenses, strict=True)])
    return own / torch.tensor([[*picture.size, *picture.size] for picture in pictures], dtype=own.dtype)
