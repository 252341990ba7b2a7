"""Every resolved configuration of every study, scale, run and phase is the one it was.

`resolved_configurations.json` holds a digest of each. After a change that is meant to change some of them, write
it anew with `python tests/unit/test_resolved_configurations.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from novelview.config.compose import compose, conf_dir
from novelview.config.digest import digest
from novelview.config.plan import Plan
from novelview.config.study import at_scale, load_study, phases_of
from novelview.downloads.registry import read_registry

KNOWN = Path(__file__).with_name("resolved_configurations.json")
SCALES = ("demo", "mini", "paper")
MODELS = ("uplvsm", "ptlvsm", "lvsm_decoder_only", "lvsm_encoder_decoder", "lact", "depthsplat")
# Sizes by name that a published checkpoint or a reader chooses, with a recipe that goes with them.
SIZES = ("base", "base448", "large", "mv", "pm")
FILES = ("io.weights=-", "io.out=-")
BY_HAND = {
    "source": (
        "chunks colmap dl3dv dl3dv_chunks opencv_cameras photos re10k rooms rooms_ladder rooms_mini rooms_showcase"
        " rooms_textured transforms",
        ("download", "path=/somewhere"),
    ),
    "eval": (
        "bound_aware dl3dv_bound_aware held_out objects re10k rooms rooms_mini rooms_overlap showcase views"
        " views_dl3dv",
        ("evaluate", *FILES),
    ),
    "poses": ("colmap given vggt", ("poses", "dataset=rooms")),
    "camera_path": ("free lact lvsm", ("render", *FILES)),
}


def configurations() -> Iterator[tuple[str, Any]]:
    """Yield (what it is, configuration) of everything that the workflow or a reader composes."""
    yield from _of_studies()
    yield from _by_hand()


def _of_studies() -> Iterator[tuple[str, Any]]:
    for path in sorted((conf_dir() / "study").glob("*.yaml")):
        for scale in load_study(path.stem).data:
            study = at_scale(load_study(path.stem), scale)
            own_path = {} if study.data[scale].path or study.data[scale].source.startswith("rooms") else "/somewhere"
            plan = Plan({"study": study.name, "scale": scale, **({"path": own_path} if own_path else {})})
            place = f"{path.stem} {scale}"
            for stage in ("download", "preprocess", "evaluate", "figures", "report", "latency"):
                yield f"{place} {stage}", plan.composed(stage)
            for name in study.poses.get(scale, []):
                for stage in ("poses", "preprocess", "evaluate"):
                    yield f"{place} {stage} {name}", plan.composed(stage, name)
            for figure in (*plan.figures, *plan.tables):
                yield f"{place} figures {figure}", plan.composed("figures", figure=figure)
            for run in study.models:
                for phase in phases_of(study, run):
                    for subset in study.subsets.get(scale, ["full"]):
                        yield f"{place} train {run} {phase} {subset}", plan.composed("train", run, phase, subset)


def _by_hand() -> Iterator[tuple[str, Any]]:
    for scale in SCALES:
        for model in MODELS:
            for phase in ("pretrain", "finetune"):
                yield _composed("train", f"model={model}", f"scale={scale}", f"phase={phase}")
        for size in SIZES:
            recipe = f"recipe={scale}/depthsplat_{size}/pretrain" if size in ("mv", "pm") else "phase=pretrain"
            patch = "views.image_size=64" if scale != "paper" else "views.image_size=256"
            yield _composed("train", "model=depthsplat", f"size={scale}/depthsplat_{size}", recipe, patch)
        yield _composed("latency", f"scale={scale}", "io.out=-")
        yield _composed("pointmaps", f"scale={scale}")
    for group, (options, (stage, *words)) in BY_HAND.items():
        for option in options.split():
            yield _composed(stage, f"{group}={option}", *words)
    for _, entry in sorted(read_registry().items()):
        if entry.adopt:
            yield _composed("adopt", *entry.adopt)
    yield _composed("depth", *FILES)
    yield _composed("compact", "name=uplvsm_mini", *FILES)
    yield _composed("publish", "io.evaluation=-", *FILES)


def _composed(stage: str, *words: str) -> tuple[str, Any]:
    return f"{stage} {' '.join(words)}", compose(stage, words)


def test_every_resolved_configuration_is_the_known_one() -> None:
    known = json.loads(KNOWN.read_text())
    found = {name: digest(config) for name, config in configurations()}
    assert sorted(found) == sorted(known)
    assert [name for name in known if found[name] != known[name]] == []


if __name__ == "__main__":
    KNOWN.write_text(json.dumps({name: digest(config) for name, config in configurations()}, indent=0) + "\n")
