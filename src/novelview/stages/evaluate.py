"""Stage `evaluate`: python -m novelview.stages.evaluate dataset=NAME io.weights=FILE io.out=FOLDER."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novelview.config.checkpoints import model_code
from novelview.config.compose import recorded
from novelview.config.digest import digest, digest_of, source_digest
from novelview.config.keys import validate
from novelview.config.schema import Resolution, ViewsConfig
from novelview.config.stages import EvaluateStage
from novelview.devices import team
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.evaluation.geometry import Truth
from novelview.evaluation.protocol import Splits
from novelview.evaluation.report import Subject, evaluate_to
from novelview.evaluation.scores import means
from novelview.files import MANIFEST, holding_lock, read_json, require_listed, sha256, write_json
from novelview.models.registry import load_weights
from novelview.scenes.procedural.truth import exact_depth
from novelview.scenes.samplers import selected_splits
from novelview.scenes.store import PackedStore, subset_scenes
from novelview.scenes.views import EvalEntry, load_index
from novelview.stages.cli import log, run_stage
from novelview.timebox import TimeBox, stamp_of

ADVICE = "run the download stage again"


def evaluate(cfg: EvaluateStage) -> None:
    """Score the weights `io.weights` on the splits `eval.splits` of the packed data set, into `io.out`.

    With `eval.select` the views are chosen here (`novelview.scenes.samplers`), and the splits are named after how.
    Under torchrun the entries are shared between the processes. Raises NovelviewError for a missing split, an unfit
    index, or weights that are not ours; BoxEnded when the time box is over, after one batch at least."""
    started, box, run = time.monotonic(), TimeBox.of(cfg.runtime), cfg.runtime
    weights, raw, packed, out = (Path(cfg.io[name]) for name in ("weights", "raw", "packed", "out"))
    store = PackedStore(packed / "test", whole=True)
    chosen = cfg.eval.select != "index"
    entries = selected_splits(store, cfg.eval) if chosen else _indices(raw / "indices", cfg.eval.splits)
    task = Splits.of(store, entries, _sets(raw / "scenes.json"))
    manifest = read_json(raw / MANIFEST) if (raw / MANIFEST).is_file() else {}
    cameras = manifest.get("poses") or {"estimator": "given"}  # what stage `poses` says of them
    with team(run) as ranks, holding_lock(out, ranks.world == 1) if ranks.leads else nullcontext():
        model, config = load_weights(weights)
        name = config.get("variant") or config["model"]["name"]
        store.require_cameras(model.needs_cameras, name)
        subject = Subject(model.to(ranks.device).eval(), name, views_of(config, weights))
        known, (made, code) = digest_of(config), recorded(weights.parent)  # as the training wrote beside them
        about = {"digest": known, "code": code if made == known else "", "sha256": sha256(weights), "config": config}
        facts = {"dataset": cfg.dataset, "scale": cfg.scale, "digest": digest(cfg), "weights": about}
        facts["code"] = source_digest("evaluate", model_code(cfg))
        facts |= {"cameras": cameras, "train_scenes": _train_scenes(packed / "train", cfg.dataset, config)}
        truth = Truth(*exact_depth(raw, store, ranks.device.type))
        data = sha256(packed / MANIFEST), repr(task.entries)
        stamp = stamp_of(facts, data, ranks.device.type)
        evaluate_to(
            out, subject, store, task, cfg.eval, ranks, facts, run.cache_mb, run.progress, truth, stamp, box, raw
        )
        if ranks.leads:
            summary = read_json(out / "summary.json")  # its own means go to a file small enough for git
            write_json(Path(cfg.io["metrics"]), means(summary["groups"], summary["model"]))
            log.info("evaluated %s: %d entries in %.0f s", weights, len(task.entries), time.monotonic() - started)


def _indices(folder: Path, splits: Sequence[str]) -> dict[str, list[EvalEntry]]:
    """Read the evaluation index of every split; raises DataError naming the splits that exist."""
    known = sorted(path.stem for path in folder.glob("*.json"))
    for split in splits:
        if split not in known:
            there = f"choose among {', '.join(known)}" if known else "run the download stage first"
            raise DataError(f"{folder}: no index of split '{split}' (eval.splits); {there}")
    raw = folder.parent
    return {split: load_index(require_listed(folder / f"{split}.json", raw, ADVICE)) for split in splits}


def _sets(path: Path) -> dict[str, str]:
    """Return scene -> name of its set, from the download stage's scenes.json."""
    content = read_json(require_listed(path, path.parent, ADVICE))
    try:
        return {scene: str(facts["set"]) for scene, facts in content.items()}
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{path}: does not map scenes to their set; run the download stage again") from None


def _train_scenes(packed: Path, dataset: str, config: dict[str, Any]) -> int | None:
    """Return how many scenes the weights were trained on, None where that was not a subset of this data set."""
    if config.get("dataset") != dataset or not packed.is_dir():
        return None
    return len(subset_scenes(PackedStore(packed), config.get("subset", "full")))


def views_of(config: dict[str, Any], weights: Path | str, size: str = "") -> ViewsConfig:
    """Return how weights saw views in training (image size, cropping, pose scale), for pictures of another size if any.

    Raises CheckpointError for a header `config` without them, ConfigError for a size that the patches do not fit into.
    """
    try:
        views = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ViewsConfig), config["views"]))
        validate(views)
    except (KeyError, ValueError, ConfigError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{weights}: no usable 'views' in its header ({error}); train it again") from None
    assert isinstance(views, ViewsConfig)
    if not size:
        return views
    wanted = Resolution.parse(size)
    if wanted.height % views.patch_size or wanted.width % views.patch_size:
        raise ConfigError(f"resolution={size}: both sides must be multiples of the patch size, {views.patch_size}")
    resize = "cover" if views.resize == "height" else views.resize
    return replace(views, image_size=wanted.height, image_width=wanted.width, resize=resize)


if __name__ == "__main__":
    raise SystemExit(run_stage("evaluate", evaluate))
