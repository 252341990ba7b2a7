"""Small downloads and their packing, for the tests with damaged data."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from novelview.config.schema import PackConfig
from novelview.errors import DataError
from novelview.files import sha256
from novelview.scenes.chunks import ChunkScene, ChunkWriter, chunk_files
from novelview.scenes.pack import pack_chunks
from novelview.stages.cli import run_stage


def jpeg(seed: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def scene(key: str, frames: int = 4, seed: int = 0, side: int = 32) -> ChunkScene:
    cameras = torch.zeros(frames, 18)
    cameras[:, :4], cameras[:, 6:] = 0.5, torch.eye(3, 4).flatten()
    images = [jpeg(100 * seed + frame, side) for frame in range(frames)]
    return ChunkScene(key, "", torch.arange(frames), cameras, images)


def write_raw(folder: Path, chunks: int = 3, frames: int = 4, side: int = 32) -> Path:
    """Write a download of `chunks` train chunks and one test chunk, with its manifest."""
    for split, count in (("train", chunks), ("test", 1)):
        with ChunkWriter(folder / split, chunk_bytes=1) as writer:
            for number in range(count):
                writer.add(scene(f"{split}{number}", frames, number, side))
    list_files(folder)
    return folder


def list_files(folder: Path) -> None:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in found}
    (folder / "manifest.json").write_text(json.dumps({"files": files, "source": {}}))


def pack(raw: Path, out: Path, **allowance) -> dict:
    files = {"train": chunk_files(raw / "train"), "test": chunk_files(raw / "test")}
    return pack_chunks(files, out, PackConfig(**allowance), progress=False)


def one_line(call) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stage(name: str, body, folder: Path, *overrides: str) -> int:
    words = [f"io.out={folder / 'out'}", "runtime.progress=false", *overrides]
    return run_stage(name, body, [f"io.raw={folder / 'raw'}", *words] if name == "preprocess" else words)
