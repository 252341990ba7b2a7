"""Packing against unpacking to PNG, and samples from the store against reading chunks: `python bench/preprocess.py`.

Frames are 360x640 crops of scikit-image's photographs with sensor-like noise, in one chunk of RealEstate10K's size.
Everything runs in one process and one thread, in the same run; ratios are packed over the other way. Unpacking does
what the published pipelines do: decode every frame, save it as PNG, write a metadata JSON a scene; `png` compresses
at Pillow's default level, `png_fast` at level 1."""

import argparse
import io
import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import append, seconds
from PIL import Image
from skimage import data

from novelview.cameras.camera import resize_crop_plan
from novelview.config.schema import PackConfig, ViewsConfig
from novelview.scenes.chunks import ChunkScene, write_chunk
from novelview.scenes.dataset import TrainSet
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import PackedStore

HEIGHT, WIDTH = 360, 640
VIEWS = ViewsConfig()
LEVELS = {"png": 6, "png_fast": 1}


def make_chunk(path: Path, scenes: int, frames: int) -> None:
    """Write a chunk of slow pans over photographs."""
    rng = np.random.default_rng(0)
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    cameras = torch.zeros(frames, 18)
    cameras[:, :4], cameras[:, 6:] = 0.5, torch.eye(3, 4).flatten()
    cameras[:, 9] = torch.linspace(0, 1, frames)
    made = []
    for number in range(scenes):
        wide = Image.fromarray(photos[number % len(photos)][..., :3]).resize((960, 540), Image.Resampling.LANCZOS)
        images = [frame(wide, step / frames, rng) for step in range(frames)]
        made.append(ChunkScene(f"{number:016x}", "", torch.arange(frames), cameras.clone(), images))
    write_chunk(path, made)


def frame(wide: Image.Image, place: float, rng: np.random.Generator) -> bytes:
    """Return one JPEG of the pan, 360x640, quality 90."""
    left, top = place * (wide.width - WIDTH), place * (wide.height - HEIGHT)
    crop = np.asarray(wide.crop((int(left), int(top), int(left) + WIDTH, int(top) + HEIGHT)), np.int16)
    noisy = (crop + rng.integers(-4, 5, crop.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def unpack_png(chunk: Path, out: Path, limit: int, level: int) -> int:
    """Decode and save the first `limit` frames of every scene as PNG with a metadata JSON; return the frame count."""
    count = 0
    for scene in torch.load(chunk, weights_only=True):
        folder, rows = out / "images" / scene["key"], []
        folder.mkdir(parents=True)
        for number, image in enumerate(scene["images"][:limit]):
            picture = Image.open(io.BytesIO(image.numpy().tobytes())).convert("RGB")
            picture.save(folder / f"{number:05d}.png", compress_level=level)
            fx, fy, cx, cy = scene["cameras"][number, :4].tolist()
            focal = [fx * picture.width, fy * picture.height, cx * picture.width, cy * picture.height]
            w2c = [*scene["cameras"][number, 6:].reshape(3, 4).tolist(), [0.0, 0.0, 0.0, 1.0]]
            rows.append({"image_path": str(folder / f"{number:05d}.png"), "fxfycxcy": focal, "w2c": w2c})
            count += 1
        (out / f"{scene['key']}.json").write_text(json.dumps({"scene_name": scene["key"], "frames": rows}, indent=4))
    return count


def chunk_sample(chunk: Path, rng: random.Random) -> list[torch.Tensor]:
    """Return 8 resized views of a random scene by loading its whole chunk."""
    scene = rng.choice(torch.load(chunk, weights_only=True))
    numbers = rng.sample(range(len(scene["images"])), VIEWS.num_views)
    pictures = [Image.open(io.BytesIO(scene["images"][n].numpy().tobytes())).convert("RGB") for n in numbers]
    return [resize_crop_plan(HEIGHT, WIDTH, VIEWS).image(picture) for picture in pictures]


def png_sample(folder: Path, limit: int, rng: random.Random) -> list[torch.Tensor]:
    """Return 8 resized views of a random scene from unpacked PNGs."""
    scene = rng.choice(sorted(folder.iterdir()))
    pictures = [Image.open(scene / f"{n:05d}.png").convert("RGB") for n in rng.sample(range(limit), VIEWS.num_views)]
    return [resize_crop_plan(HEIGHT, WIDTH, VIEWS).image(picture) for picture in pictures]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(work: Path, scenes: int, frames: int, png_frames: int, samples: int) -> list[dict[str, object]]:
    """Return the rows: frames a second, bytes a frame, samples a second, each with packed's ratio to the other way."""
    chunk = work / "000000.torch"
    make_chunk(chunk, scenes, frames)
    pack = seconds(lambda: pack_chunks({"train": [chunk]}, work / "packed", PackConfig(), progress=False))
    rates = {"packed": scenes * frames / pack}
    sizes = {
        "packed": folder_bytes(work / "packed") / (scenes * frames),
        "raw": chunk.stat().st_size / (scenes * frames),
    }
    for way, level in LEVELS.items():
        unpacking = seconds(lambda way=way, level=level: unpack_png(chunk, work / way, png_frames, level))
        rates[way] = scenes * png_frames / unpacking
        sizes[way] = folder_bytes(work / way) / (scenes * png_frames)
    store, rng, cores = PackedStore(work / "packed" / "train"), random.Random(0), os.cpu_count() or 1
    sets = {count: TrainSet(store, VIEWS, cache_mb=0, threads=count) for count in (1, cores)}
    speeds = {
        "packed": samples / seconds(lambda: [sets[cores].item(i % scenes, rng) for i in range(samples)]),
        "packed_one_thread": samples / seconds(lambda: [sets[1].item(i % scenes, rng) for i in range(samples)]),
        "png": samples
        / seconds(lambda: [png_sample(work / "png" / "images", png_frames, rng) for _ in range(samples)]),
        "chunk": samples / seconds(lambda: [chunk_sample(chunk, rng) for _ in range(samples)]),
    }
    tables = {"frames_per_second": rates, "bytes_per_frame": sizes, "samples_per_second": speeds}
    return [
        {"measure": name, "way": way, "value": round(value, 2), "packed_over_it": round(table["packed"] / value, 3)}
        for name, table in tables.items()
        for way, value in table.items()
    ]


def main() -> None:
    """Measure and append to results/preprocess.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--frames", type=int, default=200, help="frames a scene")
    parser.add_argument("--png-frames", type=int, default=30, help="frames a scene that are unpacked to PNG")
    parser.add_argument("--samples", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(Path(work), given.scenes, given.frames, given.png_frames, given.samples)
    append("preprocess", rows)


if __name__ == "__main__":
    main()
