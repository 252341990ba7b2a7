"""Pictures for people: clips along a path of cameras as MP4 files, and depth maps as arrays and coloured pictures."""

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from novelview.cameras.paths import along, interpolate, nearest_order
from novelview.config.schema import EvalConfig
from novelview.config.stages import DepthStage, PathConfig
from novelview.errors import DataError
from novelview.evaluation.protocol import Splits, autocast, choose_scenes, load_context
from novelview.files import replacing
from novelview.scenes.batch import FrameCache, Views

Cameras = tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]

GAP = 4  # white pixels between the pictures of a frame
FPS = 30  # of a film whose configuration says nothing else (EvalConfig.video_fps)
MIN_SIDE = 224  # smaller frames are enlarged by whole pixels, so players do not blur them
CODECS = {  # the first that PyAV was built with; browsers play H.264
    # Without mbtree=0 the same frames give other bytes once memory is dirty: docs/quirks.md, "Libraries".
    "libx264": {"crf": "16", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"},
    "libopenh264": {"rc_mode": "quality"},
    "mpeg4": {"qscale": "2", "threads": "1"},
}
COLOURS = "turbo"  # of depth maps: near is red
OUTLIERS = (1.0, 99.0)  # percentiles of 1/depth at the ends of the colours


def write_clips(
    out: Path, model: Any, cache: FrameCache, splits: Splits, cfg: EvalConfig, device: torch.device
) -> list[str]:
    """Write `path_<scene>.mp4` for up to `cfg.video_scenes` scenes of two context views or more; return the names."""
    chosen = [(number, splits.entries[number]) for number in choose_scenes(splits, cfg.video_scenes)]
    names = []
    for number, entry in ((number, entry) for number, entry in chosen if len(entry.context) > 1):
        batch = load_context(cache, entry.scene, entry.context, number, device)
        names.append(f"path_{re.sub(r'[^A-Za-z0-9._-]+', '-', entry.scene)}.mp4")
        write_video(out / names[-1], clip(model, batch.context, cfg), cfg.video_fps)
    return names


@torch.no_grad()
def clip(model: Any, context: Views, cfg: EvalConfig) -> UInt8[np.ndarray, "n h w 3"]:
    """Render the path through the context cameras of a batch of one, the first and last context view beside it."""
    assert context.images is not None
    with autocast(cfg.amp, context.c2w.device):
        # True cameras where the model takes poses, else its own estimates (specs/uplvsm.md section 11).
        # Between two cameras the way back shows the pictures of the way there: they are rendered once.
        mirrored = cfg.video_ease and cfg.video_loop and context.c2w.shape[1] == 2
        path = (cfg.video_frames, cfg.video_loop and not mirrored, cfg.video_order, cfg.video_ease)
        stops = context.c2w if model.needs_target_poses else model.estimate_poses(context, context.images)
        c2w, intrinsics = interpolate(stops[0].float(), context.intrinsics[0], *path)
        images = model.render_path(context, c2w[None], intrinsics[None])[0].float()
        images = images[there_and_back(len(images))] if mirrored else images
    first, last = (context.images[0, end].expand_as(images) for end in (0, -1))
    gap = torch.ones_like(images[..., :GAP])
    frames = to_uint8(torch.cat([first, gap, images, gap, last], dim=-1))
    return enlarge(frames.permute(0, 2, 3, 1).cpu().numpy())


def there_and_back(count: int) -> list[int]:
    """Return the frame numbers of a loop to the last frame and back, neither end twice."""
    return [*range(count), *range(count - 2, 0, -1)]


def path_cameras(
    path: PathConfig, frames: int, c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 4"]
) -> Cameras:
    """Return `frames` cameras, or as many a leg as it says, of a path through two or more (specs/lact.md section 9)."""
    if path.frames_per_leg:
        return interpolate(c2w, intrinsics, path.frames_per_leg, path.loop, path.order)
    stops = nearest_order(c2w[:, :3, 3]) if path.order else list(range(len(c2w)))
    stops += stops[:1] if path.loop else []
    legs = max(1, len(stops) - 1)
    count = legs * (path.between + 1) + 1 if path.between else frames
    return along(c2w[stops], intrinsics[stops], torch.linspace(0, legs, count, dtype=torch.float64), path.blend)


def to_uint8(images: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
    """Round images in [0,1] to bytes."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def enlarge(frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n a b 3"]:
    """Repeat pixels until the shorter side has at least MIN_SIDE of them."""
    factor = -(-MIN_SIDE // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def write_video(path: Path | str, frames: UInt8[np.ndarray, "n h w 3"], fps: int = FPS) -> None:
    """Write RGB frames as MP4 (H.264), byte for byte reproducible; raises DataError without frames or PyAV."""
    try:
        import av  # here, because a bare machine (docs/mini.md) has none and makes no videos
    except ModuleNotFoundError:
        advice = "pip install 'novelview[figures]', or set eval.video_scenes=0"
        raise DataError(f"{path}: videos need PyAV: {advice}") from None
    if not len(frames):
        raise DataError(f"{path}: a video needs at least one frame")
    even = even_sides(frames)  # as yuv420p needs them
    # +faststart moves the index to the front, where a page's player looks for it
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4", options=options) as container:
        codec = next(name for name in CODECS if name in av.codecs_available)
        stream = container.add_stream(codec, rate=Fraction(fps), options=CODECS[codec])
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
        for picture in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def even_sides(frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n a b 3"]:
    """Pad odd heights and widths by one, repeating the edge."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def coloured(depths: Float[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Return 1/depth in colours, near red and far blue, on one scale for all maps; depths must be positive."""
    from matplotlib import colormaps  # here, because a bare machine has none and draws no depth

    inverse = 1 / depths.astype(np.float64)
    low, high = np.percentile(inverse, OUTLIERS)
    place = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)
    return np.round(colormaps[COLOURS](place)[..., :3] * 255).astype(np.uint8)


def write_depths(
    folder: Path,
    frames: Sequence[int],
    images: UInt8[np.ndarray, "n h w 3"],
    depths: Float[np.ndarray, "n h w"],
    cfg: DepthStage,
) -> None:
    """Write what `cfg` asks for: `{frame}.npy`, `{frame}.png`, and `concat.png`, the views above their depths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = coloured(depths)
    drawn = {f"{frame:06d}": picture for frame, picture in zip(frames, pictures, strict=True)} if cfg.png else {}
    if cfg.concat:
        drawn["concat"] = np.concatenate([np.concatenate(list(row), axis=1) for row in (images, pictures)])
    for name, picture in drawn.items():
        with replacing(folder / f"{name}.png") as partial:
            Image.fromarray(picture).save(partial, "PNG")
    for frame, depth in zip(frames, depths, strict=True) if cfg.npy else ():
        with replacing(folder / f"{frame:06d}.npy") as partial:
            np.save(partial, depth.astype(np.float32))
