"""RE10K and DL3DV `.torch` chunks and folders of them: checked reading, atomic writing (specs/re10k_format.md)."""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.config.schema import SUBSETS
from novelview.errors import DataError, raise_exhausted
from novelview.files import MANIFEST, foreign_code, locating, read_json, replacing, unpacked_problem, write_json

RE10K_CHUNK_BYTES = 100_000_000
MOST_INTRINSIC = 20.0  # focal length over a side: 3 degrees; what is larger is in pixels
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
CHUNK = re.compile(r"(train|test)/[^/]+\.torch")
ADVICE = "delete it and fetch or make it again"


@dataclass
class ChunkScene:
    """One scene as a chunk holds it; frame i is row i of everything."""

    key: str  # 16 hex digits in RE10K
    url: str  # may be empty
    timestamps: Int[Tensor, " n"]  # int64, microseconds
    cameras: Float[Tensor, "n 18"]  # fx/W fy/H cx/W cy/H 0 0, then 3x4 world-to-camera, row-major, OpenCV axes
    images: list[Any]  # undecoded JPEGs, bytes or uint8 tensors


def chunk_files(folder: Path | str) -> list[Path]:
    """Return the sorted chunks of a split folder; raises DataError when there is none."""
    files = sorted(path for path in Path(folder).glob("*.torch") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: no .torch chunks here; run the download stage first or correct the path")
    return files


def read_chunk(path: Path | str) -> list[ChunkScene]:
    """Read and check a chunk, executing nothing in it; DataError names file, scene and field of what is damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such chunk; run the download stage again") from None
    # A damaged or hostile pickle can fail in any way inside the unpickler: this is the trust boundary.
    except Exception as error:
        raise_exhausted(error, path)
        if code := foreign_code(path):
            text = "wants to run code when it is opened, and was not opened; get it from a source that you trust"
            raise DataError(f"{path}: holds {code}: it {text}") from None
        reason = " ".join(str(error).split())[:120] or "no reason given"
        raise DataError(f"{path}: not a readable chunk ({type(error).__name__}: {reason}); {ADVICE}") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: holds no list of scenes; {ADVICE}")
    scenes = [_scene(path, number, entry) for number, entry in enumerate(content)]
    for key, count in Counter(scene.key for scene in scenes).items():
        if count > 1:
            raise DataError(f"{path}: scene {key} appears twice; {ADVICE}")
    return scenes


def _is_zip(path: Path | str) -> bool:
    """Tell the zip format from the older one, refusing archives that unpack to more than they weigh."""
    if problem := unpacked_problem(path):
        raise DataError(f"{path}: {problem}, as chunks never do; {ADVICE}")
    with open(path, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def recorded_checksums(path: Path | str) -> frozenset[int] | None:
    """Return the archive's CRC-32s, which torch.load never compares, None without; DataError for a bad pickle."""
    if not _is_zip(path):
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
    key, url, images = entry.get("key"), entry.get("url", ""), entry.get("images")
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise DataError(f"{path}: entry {number} has no usable scene key; {ADVICE}")
    where = f"{path}: scene {key}"
    for name, dtype, dims in (("timestamps", torch.int64, 1), ("cameras", torch.float32, 2)):
        if not _plain(entry.get(name), dtype, dims):
            kind = str(dtype).removeprefix("torch.")
            raise DataError(f"{where}: {name} is no {kind} tensor of {dims} dimension(s); {ADVICE}")
    if not isinstance(images, list) or not images:
        raise DataError(f"{where}: images is no list of frames; {ADVICE}")
    for frame, image in enumerate(images):
        if not _plain(image, torch.uint8, 1):
            raise DataError(f"{where}: frame {frame} is no uint8 vector; {ADVICE}")
    frames, timestamps, cameras = len(images), entry["timestamps"], entry["cameras"]
    if timestamps.shape != (frames,) or cameras.shape != (frames, 18):
        shapes = f"timestamps {list(timestamps.shape)}, cameras {list(cameras.shape)}"
        raise DataError(f"{where}: {frames} images but {shapes}, wanted [{frames}] and [{frames}, 18]; {ADVICE}")
    if (cameras[:, :4] > MOST_INTRINSIC).any():
        raise DataError(f"{where}: intrinsics in pixels? fx and cx are fractions of the width, fy and cy of the height")
    rotation = cameras.double()[:, 6:].reshape(-1, 3, 4)[:, :, :3]
    usable = cameras.isfinite().all(1) & (cameras[:, :2] > 0).all(1)
    usable &= torch.linalg.det(rotation.nan_to_num(0.0, 0.0, 0.0)).abs() > 1e-6
    if not usable.all():
        frame = int((~usable).nonzero()[0])
        raise DataError(f"{where}: camera of frame {frame} is not finite or not invertible; {ADVICE}")
    return ChunkScene(key, url if isinstance(url, str) else "", timestamps, cameras, images)


def _plain(value: Any, dtype: torch.dtype, dims: int) -> bool:
    """Whether `value` is an ordinary dense CPU tensor; a stride of 0 would let one byte pose as a billion."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        return False
    ordinary = value.is_contiguous() and not (value.requires_grad or value.is_neg())
    return ordinary and value.dtype == dtype and value.dim() == dims


def write_chunk(path: Path | str, scenes: Iterable[ChunkScene]) -> None:
    """Write scenes as one chunk, atomically; equal scenes give equal bytes."""
    content: list[dict[str, Any]] = []
    for scene in scenes:  # the order of the keys is the format's
        numbers = scene.timestamps.to(torch.int64).clone(), scene.cameras.to(torch.float32).clone()
        images = [_bytes_tensor(image) for image in scene.images]
        entry = {"url": scene.url, "timestamps": numbers[0], "cameras": numbers[1], "images": images, "key": scene.key}
        content.append(entry)
    # An open file rather than a path, whose temporary name torch.save would store in the archive.
    with locating(path), replacing(path) as partial, open(partial, "wb") as stream:
        torch.save(content, stream)


def _bytes_tensor(image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        return torch.from_numpy(np.frombuffer(bytearray(image), np.uint8))
    # A view is saved with the whole storage behind it.
    return image if image.untyped_storage().nbytes() == image.numel() else image.clone()


class ChunkWriter:
    """Writes 000000.torch, ..., each closed at `chunk_bytes` of JPEG; at its end index.json, unless the body raises."""

    def __init__(self, folder: Path | str, chunk_bytes: int = RE10K_CHUNK_BYTES) -> None:
        self.folder, self.chunk_bytes = Path(folder), chunk_bytes
        self.index: dict[str, str] = {}
        self._pending: list[ChunkScene] = []
        self._bytes = self._chunks = 0

    def add(self, scene: ChunkScene) -> None:
        """Append a scene; raises DataError for a key already written."""
        if not KEY.fullmatch(scene.key):
            raise DataError(f"{self.folder}: scene key '{scene.key}' has characters other than letters, digits, . _ -")
        name, known = self._name(), self.index.get(scene.key)
        if known:
            raise DataError(f"{self.folder}: scene {scene.key} is in both {known} and {name}; remove one of them")
        self.index[scene.key] = name
        self._pending.append(scene)
        self._bytes += sum(len(image) for image in scene.images)
        if self._bytes >= self.chunk_bytes:
            self._flush()

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
            if self._pending:
                self._flush()
            write_json(self.folder / "index.json", self.index)


@dataclass(frozen=True)
class RawData:
    """A data set as stage `download` or `poses` left it."""

    folder: Path  # of manifest.json
    root: Path  # of the chunks, elsewhere if they stayed where they were found
    chunks: dict[str, list[Path]]  # split -> files in order
    checksums: dict[str, str]  # {split}/{name} -> SHA-256
    unposed: dict[str, list[int]]  # scene -> frames left without camera and picture
    depth_range: list[float] | None  # z depths, 1st and 99th percentile, where the import knows points
    posed: bool  # False: the cameras are placeholders (source=unposed)

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest of the packed store repeats."""
        seen = {"depth_range": self.depth_range} if self.depth_range else {}
        return seen if self.posed else seen | {"posed": False}


def read_raw(folder: Path) -> RawData:
    """Read a data set's manifest; raises DataError, one line, when it is missing, damaged, or lists no chunks."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path}: lists no files; run the download stage again")
    root = Path(str(manifest.get("root") or folder))
    checksums: dict[str, str] = {}
    for name, entry in manifest["files"].items():
        if name.endswith(".torch"):
            checksum = entry.get("sha256") if isinstance(entry, dict) else None
            if not isinstance(checksum, str) or not CHUNK.fullmatch(name):
                raise DataError(f"{path}: its entry '{name}' is not one of ours; run the download stage again")
            checksums[name] = checksum
    if not checksums:
        raise DataError(f"{path}: lists no chunks; run the download stage again")
    chunks: dict[str, list[Path]] = {}
    for name in sorted(checksums):
        chunks.setdefault(name.partition("/")[0], []).append(root / name)
    unposed = manifest.get("unposed", {})
    if not isinstance(unposed, dict) or not all(
        isinstance(frames, list) and all(type(frame) is int for frame in frames) for frames in unposed.values()
    ):
        raise DataError(f"{path}: 'unposed' lists no frames by scene; run the poses stage again")
    imported = manifest.get("import")
    imported = imported if isinstance(imported, dict) else {}
    told = imported.get("depth_range"), imported.get("posed") is not False
    return RawData(folder, root, chunks, checksums, unposed, *told)


def check_counts(index: Mapping[str, str], published: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise DataError when a training subset of scene -> chunk has not the published numbers of chunks and scenes."""
    scenes = Counter(index.values())
    chunks = sorted(scenes)
    for name, (wanted_chunks, wanted_scenes) in published.items():
        step = SUBSETS[name]
        count = len(chunks) // step
        found = sum(scenes[chunk] for chunk in chunks[:count])
        if (count, found) != (wanted_chunks, wanted_scenes):
            rules = {"the last chunks": chunks[len(chunks) - count :], f"every {step}th chunk": chunks[::step][:count]}
            fitting = [rule for rule, kept in rules.items() if sum(scenes[chunk] for chunk in kept) == wanted_scenes]
            other = f" ({fitting[0]} would have them)" if fitting else ""
            raise DataError(
                f"{where}: subset {name} has {count:,} chunks with {found:,} scenes, published are "
                f"{wanted_chunks:,} with {wanted_scenes:,}{other}; fetch the whole data set, or set "
                f"source.allow_partial=true to go on with this copy"
            )
