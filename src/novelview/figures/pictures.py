"""Pictures kept by evaluations: read without torch, as data URIs, and the figures `qualitative` and `attention`."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from novelview.config.checkpoints import require_whole
from novelview.errors import DataError
from novelview.evaluation.scores import read_rows
from novelview.figures.results import Evaluation, Results, finest, grouped, set_order
from novelview.figures.style import MUTED, picture_grid, split_order

Picture = Float[np.ndarray, "h w 3"]
Key = tuple[str, str, str, tuple[int, ...], int]  # set, split, scene, context frames, target frame
MAX_SIDE = 256  # pixels of a gallery picture on the page
MAX_WIDTH = 2000  # pixels of a figure on the page
QUALITY = 88
SIDE = 1.15  # inches of a picture in the grid
MAX_ROWS = 10
ERROR_LIMIT = 0.5  # absolute error at the bright end of the colour scale
ERROR_MAP = "inferno"
MAX_SCENES = 4
PLACES = ((0.3, 0.3), (0.3, 0.7), (0.7, 0.5))  # marked patches, (down, across) as shares of the picture
STOPS = np.array([[0.267, 0.005, 0.329], [0.128, 0.567, 0.551], [0.369, 0.789, 0.383], [0.993, 0.906, 0.144]])
OPACITY = 0.5
RED = np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Sample:
    """One target view with what the model saw and made; pictures are RGB in [0,1], what does not exist is None.

    psnr, psnr_nearest: the evaluation's own scores [dB] of the render and of the nearest-context copy `nearest`;
    attention: rows patches of context view 0, columns patches of view 1; depth, true_depth: z of the context views."""

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
    def key(self) -> Key:
        """What two models' samples of the same target view have in common."""
        return self.set, self.split, self.scene, self.context_frames, self.target_frame

    @property
    def caption(self) -> str:
        """Where it is from, on two lines."""
        return f"{self.set}, {self.split}\n{self.scene}"


Shared = tuple[Sample | None, ...]  # the samples of one target view, one a model; at least one is there


def psnr(image: Picture, target: Picture) -> float:
    """Return the PSNR in dB of two pictures in [0,1], clamped (specs/uplvsm.md section 10)."""
    error = float(np.mean((np.clip(image, 0, 1) - np.clip(target, 0, 1)) ** 2, dtype=np.float64))
    return -10.0 * float(np.log10(error)) if error else float("inf")


def error_map(image: Picture, target: Picture) -> Float[np.ndarray, "h w"]:
    """Return the absolute error averaged over the colour channels, in [0,1]."""
    return np.abs(np.clip(image, 0, 1) - np.clip(target, 0, 1)).mean(axis=2)


def has_gallery(evaluation: Evaluation) -> bool:
    """Tell whether an evaluation kept pictures."""
    return (evaluation.folder / "gallery.safetensors").is_file()


def read_gallery(evaluation: Evaluation) -> list[Sample]:
    """Read the pictures kept by an evaluation, in reading order; raises DataError when they cannot be read."""
    path = evaluation.folder / "gallery.safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no pictures kept; run the evaluate stage first")
    rows = read_rows(evaluation.folder / "rows.csv")
    scores = {(row.split, row.entry, row.frame): row.psnr for row in rows if row.model == "nearest_context"}
    require_whole(path)
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
    # The baseline copies the view with the nearest camera, and cameras are not kept here: its score tells which.
    nearest = min(context, key=lambda view: abs(psnr(view, target) - copied))
    kept = [name for name in ("attention", "depth", "true_depth") if f"{number}.{name}" in set(file.keys())]
    return Sample(
        *(entry["scene"], entry["set"], entry["split"], tuple(entry["context"]), frame),
        *(tuple(context), target, render, nearest, float(entry["psnr"]), copied),
        **{name: file.get_tensor(f"{number}.{name}").astype(np.float32) for name in kept},
    )


def _order(key: Key) -> tuple[Any, ...]:
    return set_order(key[0]), split_order(key[1]), key


def _picture(view: np.ndarray) -> Picture:
    """Turn [3 h w], uint8 or float, into [h w 3] float in [0,1]."""
    values = view.astype(np.float32) / (255.0 if view.dtype == np.uint8 else 1.0)
    return np.clip(values.transpose(1, 2, 0), 0.0, 1.0)


