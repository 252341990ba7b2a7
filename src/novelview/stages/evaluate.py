"""Stage `evaluate`: python -m novelview.stages.evaluate dataset=NAME io.weights=FILE io.out=FOLDER."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novelview.config.checkpoints import model_code
from novelview.config.compose import recorded
from novelview.config.digest import digest, digest_of, source_digest
from novelview.config.keys import validate
from novelview.config.schema import ViewsConfig
from novelview.config.stages import EvaluateStage
from novelview.devices import team
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.evaluation.geometry import Truth
from novelview.evaluation.protocol import Splits
from novelview.evaluation.report import Subject, evaluate_to
from novelview.evaluation.scores import means
from novelview.files import MANIFEST, read_json, sha256, write_json
from novelview.models.registry import load_weights
from novelview.scenes.procedural.truth import exact_depth
from novelview.scenes.samplers import selected_splits
from novelview.scenes.store import PackedStore, subset_scenes
from novelview.scenes.views import EvalEntry, load_index
from novelview.stages.cli import run_stage
from novelview.timebox import TimeBox, stamp_of

log = logging.getLogger(__name__)


def evaluate(cfg: EvaluateStage) -> None:
    """Score the weights `io.weights` on the splits `eval.splits` of the packed data set, into `io.out`.

    With `eval.select` the views are chosen here (`novelview.scenes.samplers`), and the splits are named after how.
    Under torchrun the entries are shared between the processes. Raises NovelviewError, one line, for a missing split,
    an unfit index, or weights that are not ours; BoxEnded when the time box is over, after one batch at least.
    """
    started, box = time.monotonic(), TimeBox.of(cfg.runtime)
    weights, raw = Path(cfg.io["weights"]), Path(cfg.io["raw"])
    store = PackedStore(Path(cfg.io["packed"]) / "test")
    chosen = cfg.eval.select != "index"
    entries = selected_splits(store, cfg.eval) if chosen else read_indices(raw / "indices", cfg.eval.splits)
    task = Splits.of(store, entries, read_sets(raw / "scenes.json"))
    cameras = cameras_of(raw)
    with team(cfg.runtime) as ranks:
        model, config = load_weights(weights)
        subject = Subject(
            model.to(ranks.device).eval(), config.get("variant") or config["model"]["name"], views_of(config, weights)
        )
        facts = {"dataset": cfg.dataset, "scale": cfg.scale, "digest": digest(cfg), "weights": about(weights, config)}
        facts |= {"code": source_digest("evaluate", model_code(cfg)), "cameras": cameras}
        facts["train_scenes"] = train_scenes(Path(cfg.io["packed"]) / "train", cfg.dataset, config)
        run, truth = cfg.runtime, Truth(*exact_depth(raw, store, ranks.device.type))
        out = Path(cfg.io["out"])
        data = sha256(store.folder.parent / MANIFEST), repr(task.entries)
        stamp = stamp_of(facts, data, ranks.device.type)
        evaluate_to(out, subject, store, task, cfg.eval, ranks, facts, run.cache_mb, run.progress, truth, stamp, box)
        if ranks.leads:
            write_metrics(cfg)
            log.info("evaluated %s: %d entries in %.0f s", weights, len(task.entries), time.monotonic() - started)


def write_metrics(cfg: EvaluateStage) -> None:
    """Write the model's own means out of the finished summary to `io.metrics`: few enough for git."""
    summary = read_json(Path(cfg.io["out"]) / "summary.json")
    write_json(Path(cfg.io["metrics"]), means(summary["groups"], summary["model"]))


def read_indices(folder: Path, splits: Sequence[str]) -> dict[str, list[EvalEntry]]:
    """Read the evaluation index of every split; raises DataError naming the splits that exist."""
    known = sorted(path.stem for path in folder.glob("*.json"))
    for split in splits:
        if split not in known:
            there = f"choose among {', '.join(known)}" if known else "run the download stage first"
            raise DataError(f"{folder}: no index of split '{split}' (eval.splits); {there}")
    return {split: load_index(folder / f"{split}.json") for split in splits}


def read_sets(path: Path) -> dict[str, str]:
    """Return scene -> name of its set, from the download stage's scenes.json."""
    content = read_json(path)
    try:
        return {scene: str(facts["set"]) for scene, facts in content.items()}
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{path}: does not map scenes to their set; run the download stage again") from None


def cameras_of(raw: Path) -> dict[str, Any]:
    """Return whose cameras a data set has and what stage `poses` says of them; {"estimator": "given"} by default."""
    manifest = read_json(raw / MANIFEST) if (raw / MANIFEST).is_file() else {}
    return manifest.get("poses") or {"estimator": "given"}


def views_of(config: dict[str, Any], weights: Path | str) -> ViewsConfig:
    """Return how the weights saw views in training: image size, cropping, pose scale."""
    try:
        views = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ViewsConfig), config["views"]))
        validate(views)
    except (KeyError, ValueError, ConfigError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{weights}: no usable 'views' in its header ({error}); train it again") from None
    assert isinstance(views, ViewsConfig)
    return views


def about(weights: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the summary says of the weights: their training configuration, its digest, the code's, a checksum.

    code: empty where nothing beside the weights says which code made them.
    """
    digest, (known, code) = digest_of(config), recorded(weights.parent)
    return {"digest": digest, "code": code if known == digest else "", "sha256": sha256(weights), "config": config}


def train_scenes(packed: Path, dataset: str, config: dict[str, Any]) -> int | None:
    """Return how many scenes the weights were trained on, None where that was not a subset of this data set."""
    if config.get("dataset") != dataset or not packed.is_dir():
        return None
    return len(subset_scenes(PackedStore(packed), config.get("subset", "full")))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit status."""
    return run_stage("evaluate", evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
