"""Stage `render`: python -m novelview.stages.render io.weights=FILE io.out=clip.mp4 [path=...] [views=20]."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from novelview.cameras.paths import turntable
from novelview.config.checkpoints import model_code
from novelview.config.digest import digest, source_digest
from novelview.config.schema import Resolution, ViewsConfig
from novelview.config.stages import DepthStage, RenderStage
from novelview.devices import team
from novelview.errors import ConfigError, DataError
from novelview.evaluation.clips import Cameras, enlarge, path_cameras, to_uint8, write_video
from novelview.evaluation.encoded_scene import Encoded, encode_scene, load_scene, render_cameras, save_scene
from novelview.files import MANIFEST, replacing, require_writable, sha256
from novelview.models.registry import load_weights
from novelview.models.render import ViewModel
from novelview.scenes.batch import Views
from novelview.scenes.samplers import choose_frames, frame_pool
from novelview.scenes.store import PackedStore
from novelview.stages.cli import run_stage
from novelview.stages.evaluate import views_of
from novelview.timebox import TimeBox, Unfinished, stamp_of

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def render(cfg: RenderStage) -> None:
    """Encode `views` context views of a scene once, render the cameras of `path` and write them as MP4 to `io.out`.

    `io.images` also gets the pictures as PNG files; `io.save_state` keeps the encoded scene, `io.load_state` takes one
    instead of encoding, without the data set. Raises NovelviewError, one line, for more views than the scene has, a
    size that does not fit the patches, or a model without target poses on a turntable; BoxEnded when the time box is
    over, after `chunk` new pictures at least: the next call encodes the scene again and goes on with the pictures.
    """
    box = TimeBox.of(cfg.runtime)
    require_writable(cfg.io["out"], "io.out")
    weights = Path(cfg.io["weights"])
    model, config = load_weights(weights)
    _check(cfg, model)
    with team(cfg.runtime) as ranks, torch.no_grad():
        model = model.to(ranks.device).eval()
        seen = views_of(config, weights)
        encoded, encoding = _timed(lambda: _encoded(cfg, model, weights, seen, ranks.device))
        if cfg.io.get("save_state"):
            save_scene(cfg.io["save_state"], encoded)
        units = Unfinished(cfg.io["out"], _stamp(cfg, weights))
        pictures, rendering = _timed(lambda: _pictures(cfg, model, encoded, units, box))
    _write(cfg, pictures)
    units.clear()
    facts, count = encoded.facts, len(pictures)
    log.info("scene %s: %d context views in %.2f s", facts.scene, len(facts.frames), encoding)
    each = 1000 * rendering / count
    log.info("%d frames of %dx%d, %.0f ms each: %s", count, facts.width, facts.height, each, cfg.io["out"])


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def _stamp(cfg: RenderStage, weights: Path) -> str:
    state = cfg.io.get("load_state")
    seen = sha256(state) if state else sha256(Path(cfg.io["packed"]) / MANIFEST)
    return stamp_of(digest(cfg), source_digest("render", model_code(cfg)), sha256(weights), seen)


def _pictures(
    cfg: RenderStage, model: ViewModel, encoded: Encoded, units: Unfinished, box: TimeBox
) -> UInt8[np.ndarray, "n h w 3"]:
    """Render the path, `chunk` pictures at a time; those of an earlier call are taken from `units`."""
    facts = encoded.facts
    c2w, intrinsics = cameras(cfg, encoded, model)
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
        parts.append(np.frombuffer(content, np.uint8).reshape(-1, facts.height, facts.width, 3))
    return np.concatenate(parts)


def _check(cfg: RenderStage, model: ViewModel) -> None:
    if not model.needs_target_poses:
        raise ConfigError(
            f"{type(model).__name__} takes no target poses, so no given camera can be rendered; its clips come with "
            "the evaluate stage, along the cameras it estimates"
        )


def _encoded(cfg: RenderStage, model: ViewModel, weights: Path, views: ViewsConfig, device: torch.device) -> Encoded:
    if cfg.io.get("load_state"):
        return load_scene(cfg.io["load_state"], weights, device)
    store = PackedStore(Path(cfg.io["packed"]) / cfg.split)
    if not len(store):
        raise DataError(f"{cfg.io['packed']}: split {cfg.split} has no scenes; choose the other as split=")
    scene = cfg.scene or store.scenes[0]
    frames = chosen_frames(cfg, store, scene)
    return encode_scene(model, weights, store, scene, frames, sized(views, cfg.resolution), device, cfg.amp)


def chosen_frames(cfg: RenderStage | DepthStage, store: PackedStore, scene: str) -> list[int]:
    """Return `views` frames of a scene in their order; raises DataError when it has fewer usable ones."""
    pool = frame_pool(store, scene, cfg.seed)
    if cfg.views > len(pool.order):
        raise DataError(f"views={cfg.views}: scene {scene} has {len(pool.order)} usable frames; ask for fewer")
    return sorted(choose_frames(pool, pool.order, cfg.select, cfg.views))


def sized(views: ViewsConfig, size: str) -> ViewsConfig:
    """Return how views are resized for pictures of `size`; raises ConfigError when the patches do not fit into it."""
    if not size:
        return views
    wanted = Resolution.parse(size)
    if wanted.height % views.patch_size or wanted.width % views.patch_size:
        raise ConfigError(f"resolution={size}: both sides must be multiples of the patch size, {views.patch_size}")
    resize = "cover" if views.resize == "height" else views.resize
    return replace(views, image_size=wanted.height, image_width=wanted.width, resize=resize)


def cameras(cfg: RenderStage, encoded: Encoded, model: ViewModel) -> Cameras:
    """Return the cameras of the clip, in the frame in which the model decodes the scene."""
    facts, frame = encoded.facts, encoded.frame
    seen = encoded.c2w.cpu(), encoded.intrinsics.cpu()
    if cfg.path == "turntable":
        path = cfg.camera_path
        shape = (path.hfov, path.elevation, path.swing, path.min_radius, path.max_radius, path.swap_sides)
        c2w, intrinsics = turntable(cfg.frames, facts.height, facts.width, *shape)
        if frame is not None:  # out of the world, into which no context looks any more
            c2w = frame.transform(c2w)
    else:
        c2w, intrinsics = path_cameras(cfg.camera_path, cfg.frames, *seen)
    context = Views(None, *(part[None] for part in seen))
    return model.cameras(context, c2w[None])[0], intrinsics


def _write(cfg: RenderStage, pictures: np.ndarray) -> None:
    write_video(cfg.io["out"], enlarge(pictures), cfg.fps)
    for number, picture in enumerate(pictures if cfg.io.get("images") else ()):
        path = Path(cfg.io["images"]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            Image.fromarray(picture).save(partial, "PNG")


if __name__ == "__main__":
    sys.exit(run_stage("render", render))