def shared_samples(galleries: Sequence[Sequence[Sample]]) -> list[Shared]:
    """Line up the samples of several models by target view, None where a model kept none, in reading order."""
    lookup = [{sample.key: sample for sample in gallery} for gallery in galleries]
    keys = {key for table in lookup for key in table}
    return [tuple(table.get(key) for table in lookup) for key in sorted(keys, key=_order)]


def spread(rows: list[Shared], count: int) -> list[Shared]:
    """Keep at most `count` rows, each set and split in turn, so that none is crowded out."""
    groups = grouped(rows, lambda row: any_of(row).key[:2]).values()
    turns = [row for turn in zip_longest(*groups) for row in turn if row is not None]
    kept = [id(row) for row in turns[:count]]
    return [row for row in rows if id(row) in kept]


def any_of(row: Shared) -> Sample:
    """Return a sample of the row: contexts and target are the same in all of them."""
    return next(sample for sample in row if sample is not None)


def data_uri(content: bytes, kind: str) -> str:
    """Return `content` as a base64 data URI of media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(picture: Picture) -> str:
    """Return a picture in [0,1] as a WebP data URI, shrunk to `MAX_SIDE` where larger."""
    return _webp(Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)), MAX_SIDE, MAX_SIDE)


def error_uri(sample: Sample) -> str:
    """Return the error map of a render as a coloured picture."""
    shares = np.clip(error_map(sample.render, sample.target) / ERROR_LIMIT, 0, 1)
    return picture_uri(colormaps[ERROR_MAP](shares)[..., :3])


def figure_uri(stem: Path) -> str:
    """Return a finished figure: its SVG, or its PNG as WebP where that is smaller; DataError when it is missing."""
    vector, raster = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png"))
    if not raster.is_file():
        raise DataError(f"{raster}: no such figure; run the figures stage first")
    try:
        with Image.open(raster) as image:
            small = _webp(image, MAX_WIDTH, 4 * MAX_WIDTH)
    except UnidentifiedImageError:
        raise DataError(f"{raster}: not a picture; delete it and draw it again") from None
    drawn = data_uri(vector.read_bytes(), "image/svg+xml") if vector.is_file() else small
    return min(small, drawn, key=len)


def _webp(image: Image.Image, width: int, height: int) -> str:
    stream = io.BytesIO()
    image.thumbnail((width, height), Image.Resampling.LANCZOS)
    image.convert("RGB").save(stream, "WEBP", quality=QUALITY, method=4)
    return data_uri(stream.getvalue(), "image/webp")


def qualitative(results: Results) -> Figure:
    """Draw contexts, target, nearest copy, each model's finest render and its error map; DataError without pictures."""
    evaluations = finest(results.evaluations)
    rows = spread(shared_samples([read_gallery(evaluation) for evaluation in evaluations]), MAX_ROWS)
    if not rows:
        raise DataError(f"{results.folders[0]}: its gallery is empty; run the evaluation with eval.gallery above 0")
    titles = ["First\ncontext", "Last\ncontext", "Target", "Nearest\ncontext"]
    titles += [title for item in evaluations for title in (item.name.replace(", ", "\n"), "Error")]
    size = (SIDE * len(titles) * 1.05, (SIDE + 0.22) * len(rows) + 0.7)
    figure, axes = picture_grid(len(rows), titles, size, gridspec_kw={"wspace": 0.05, "hspace": 0.22})
    for line, row in zip(axes, rows, strict=True):
        sample = any_of(row)
        for axis, picture in zip(line, (sample.context[0], sample.context[-1], sample.target), strict=False):
            show(axis, picture)
        line[0].set_ylabel(sample.caption, fontsize=6.5, color=MUTED)
        show(line[3], sample.nearest, f"{sample.psnr_nearest:.2f} dB")
        for left, right, own in zip(line[4::2], line[5::2], row, strict=True):
            error = error_map(own.render, own.target) if own else None
            show(left, own and own.render, f"{own.psnr:.2f} dB" if own else "", "not kept")
            mean = "" if error is None else f"mean {float(np.mean(error)):.3f}"
            show(right, error, mean, "not kept", cmap=ERROR_MAP, vmin=0.0, vmax=ERROR_LIMIT)
    # The error maps' shared colour scale under the grid.
    left, right, inches = axes[-1, 4].get_position().x0, axes[-1, -1].get_position(), figure.get_figheight()
    area = figure.add_axes((left, right.y0 - 0.42 / inches, right.x1 - left, 0.1 / inches))
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, ERROR_LIMIT), ERROR_MAP), cax=area, orientation="horizontal")
    bar.set_label("Absolute error, mean over colour channels (pictures in [0, 1])", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def show(axis: Axes, picture: np.ndarray | None, caption: str = "", missing: str = "none", **scale: Any) -> None:
    """Draw a picture, or values [h w] on a colour scale, with its caption below; for None say what is missing."""
    if picture is None:
        axis.text(0.5, 0.5, missing, ha="center", va="center", fontsize=7, color=MUTED, transform=axis.transAxes)
        return
    axis.imshow(picture, interpolation="nearest", **scale)
    axis.set_xlabel(caption, fontsize=7, labelpad=2, color=MUTED)


def attention(results: Results) -> Figure:
    """Draw patches of context view 0 and where in view 1 the encoder's attention from them goes (specs/uplvsm.md, 11).

    Raises DataError when no gallery holds any attention."""
    rows = []
    for item in finest(results.evaluations):
        attended = grouped((one for one in read_gallery(item) if one.attention is not None), lambda one: one.scene)
        rows += [(item, samples[0]) for samples in list(attended.values())[:MAX_SCENES]]
    if not rows:
        what = "no gallery holds attention maps; give the evaluation of a model that has them"
        raise DataError(f"figure attention: {what}")
    titles = ["Context 2", *("Patch", "Attention") * len(PLACES)]
    size = (1.35 * len(titles), 1.35 * len(rows) + 0.4)
    figure, axes = picture_grid(len(rows), titles, size, gridspec_kw={"wspace": 0.05, "hspace": 0.08})
    for line, (evaluation, sample) in zip(axes, rows, strict=True):
        pictures = [sample.context[-1], *(picture for place in PLACES for picture in overlays(sample, place))]
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
        line[0].set_ylabel(f"{evaluation.name}\n{sample.set}, {sample.scene}", fontsize=6.5, color=MUTED)
    return figure


def overlays(sample: Sample, place: tuple[float, float]) -> tuple[Picture, Picture]:
    """Return context view 0 with the patch at `place` in red, and view 1 under the colours of its attention."""
    weights, (height, width) = sample.attention, sample.context[0].shape[:2]
    assert weights is not None
    count = len(weights)
    size = round((height * width / count) ** 0.5)
    down, across = int(place[0] * height / size), int(place[1] * width / size)
    whole = np.zeros((2 * count, 2 * count), dtype=np.float32)  # the gallery keeps the block from view 0 to view 1 only
    whole[:count, count:] = weights
    return overlay(whole, sample.context[0], sample.context[-1], down * (width // size) + across, size)


def overlay(
    attention: Float[np.ndarray, "n n"], first: Picture, second: Picture, patch: int, size: int
) -> tuple[Picture, Picture]:
    """Return view 0 with patch number `patch` (row by row) in half red, and view 1 under the patch's attention.

    attention: among the image tokens of both views; size: pixels of a patch's side. Raises DataError for a map of
    other views or a patch that view 0 does not have."""
    rows, columns = (side // size for side in first.shape[:2])
    count = rows * columns
    if attention.shape != (2 * count, 2 * count):
        raise DataError(f"attention of {attention.shape} does not belong to two views of {rows}x{columns} patches")
    if not 0 <= patch < count:
        raise DataError(f"patch {patch} does not exist; the view has patches 0 to {count - 1}")
    weights = attention[patch, count : 2 * count]
    span = weights.max() - weights.min()
    heat = colours((weights - weights.min()) / span if span > 0 else np.zeros_like(weights))
    heat = heat.reshape(rows, columns, 3).repeat(size, axis=0).repeat(size, axis=1)
    marked = first.copy()
    row, column = (number * size for number in divmod(patch, columns))
    area = np.s_[row : row + size, column : column + size]
    marked[area] = (1 - OPACITY) * first[area] + OPACITY * RED
    return marked, (1 - OPACITY) * second + OPACITY * heat


def colours(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Colour values in [0,1] by straight lines between four stops of the viridis map."""
    return np.stack([np.interp(values, np.linspace(0, 1, len(STOPS)), stops) for stops in STOPS.T], axis=-1)
