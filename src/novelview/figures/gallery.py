"""Pictures kept by an evaluation, read without torch: contexts, target and render of one target view a sample."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from novelview.errors import DataError
from novelview.evaluation.scores import read_rows
from novelview.figures.results import Evaluation, set_order
from novelview.figures.style import split_order

Picture = Float[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Sample:
    """One target view with what the model saw and made; pictures [h w 3], RGB in [0,1].

    psnr, psnr_nearest: the evaluation's own scores [dB] of the render and of the nearest-context copy `nearest`.
    depth, true_depth: [v h w], z of the context views; None where there is none.
    attention: [n n], rows patches of context view 0, columns patches of context view 1; None where there is none.
    """

    scene: str
    set: str
    split: str
    context_frames: tuple[int, ...]
    target_frame: int
    context: tuple[Picture, ...]
    target: Picture
    render: Picture
    nearest: Picture
    psnr: float
    psnr_nearest: float
    attention: Float[np.ndarray, "n n"] | None = None
    depth: Float[np.ndarray, "v h w"] | None = None
    true_depth: Float[np.ndarray, "v h w"] | None = None

    @property
    def key(self) -> tuple[str, str, str, tuple[int, ...], int]:
        """What two models' samples of the same target view have in common."""
        return self.set, self.split, self.scene, self.context_frames, self.target_frame


def psnr(image: Picture, target: Picture) -> float:
    """Return the PSNR in dB of two pictures in [0,1], clamped (specs/uplvsm.md section 10)."""
    error = float(np.mean((np.clip(image, 0, 1) - np.clip(target, 0, 1)) ** 2, dtype=np.float64))
    return -10.0 * float(np.log10(error)) if error else float("inf")


def error_map(image: Picture, target: Picture) -> Float[np.ndarray, "h w"]:
    """Return the absolute error averaged over the colour channels, in [0,1]."""
    return np.abs(np.clip(image, 0, 1) - np.clip(target, 0, 1)).mean(axis=2)


def read_gallery(evaluation: Evaluation) -> list[Sample]:
    """Read the pictures kept by an evaluation, in reading order; raises DataError when they cannot be read."""
    path = evaluation.folder / "gallery.safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no pictures kept; run the evaluate stage first")
    rows = read_rows(evaluation.folder / "rows.csv")
    scores = {(row.split, row.entry, row.frame): row.psnr for row in rows if row.model == "nearest_context"}
    try:
        with safe_open(path, framework="numpy") as file:
            entries = json.loads((file.metadata() or {})["gallery"])
            samples = [_sample(file, number, entry, scores) for number, entry in enumerate(entries)]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a gallery of this program ({error}); run the evaluation again") from None
    return sorted(samples, key=lambda sample: _order(sample.key))


def _sample(file: Any, number: int, entry: dict[str, Any], scores: dict[tuple[str, int, int], float]) -> Sample:
    context = [_picture(view) for view in file.get_tensor(f"{number}.context")]
    target, render = (_picture(file.get_tensor(f"{number}.{name}")[0]) for name in ("target", "render"))
    frame = int(entry["target"][0])
    copied = scores[entry["split"], entry["entry"], frame]
    return Sample(
        scene=entry["scene"],
        set=entry["set"],
        split=entry["split"],
        context_frames=tuple(entry["context"]),
        target_frame=frame,
        context=tuple(context),
        target=target,
        render=render,
        # The baseline copies the view with the nearest camera, and cameras are not kept here: its score tells which.
        nearest=min(context, key=lambda view: abs(psnr(view, target) - copied)),
        psnr=float(entry["psnr"]),
        psnr_nearest=copied,
        **{
            name: file.get_tensor(f"{number}.{name}").astype(np.float32)
            for name in ("attention", "depth", "true_depth")
            if f"{number}.{name}" in set(file.keys())
        },
    )


def _order(key: tuple[str, str, str, tuple[int, ...], int]) -> tuple[Any, ...]:
    return set_order(key[0]), split_order(key[1]), key


def _picture(view: np.ndarray) -> Picture:
    """Turn [3 h w], uint8 or float, into [h w 3] float in [0,1]."""
    values = view.astype(np.float32) / (255.0 if view.dtype == np.uint8 else 1.0)
    return np.clip(values.transpose(1, 2, 0), 0.0, 1.0)


def shared_samples(galleries: list[list[Sample]]) -> list[tuple[Sample | None, ...]]:
    """Line up the samples of several models by target view, None where a model kept none, in reading order."""
    lookup = [{sample.key: sample for sample in gallery} for gallery in galleries]
    keys = {key for table in lookup for key in table}
    ordered = sorted(keys, key=_order)
    return [tuple(table.get(key) for table in lookup) for key in ordered]


def finest(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Keep the highest resolution of each model on each data set."""
    best: dict[tuple[str, str], Evaluation] = {}
    for evaluation in sorted(evaluations, key=lambda item: item.resolution):
        best[evaluation.dataset, evaluation.model] = evaluation
    return [best[key] for key in sorted(best)]
