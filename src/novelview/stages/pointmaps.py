"""Stage `pointmaps`: python -m novelview.stages.pointmaps dataset=NAME teacher=exact|vggt io.out=FOLDER."""

from pathlib import Path

import torch
from tqdm import tqdm

from novelview.cameras.camera import unproject
from novelview.config.digest import digest, source_digest
from novelview.config.stages import PointmapsStage
from novelview.devices import team
from novelview.errors import DataError
from novelview.files import MANIFEST, sha256
from novelview.losses.pointmap import flat_pointmap, teacher_images
from novelview.models.vggt.model import load_vggt
from novelview.scenes.batch import FrameCache
from novelview.scenes.pointmaps import Points, write_pointmaps
from novelview.scenes.procedural.truth import exact_depth
from novelview.scenes.store import PackedStore, sound_frames
from novelview.stages.cli import log, run_stage
from novelview.timebox import Share, TimeBox, stamp_of


def pointmaps(cfg: PointmapsStage) -> None:
    """Write the pointmaps of all undamaged frames of a split to `io.out`; the manifest comes last.

    exact: points of the given cameras' world, metres, float32. vggt: of a world and scale of its own for each scene,
    float16, all frames of a scene in one pass, resized to multiples of 14 pixels and back (specs/pmloss.md section 1).
    Under torchrun each process takes its share of the scenes. Raises DataError without exact depth, CheckpointError
    without VGGT's weights, BoxEnded after one new scene at least."""
    box = TimeBox.of(cfg.runtime)
    store = PackedStore(Path(cfg.io["packed"]) / cfg.split)
    cache = FrameCache(store, cfg.views, 0)

    names = tqdm(store.scenes, "pointmaps", disable=None if cfg.runtime.progress else True)
    scenes = ((scene, sound_frames(store, scene)) for scene in names)
    with team(cfg.runtime) as ranks:
        device = ranks.device
        teach = _exact(cfg, store, cache, device) if cfg.teacher == "exact" else _vggt(cfg, cache, device)
        stamp = stamp_of(digest(cfg), source_digest("pointmaps"), sha256(store.folder.parent / MANIFEST), device.type)
        share = Share.of(ranks)
        count = write_pointmaps(Path(cfg.io["out"]), cfg.teacher, cfg.views, scenes, teach, stamp, box, share)
        log.info("pointmaps of %d scenes by teacher %s: %s", count, cfg.teacher, cfg.io["out"])


def _exact(cfg: PointmapsStage, store: PackedStore, cache: FrameCache, device: torch.device) -> Points:
    truth, reason = exact_depth(cfg.io["raw"], store, device.type)
    if truth is None:
        raise DataError(f"{cfg.io['raw']}: teacher=exact: {reason}; use teacher=vggt")

    def teach(scene: str, frames: list[int]) -> torch.Tensor:
        _, intrinsics = cache.posed(scene, frames)
        height, width = cache.frames(scene, frames[:1])[0].shape[-2:]
        return unproject(truth.depth(scene, frames, intrinsics, height, width), store.c2w(scene)[frames], intrinsics)

    return teach


def _vggt(cfg: PointmapsStage, cache: FrameCache, device: torch.device) -> Points:
    model = load_vggt(cfg.weights).to(device)
    half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16

    @torch.no_grad()
    def teach(scene: str, frames: list[int]) -> torch.Tensor:
        images = torch.stack(cache.frames(scene, frames)).float().div_(255)[None].to(device)
        with torch.autocast(device.type, half, enabled=device.type == "cuda"):
            found = model(teacher_images(images), cfg.chunk)["world_points"]
        height, width = images.shape[-2:]
        points = flat_pointmap(found.float(), height, width).unflatten(1, (len(frames), height, width))
        return points[0].movedim(-1, 1).half().cpu()

    return teach


if __name__ == "__main__":
    raise SystemExit(run_stage("pointmaps", pointmaps))
