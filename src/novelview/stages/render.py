"""Stage `render`: python -m novelview.stages.render io.weights=FILE io.out=clip.mp4 [path=...] [views=20]."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from novelview.cameras.given import read_path, write_path
from novelview.cameras.paths import turntable
from novelview.config.checkpoints import model_code
from novelview.config.digest import digest, source_digest
from novelview.config.keys import refuse
from novelview.config.stages import DepthStage, RenderStage
from novelview.devices import team
from novelview.errors import ConfigError, DataError
from novelview.evaluation.clips import Cameras, enlarge, path_cameras, to_uint8, write_video
from novelview.evaluation.encoded_scene import Encoded, encode_scene, load_scene, render_cameras, save_scene
from novelview.files import MANIFEST, holding_lock, replacing, require_writable, sha256
from novelview.models.registry import load_weights
from novelview.models.render import ViewModel
from novelview.scenes.batch import Views
from novelview.scenes.samplers import choose_frames, frame_pool
from novelview.scenes.store import PackedStore
from novelview.stages.cli import log, run_stage
from novelview.stages.evaluate import views_of
from novelview.timebox import TimeBox, Unfinished, stamp_of


def render(cfg: RenderStage) -> None:
    """Encode `views` context views of a scene once, render the cameras of `path` and write them as MP4 to `io.out`.

    `io.images` also gets the pictures as PNG files, `io.cameras` the cameras, for `path=FILE.json`; `io.save_state`
    keeps the encoded scene, `io.load_state` takes one instead of encoding, without the data set. Raises NovelviewError
    for views or a size that do not fit, or a model without target poses; BoxEnded after `chunk` new pictures at least:
    the next call goes on with the pictures."""
    box, io, weights = TimeBox.of(cfg.runtime), cfg.io, Path(cfg.io["weights"])
    require_writable(io["out"], "io.out")
    refuse(Path(io["out"]).suffix.lower() != ".mp4", f"io.out={io['out']}: clips are MP4 files; name one .mp4")
    model, config = load_weights(weights)
    if not model.needs_target_poses:
        raise ConfigError(
            f"{type(model).__name__} takes no target poses, so no given camera can be rendered; its clips come with "
            "the evaluate stage, along the cameras it estimates"
        )
    with holding_lock(io["out"], "WORLD_SIZE" not in os.environ), team(cfg.runtime) as ranks, torch.no_grad():
        model = model.to(ranks.device).eval()
        started = time.monotonic()
        state = io.get("load_state")
        encoded = load_scene(state, weights, ranks.device) if state else _encoded(cfg, model, config, ranks.device)
        encoding = time.monotonic() - started
        if io.get("save_state"):
            save_scene(io["save_state"], encoded)
        seen = sha256(state or Path(io["packed"]) / MANIFEST)
        code = source_digest("render", model_code(cfg))
        given = sha256(cfg.path) if cfg.path.endswith(".json") else ""
        units = Unfinished(io["out"], stamp_of(digest(cfg), code, sha256(weights), seen, given))
        started = time.monotonic()
        cameras = _cameras(cfg, encoded)
        pictures = _pictures(cfg, model, encoded, cameras, units, box)
        rendering = time.monotonic() - started
    write_video(io["out"], enlarge(pictures), cfg.fps)
    if io.get("cameras"):
        c2w, intrinsics = cameras
        world = encoded.frame.undo(c2w) if encoded.frame else c2w
        write_path(io["cameras"], world, intrinsics, encoded.facts.height, encoded.facts.width, cfg.fps)
    for number, picture in enumerate(pictures if io.get("images") else ()):
        with replacing(Path(io["images"]) / f"{number:04d}.png") as partial:
            Image.fromarray(picture).save(partial, "PNG")
    units.clear()
    facts, count = encoded.facts, len(pictures)
    log.info("scene %s: %d context views in %.2f s", facts.scene, len(facts.frames), encoding)
    each = 1000 * rendering / count
    log.info("%d frames of %dx%d, %.0f ms each: %s", count, facts.width, facts.height, each, io["out"])


def _encoded(cfg: RenderStage, model: ViewModel, config: dict[str, Any], device: torch.device) -> Encoded:
    weights = Path(cfg.io["weights"])
    views = views_of(config, weights, cfg.resolution)
    store = PackedStore(Path(cfg.io["packed"]) / cfg.split)
    if not len(store):
        raise DataError(f"{cfg.io['packed']}: split {cfg.split} has no scenes; choose the other as split=")
    store.require_cameras(model.needs_cameras, type(model).__name__)
    scene = cfg.scene or store.scenes[0]
    frames = chosen_frames(cfg, store, scene)
    return encode_scene(model, weights, store, scene, frames, views, device, cfg.amp)


def _pictures(
    cfg: RenderStage, model: ViewModel, encoded: Encoded, cameras: Cameras, units: Unfinished, box: TimeBox
) -> UInt8[np.ndarray, "n h w 3"]:
    """Render the path, `chunk` pictures at a time; those of an earlier call are taken from `units`."""
    c2w, intrinsics = cameras
    context = Views(None, encoded.c2w.cpu()[None], encoded.intrinsics.cpu()[None])
    c2w = model.cameras(context, c2w[None])[0]
    parts = []
    for start in range(0, len(c2w), cfg.chunk):
        content = units.read(f"{start:06d}")
        if content is None:
            some = slice(start, start + cfg.chunk)
            rendered = render_cameras(model, encoded, c2w[some], intrinsics[some], cfg.amp)
            content = to_uint8(rendered).cpu().permute(0, 2, 3, 1).numpy().tobytes()
            if box.limited:
                units.keep(f"{start:06d}", content)
            box.unit()
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, encoded.facts.height, encoded.facts.width, 3))
    return np.concatenate(parts)


def chosen_frames(cfg: RenderStage | DepthStage, store: PackedStore, scene: str) -> list[int]:
    """Return `views` frames of a scene in their order; raises DataError when it has fewer usable ones."""
    pool = frame_pool(store, scene, cfg.seed)
    if cfg.views > len(pool.order):
        raise DataError(f"views={cfg.views}: scene {scene} has {len(pool.order)} usable frames; ask for fewer")
    return sorted(choose_frames(pool, pool.order, cfg.select, cfg.views))


def _cameras(cfg: RenderStage, encoded: Encoded) -> Cameras:
    """Return the cameras of the clip, in the frame of the context cameras, which is the world's or normalised."""
    facts, path = encoded.facts, cfg.camera_path
    if cfg.path == "interpolate":
        return path_cameras(path, cfg.frames, encoded.c2w.cpu(), encoded.intrinsics.cpu())
    if cfg.path == "turntable":
        shape = (path.hfov, path.elevation, path.swing, path.min_radius, path.max_radius, path.swap_sides)
        c2w, intrinsics = turntable(cfg.frames, facts.height, facts.width, *shape)
    else:
        c2w, intrinsics = read_path(cfg.path, facts.height, facts.width)
    # Out of the world, into which no context looks any more.
    return encoded.frame.transform(c2w) if encoded.frame is not None else c2w, intrinsics


if __name__ == "__main__":
    raise SystemExit(run_stage("render", render))
