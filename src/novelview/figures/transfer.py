"""Whether estimated cameras move the view of another room alike: figure `transfer`, table `transfer_table`."""

import json
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from novelview.config.checkpoints import require_whole
from novelview.errors import DataError
from novelview.figures.pictures import show
from novelview.figures.results import Evaluation, Results, Score, finest
from novelview.figures.style import BASELINES, MUTED, label, picture_grid
from novelview.figures.tables import NONE, Cell, Grid, Row, Table, difference

WAYS = ("own", "transfer", "swapped")  # whose cameras render, as in evaluation/transfer.py
SIDE = 1.25  # inches of a picture
PAIRS = 3  # rows a model
TITLES = {
    **{"donor": "Twin's\ntarget", "context": "First\ncontext", "target": "Target"},
    **{"own": "Own\ncameras", "transfer": "Twin's\ncameras", "swapped": "Another\ntarget's"},
}
HEADER = ("model", "resolution", "measure", "mean", "low", "high", "pairs")


def judged(results: Results) -> list[Evaluation]:
    """Return the finest evaluations of models that estimate cameras, on data with twins."""
    return [item for item in finest(results.evaluations) if (item.summary.get("transfer") or {}).get("pairs")]


def transfer(results: Results) -> Figure:
    """Draw a few pairs of every unposed model, or say why there are none; DataError without an unposed model."""
    found = judged(results)
    if not found:
        reasons = {told["reason"] for item in results.evaluations if (told := item.summary.get("transfer"))}
        if not reasons:
            raise DataError("figure transfer: none of the models estimates cameras; take it out of the study")
        figure = Figure(figsize=(7.0, 0.8))
        figure.text(0.5, 0.5, "\n".join(sorted(reasons)), ha="center", va="center", fontsize=9, color=MUTED)
        return figure
    rows = [(item, *pair) for item in found for pair in _read(item)]
    shown = list(rows[0][1])
    size = (SIDE * len(shown) + 0.6, (SIDE + 0.25) * len(rows) + 0.5)
    figure, axes = picture_grid(len(rows), list(map(TITLES.__getitem__, shown)), size, layout="constrained")
    for line, (item, pictures, captions) in zip(axes, rows, strict=True):
        line[0].set_ylabel(item.name.replace(", ", "\n"), fontsize=6.5, color=MUTED)
        for axis, (name, picture) in zip(line, pictures.items(), strict=True):
            show(axis, picture, captions.get(name, ""))
    return figure


def _read(item: Evaluation) -> list[tuple[dict[str, np.ndarray], dict[str, str]]]:
    """Return, of the first pairs, pictures [h w 3] uint8 by name, and in words the PSNR over the pair's targets."""
    path = item.folder / "transfer.safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the evaluation again")
    require_whole(path)
    try:
        with safe_open(path, framework="numpy") as file:
            shown = json.loads((file.metadata() or {})["shown"])
            pictures, quality = file.get_tensor("pictures")[:PAIRS], file.get_tensor("psnr").T[:PAIRS]
            return [
                (
                    dict(zip(shown, own, strict=True)),
                    {way: f"{one:.1f} dB" for way, one in zip(WAYS, values, strict=True)},
                )
                for own, values in zip(pictures, quality, strict=True)
            ]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not pictures of twins ({error}); run the evaluation again") from None


def transfer_table(results: Results) -> Table:
    """Return PSNR with own, the twin's and swapped cameras, and transferability, a row a model that estimates some."""
    rows, records, reasons = [], [], []
    for item in finest(results.evaluations):
        told: dict[str, Any] = item.summary.get("transfer") or {}
        if told.get("reason"):
            reasons.append(f"{item.name}: {told['reason']}.")
        if not told.get("pairs"):
            continue
        best = max(BASELINES, key=lambda name: told[name]["mean"])
        cells = [_cell(told[name]) for name in (*WAYS, best)]
        share = told["transferability"]
        cells.append(_cell(share) if share else Cell(NONE))
        rows.append(Row((label(item.model), f"{item.resolution} px", str(told["pairs"])), tuple(cells)))
        records += [
            [item.model, item.resolution, name, *map(one.get, Score._fields), told["pairs"]]
            for name in (*WAYS, *BASELINES, "transferability")
            if (one := told[name])
        ]
    measures = next((item.summary["transfer"]["measures"] for item in judged(results)), {})
    notes = (
        *(f"{name}: {text}." for name, text in measures.items()),
        "Transferability 1: a camera says how to move and nothing else; towards 0: it is of use in its own room alone; "
        f"{NONE}: own cameras are not better than swapped ones. Small print: 95 % bootstrap interval over pairs.",
        *reasons,
    )
    columns = ("Own cameras [dB]", "The twin's", "Swapped", "Best trivial baseline", "Transferability")
    grid = Grid(
        "Are the cameras cameras? Twins of other content", ("Method", "Size", "Pairs"), columns, tuple(rows), notes
    )
    return Table((grid,), HEADER, records)


def _cell(told: dict[str, float]) -> Cell:
    mean, interval = difference(Score.of(told), "").removeprefix("+").split(" ", 1)
    return Cell(mean, f" {interval}")
