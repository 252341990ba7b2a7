"""RE10K and DL3DV `.torch` chunks: checked reading and atomic writing (specs/re10k_format.md section 1)."""

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.errors import DataError
from novelview.files import replacing, write_json
from novelview.scenes.disk import locating

RE10K_CHUNK_BYTES = 100_000_000
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
ADVICE = "delete it and fetch or make it again"


@dataclass
class ChunkScene:
    """One scene as a chunk holds it; frame i is row i of everything.

    key: scene id (16 hex digits in RE10K); url: where the video came from, may be empty.
    timestamps: int64 [N], microseconds.
    cameras: float32 [N,18] = fx/W fy/H cx/W cy/H 0 0, then the 3x4 world-to-camera matrix, row-major, OpenCV axes.
    images: N undecoded JPEGs, bytes or uint8 tensors [length].
    """

    key: str
    url: str
    timestamps: Int[Tensor, " n"]
    cameras: Float[Tensor, "n 18"]
    images: list[Any]


def chunk_files(folder: Path | str) -> list[Path]:
    """Return the sorted chunks of a split folder; raises DataError when there is none."""
    files = sorted(path for path in Path(folder).glob("*.torch") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: no .torch chunks here; run the download stage first or correct the path")
    return files


def read_chunk(path: Path | str) -> list[ChunkScene]:
    """Read and check a chunk without executing anything in it; images are uint8 tensors mapped from the file.

    Raises DataError, one line naming file, scene and field, for anything that is missing, damaged or hostile.
    """
    content = _load(Path(path))
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: holds no list of scenes; {ADVICE}")
    scenes = [_scene(path, number, entry) for number, entry in enumerate(content)]
    seen: set[str] = set()
    for scene in scenes:
        if scene.key in seen:
            raise DataError(f"{path}: scene {scene.key} appears twice; {ADVICE}")
        seen.add(scene.key)
    return scenes


def _load(path: Path) -> Any:
    try:
        zipped = _is_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such chunk; run the download stage again") from None
    # A damaged or hostile pickle can fail in any way inside the unpickler: this is the trust boundary.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or "no reason given"
        raise DataError(f"{path}: not a readable chunk ({type(error).__name__}: {reason}); {ADVICE}") from None


def _is_zip(path: Path) -> bool:
    """Tell the zip format from the older one, refusing archives that unpack to more than they weigh."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DataError(f"{path}: holds compressed records, which chunks never do; {ADVICE}")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise DataError(f"{path}: its records claim more bytes than the file has; {ADVICE}")
    return True


def recorded_checksums(path: Path | str) -> frozenset[int] | None:
    """Return the CRC-32s in the archive's directory; None for old files and files saved without checksums.

    torch.load never compares them; the packer does, so that a byte changed on the way is found.
    Raises DataError when the pickle itself does not fit its checksum.
    """
    if not _is_zip(Path(path)):
        return None
    with zipfile.ZipFile(path) as archive:
        known = frozenset(entry.CRC for entry in archive.infolist())
        if known == {0}:  # torch.serialization.set_crc32_options(False)
            return None
        try:
            archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        except zipfile.BadZipFile:
            raise DataError(f"{path}: its pickle changed since it was written; {ADVICE}") from None
    return known


def _scene(path: Path | str, number: int, entry: Any) -> ChunkScene:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: entry {number} is no scene; {ADVICE}")
    key = entry.get("key")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise DataError(f"{path}: entry {number} has no usable scene key; {ADVICE}")
    url = entry.get("url", "")
    fields = [_tensor(path, key, entry, name) for name in ("timestamps", "cameras")]
    images = entry.get("images")
    if not isinstance(images, list) or not images:
        raise DataError(f"{path}: scene {key}: images is no list of frames; {ADVICE}")
    for frame, image in enumerate(images):
        if not _plain(image, torch.uint8, 1):
            raise DataError(f"{path}: scene {key}: frame {frame} is no uint8 vector; {ADVICE}")
    scene = ChunkScene(key, url if isinstance(url, str) else "", fields[0], fields[1], images)
    _check(path, scene)
    return scene


FIELDS = {"timestamps": (torch.int64, 1), "cameras": (torch.float32, 2)}


def _tensor(path: Path | str, key: str, entry: dict, name: str) -> Tensor:
    dtype, dims = FIELDS[name]
    value = entry.get(name)
    if value is None or not _plain(value, dtype, dims):
        kind = str(dtype).removeprefix("torch.")
        raise DataError(f"{path}: scene {key}: {name} is no {kind} tensor of {dims} dimension(s); {ADVICE}")
    return value


def _plain(value: Any, dtype: torch.dtype, dims: int) -> bool:
    """Whether `value` is an ordinary dense CPU tensor; a stride of 0 would let one byte pose as a billion."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        return False
    ordinary = value.is_contiguous() and not (value.requires_grad or value.is_neg())
    return ordinary and value.dtype == dtype and value.dim() == dims


def _check(path: Path | str, scene: ChunkScene) -> None:
    frames, where = len(scene.images), f"{path}: scene {scene.key}"
    if scene.timestamps.shape != (frames,) or scene.cameras.shape != (frames, 18):
        shapes = f"timestamps {list(scene.timestamps.shape)}, cameras {list(scene.cameras.shape)}"
        raise DataError(f"{where}: {frames} images but {shapes}, wanted [{frames}] and [{frames}, 18]; {ADVICE}")
    cameras = scene.cameras.double()
    rotation = cameras[:, 6:].reshape(-1, 3, 4)[:, :, :3]
    usable = cameras.isfinite().all(1) & (cameras[:, :2] > 0).all(1)
    usable &= torch.linalg.det(rotation.nan_to_num(0.0, 0.0, 0.0)).abs() > 1e-6
    if not usable.all():
        frame = int((~usable).nonzero()[0])
        raise DataError(f"{where}: camera of frame {frame} is not finite or not invertible; {ADVICE}")


def write_chunk(path: Path | str, scenes: Iterable[ChunkScene]) -> None:
    """Write scenes as one chunk, atomically; equal scenes give equal bytes."""
    content = [
        {
            "url": scene.url,
            "timestamps": scene.timestamps.to(torch.int64).clone(),
            "cameras": scene.cameras.to(torch.float32).clone(),
            "images": [_bytes_tensor(image) for image in scene.images],
            "key": scene.key,
        }
        for scene in scenes
    ]
    # An open file rather than a path: torch.save would store the temporary file's name in the archive.
    with locating(path), replacing(path) as partial, open(partial, "wb") as stream:
        torch.save(content, stream)


def _bytes_tensor(image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        return (
            torch.frombuffer(bytearray(image), dtype=torch.uint8) if len(image) else torch.zeros(0, dtype=torch.uint8)
        )
    # A view is saved with the whole storage behind it.
    return image if image.untyped_storage().nbytes() == image.numel() else image.clone()


def write_index(folder: Path | str) -> dict[str, str]:
    """Read every chunk of a split folder and write its index.json, scene key -> chunk file name; returns it."""
    index: dict[str, str] = {}
    for path in chunk_files(folder):
        for scene in read_chunk(path):
            _enter(index, scene.key, path.name, folder)
    write_json(Path(folder) / "index.json", index)
    return index


def _enter(index: dict[str, str], key: str, name: str, folder: Path | str) -> None:
    if key in index:
        raise DataError(f"{folder}: scene {key} is in both {index[key]} and {name}; remove one of them")
    index[key] = name


class ChunkWriter:
    """Writes scenes to `folder` as 000000.torch, 000001.torch, ... and index.json at the end.

    A chunk is closed as soon as its JPEG bytes reach `chunk_bytes` (upstream: 1e8). Used as a context manager;
    when the body raises, no index is written.
    """

    def __init__(self, folder: Path | str, chunk_bytes: int = RE10K_CHUNK_BYTES) -> None:
        """Start with chunk 000000 in `folder`, which is made when absent."""
        self.folder = Path(folder)
        self.chunk_bytes = chunk_bytes
        self.index: dict[str, str] = {}
        self._pending: list[ChunkScene] = []
        self._bytes = 0
        self._chunks = 0

    def add(self, scene: ChunkScene) -> None:
        """Append a scene; raises DataError for a key already written."""
        if not KEY.fullmatch(scene.key):
            raise DataError(f"{self.folder}: scene key '{scene.key}' has characters other than letters, digits, . _ -")
        _enter(self.index, scene.key, self._name(), self.folder)
        self._pending.append(scene)
        self._bytes += sum(len(image) for image in scene.images)
        if self._bytes >= self.chunk_bytes:
            self._flush()

    def close(self) -> None:
        """Write the last chunk and index.json."""
        if self._pending:
            self._flush()
        write_json(self.folder / "index.json", self.index)

    def _name(self) -> str:
        return f"{self._chunks:06d}.torch"

    def _flush(self) -> None:
        write_chunk(self.folder / self._name(), self._pending)
        self._chunks += 1
        self._pending, self._bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
