"""Fixtures that tests of several folders share."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_stores import MakePacked
from PIL import Image

from novelview.config.schema import PackConfig
from novelview.scenes.chunks import ChunkScene, write_chunk
from novelview.scenes.pack import pack_chunks

LONGEST = ("workflow", "resilience", "kernels")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the folders with the longest files first: workers take whole files, and all wait for the last one."""
    items.sort(
        key=lambda item: next((rank for rank, name in enumerate(LONGEST) if name in item.path.parts), len(LONGEST))
    )


def _jpeg(generator: np.random.Generator, height: int, width: int) -> bytes:
    coarse = generator.integers(0, 255, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _scene(name: str, frames: int, size: tuple[int, int], seed: int) -> ChunkScene:
    generator = np.random.default_rng(seed)
    angle = torch.linspace(0, 0.5, frames) + seed
    w2c = torch.eye(4).repeat(frames, 1, 1)
    w2c[:, 0, 0] = w2c[:, 2, 2] = angle.cos()
    w2c[:, 0, 2], w2c[:, 2, 0] = angle.sin(), -angle.sin()
    w2c[:, :3, 3] = torch.stack([torch.linspace(0, 1, frames), 0.1 * angle, torch.linspace(2, 1, frames)], dim=1)
    head = torch.tensor([0.9, 1.6, 0.48, 0.52, 0.0, 0.0]).expand(frames, 6)
    cameras = torch.cat([head, w2c[:, :3].flatten(1)], dim=1)
    return ChunkScene(name, "", torch.arange(frames), cameras, [_jpeg(generator, *size) for _ in range(frames)])


@pytest.fixture(scope="session")
def make_packed() -> MakePacked:
    """Return make(folder, {scene: frames}, size=(height, width), damage={scene: frames}) -> folder of a packed store.

    The store's only split is `train`; frames are smooth noise, cameras turn and move steadily."""

    def make(
        folder: Path,
        scenes: Mapping[str, int],
        size: tuple[int, int] = (36, 64),
        damage: Mapping[str, set[int]] | None = None,
    ) -> Path:
        made = [_scene(name, frames, size, seed) for seed, (name, frames) in enumerate(scenes.items())]
        for scene in made:
            for frame in (damage or {}).get(scene.key, ()):
                scene.images[frame] = b"not a picture"
        write_chunk(folder / "raw" / "000000.torch", made)
        cfg = PackConfig(max_bad_frames=100)
        pack_chunks({"train": [folder / "raw" / "000000.torch"]}, folder / "packed", cfg, progress=False)
        return folder / "packed"

    return make


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, make_packed: MakePacked) -> Path:
    """A packed store of eight scenes of 12 frames, 36x64 pixels; read only."""
    return make_packed(tmp_path_factory.mktemp("packed"), {f"scene{number}": 12 for number in range(8)})
