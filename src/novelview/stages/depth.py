"""Stage `depth`: python -m novelview.stages.depth dataset=NAME io.weights=FILE io.out=FOLDER [views=2]."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from novelview.config.checkpoints import model_code
from novelview.config.digest import digest, source_digest
from novelview.config.schema import ViewsConfig
from novelview.config.stages import DepthStage
from novelview.devices import team
from novelview.errors import ConfigError, DataError
from novelview.evaluation.clips import write_depths
from novelview.evaluation.encoded_scene import Encoded, encode_scene
from novelview.files import MANIFEST, holding_lock, require_writable, sha256, write_json
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import load_weights
from novelview.scenes.batch import FrameCache
from novelview.scenes.store import PackedStore
from novelview.scenes.views import known_entries, load_index
from novelview.stages.cli import log, run_stage
from novelview.stages.evaluate import views_of
from novelview.stages.render import chosen_frames
from novelview.timebox import TimeBox, Unfinished, stamp_of


def depth(cfg: DepthStage) -> None:
    """Write the depth maps of the chosen views of some scenes to `io.out/{scene}`, and `depths.json` about them all.

    Depth is z in the units of the data's camera translations. Raises NovelviewError for a model that predicts no depth
    and views or a size that do not fit; BoxEnded after one new scene at least: the next call goes on."""
    box = TimeBox.of(cfg.runtime)
    out, weights = Path(cfg.io["out"]), Path(cfg.io["weights"])
    require_writable(out / "depths.json", "io.out")
    model, config = load_weights(weights)
    if not isinstance(model, DepthSplat):
        raise ConfigError(f"{weights}: {type(model).__name__} predicts no depth; give weights of depthsplat")
    store = PackedStore(Path(cfg.io["packed"]) / cfg.split, whole=True)
    store.require_cameras(model.needs_cameras, config["model"]["name"])
    views = views_of(config, weights, cfg.resolution)
    made: dict[str, Any] = {}
    code, data = source_digest("depth", model_code(cfg)), sha256(store.folder.parent / MANIFEST)
    stamp = stamp_of(digest(cfg), code, sha256(weights), data)
    units = Unfinished(out, stamp)
    with holding_lock(out, "WORLD_SIZE" not in os.environ), team(cfg.runtime) as ranks, torch.no_grad():
        model = model.to(ranks.device).eval()
        for scene, frames in tqdm(list(_chosen(cfg, store)), "depth", disable=None if cfg.runtime.progress else True):
            count = sum(name == scene or name.startswith(f"{scene}.") for name in made)
            name = f"{scene}.{count}" if count else scene  # an index may name a scene more than once
            known = units.read_json(name) if (out / name).is_dir() else None
            if known is None:
                encoded = encode_scene(model, weights, store, scene, frames, views, ranks.device, cfg.amp)
                known = _written(cfg, out / name, store, views, encoded)
                if box.limited:
                    units.keep_json(name, known)
                box.unit()
            made[name] = known
    facts = {"weights": weights.name, "near": model.cfg.near, "far": model.cfg.far}
    write_json(out / "depths.json", {**facts, "scenes": made})
    units.clear()
    log.info("depth maps of %d scenes: %s", len(made), out)


def _chosen(cfg: DepthStage, store: PackedStore) -> Iterator[tuple[str, list[int]]]:
    if cfg.index:
        entries = known_entries(load_index(cfg.index), store, cfg.index)
        yield from ((entry.scene, list(entry.context)) for entry in entries if cfg.scene in ("", entry.scene))
        return
    if cfg.scene and cfg.scene not in store.scenes:
        raise DataError(f"scene={cfg.scene}: not in {cfg.io['packed']}/{cfg.split}; its scenes are in its manifest")
    scenes = [cfg.scene] if cfg.scene else store.scenes[: cfg.scenes or None]
    if not scenes:
        raise DataError(f"{cfg.io['packed']}: split {cfg.split} has no scenes; choose the other as split=")
    yield from ((scene, chosen_frames(cfg, store, scene)) for scene in scenes)


def _written(
    cfg: DepthStage, folder: Path, store: PackedStore, views: ViewsConfig, encoded: Encoded
) -> dict[str, dict[str, float]]:
    """Write the maps of a scene; return their smallest, middle and largest depth by frame."""
    facts = encoded.facts
    maps = (encoded.scene.depths[0].float() / (facts.scale or 1.0)).cpu().numpy()
    images = FrameCache(store, views, 0).sample(facts.scene, facts.frames, 0).images
    write_depths(folder, facts.frames, images.permute(0, 2, 3, 1).numpy(), maps, cfg)
    spread = [np.quantile(one, (0, 0.5, 1)).tolist() for one in maps]
    rows = [{"min": low, "median": middle, "max": high} for low, middle, high in spread]
    return dict(zip(map(str, facts.frames), rows, strict=True))


if __name__ == "__main__":
    raise SystemExit(run_stage("depth", depth))
