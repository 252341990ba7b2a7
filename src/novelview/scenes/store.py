"""The packed store's reader: any frame of any scene without touching its neighbours.

A split folder holds `shard-*.bin` (undecoded frames, a shard a source chunk) and `index.safetensors`; the folder above
`manifest.json`. Every read opens its shard: threads and forked workers may share a store, and pickling one reopens it.
"""

import functools
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from novelview.config.schema import SUBSETS
from novelview.errors import ConfigError, DataError
from novelview.files import MANIFEST, check_content, check_size, read_json, replacing

COUNTS = 250  # brightness of a resampled mask from which on no masked pixel had a part in a pixel
MASKS = "masks"  # folder of a data set and of a store: {scene}/{timestamp}.png, 1 bit, white where pixels count
FORMAT = "1"
INDEX = "index.safetensors"
HASHED = 2**26  # bytes of an index up to which opening a store compares its checksum
POSED = "import it as source=photos, or take a model that needs none (uplvsm)"
ADVICE = "run the preprocess stage again"
# in the order in which safetensors lays them down
DTYPES = {"I64": np.int64, "F32": np.float32, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8}

Columns = dict[str, NDArray[Any]]


def write_columns(
    path: Path | str,
    columns: Columns,
    meta: dict[str, Any],
    long: Mapping[str, Callable[[], Iterable[NDArray]]] | None = None,
) -> None:
    """Write named arrays and JSON metadata as one safetensors file, atomically; equal values give equal bytes.

    long: further columns, whose parts, all of one dtype and shape but for the rows, are asked for twice and written one
    after the other, so that no column lies in memory. The bytes are those that safetensors itself writes."""
    parts = {name: functools.partial(iter, [column]) for name, column in columns.items()} | dict(long or {})
    kinds: dict[str, tuple[str, list[int]]] = {}
    for name, column in parts.items():
        shapes = [(part.dtype, part.shape) for part in column()]
        kind = next(known for known, dtype in DTYPES.items() if dtype == shapes[0][0])
        kinds[name] = kind, [sum(shape[0] for _, shape in shapes), *shapes[0][1][1:]]
    header: dict[str, Any] = {"__metadata__": {"meta": json.dumps(meta)}}
    order = sorted(kinds, key=lambda name: (list(DTYPES).index(kinds[name][0]), name))
    end = 0
    for name in order:
        kind, shape = kinds[name]
        begin, end = end, end + math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as partial, open(partial, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for part in parts[name]():
                stream.write(np.ascontiguousarray(part).data)


def map_columns(path: Path | str) -> tuple[Columns, dict[str, Any]]:
    """Map the arrays of a `write_columns` file without reading them; raises DataError for any other file."""
    try:
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        meta = json.loads(header.pop("__metadata__")["meta"])
        columns: Columns = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            columns[name] = content[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return columns, meta
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {ADVICE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged index ({error}); {ADVICE}") from None


def join_words(words: list[str]) -> NDArray[np.uint8]:
    """Return strings as one array of UTF-8 bytes, separated by newlines; `split_words` gives them back."""
    return np.frombuffer("\n".join(" ".join(word.splitlines()) for word in words).encode(), np.uint8)


def split_words(column: NDArray[np.uint8]) -> list[str]:
    return bytes(column).decode().split("\n")


class PackedStore:
    """One split of a packed data set; DataError where it is missing, unfinished, or files are not as listed."""

    def __init__(self, folder: Path | str, whole: bool = False) -> None:
        """Open it; sizes of all files are compared, and the checksum of a small index, or `whole` for any."""
        self.folder = Path(folder)
        self._manifest = _checked_manifest(self.folder, whole)
        self._columns, meta = map_columns(self.folder / INDEX)
        if meta.get("format") != FORMAT:
            raise DataError(f"{self.folder}: store format {meta.get('format')}, this program reads {FORMAT}; {ADVICE}")
        self._shards: list[str] = meta["shards"]
        self.scenes = split_words(self._columns["name"])
        self._masks: dict[str, Any] = self._manifest.get(MASKS, {})
        self._rows = {name: row for row, name in enumerate(self.scenes)}

    def __reduce__(self) -> tuple:
        return PackedStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.scenes)

    def __contains__(self, scene: object) -> bool:
        return scene in self._rows

    @property
    def chunks(self) -> list[str]:
        """The split's source chunks by file name, in name order, those that could not be read included."""
        return _chunks(self._manifest, self.folder.name)

    def chunk(self, scene: str) -> str:
        return f"{self._shard(scene).removeprefix('shard-').removesuffix('.bin')}.torch"

    def _shard(self, scene: str) -> str:
        return self._shards[self._of_scene("shard", scene)]

    @property
    def posed(self) -> bool:
        """Whether the scenes have cameras; without (source=unposed) the matrices are placeholders."""
        return self._manifest.get("posed", True)

    def require_cameras(self, needed: bool, name: str) -> None:
        """Raise ConfigError where a model that needs cameras meets data without."""
        if needed and not self.posed:
            raise ConfigError(f"{self.folder}: came without cameras (source=unposed), and {name} needs them; {POSED}")

    def frames(self, scene: str) -> int:
        """Return how many frames a scene has, damaged ones included."""
        return self._of_scene("count", scene)

    def jpeg(self, scene: str, index: int) -> bytes:
        """Return a frame's undecoded bytes; DataError where it does not exist, is damaged, or changed since."""
        place, where = self._frame(scene, index), f"{self.folder}: scene {scene} frame {index}"
        bad, offset, length, crc = (int(self._columns[name][place]) for name in ("bad", "offset", "length", "crc"))
        if bad:
            raise DataError(f"{where}: damaged in the source; leave it out of the views")
        shard = self._shard(scene)
        with open(self.folder / shard, "rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
        if zlib.crc32(content) != crc:
            raise DataError(f"{where}: its bytes in {shard} changed since packing; {ADVICE}")
        return content

    def image(self, scene: str, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.jpeg(scene, index))).convert("RGB")

    def mask(self, scene: str, index: int) -> Image.Image | None:
        """Return a frame's mask, white where pixels count; None without one; DataError where it is not as listed."""
        if not self._masks:
            return None
        name = f"{scene}/{int(self._take('timestamp', scene)[index]):06d}.png"
        if name not in self._masks:
            return None
        path = self.folder.parent / MASKS / name
        check_size(path, self._masks[name], ADVICE)
        check_content(path, self._masks[name], ADVICE)
        return Image.open(path).convert("RGB")

    def w2c(self, scene: str) -> Float[Tensor, "n 4 4"]:
        """Return the world-to-camera matrices, float32 as in the chunk, OpenCV axes."""
        matrices = np.tile(np.eye(4, dtype=np.float32), (self.frames(scene), 1, 1))
        matrices[:, :3] = self._take("w2c", scene)
        return torch.from_numpy(matrices)

    def c2w(self, scene: str) -> Float[Tensor, "n 4 4"]:
        """Return the camera-to-world matrices, inverted in float64, then float32 (specs/re10k_format.md section 3)."""
        return torch.from_numpy(np.linalg.inv(self.w2c(scene).numpy().astype(np.float64)).astype(np.float32))

    def intrinsics(self, scene: str) -> Float[Tensor, "n 4"]:
        """Return fx/W fy/H cx/W cy/H of every frame, float32 as in the chunk."""
        return torch.from_numpy(np.array(self._take("intrinsics", scene)))

    def size(self, scene: str, index: int | None = None) -> tuple[int, int]:
        """Return (height, width) of a frame, (0, 0) if damaged; without `index`, of the scene's first undamaged one."""
        place = self._frame(scene, int(self._take("bad", scene).argmin()) if index is None else index)
        return tuple(self._columns["size"][place].tolist())

    def bad(self, scene: str) -> set[int]:
        return set(np.flatnonzero(self._take("bad", scene)).tolist())

    def url(self, scene: str) -> str:
        return split_words(self._columns["url"])[self._row(scene)]

    def _row(self, scene: str) -> int:
        if scene not in self:
            known = f"no scene '{scene}' among its {len(self)}"
            raise DataError(f"{self.folder}: {known}; check the evaluation index's keys")
        return self._rows[scene]

    def _of_scene(self, column: str, scene: str) -> int:
        return int(self._columns[column][self._row(scene)])

    def _frame(self, scene: str, frame: int) -> int:
        frames = self.frames(scene)
        if not 0 <= frame < frames:
            raise DataError(f"{self.folder}: scene {scene} has frames 0 to {frames - 1}, not {frame}; check the index")
        return self._of_scene("start", scene) + frame

    def _take(self, column: str, scene: str) -> NDArray[Any]:
        start = self._of_scene("start", scene)
        return self._columns[column][start : start + self.frames(scene)]


def _checked_manifest(folder: Path, whole: bool) -> dict[str, Any]:
    manifest = folder.parent / MANIFEST
    content = read_json(manifest)
    try:
        if folder.name not in content["splits"]:
            raise DataError(f"{manifest}: lists no split '{folder.name}'; {ADVICE}")
        files = _of_split(content["files"], folder.name)
        if INDEX not in files:
            raise DataError(f"{manifest}: lists no {folder.name}/{INDEX}; {ADVICE}")
        for name, entry in files.items():
            check_size(folder / name, entry, ADVICE)
        if whole or files[INDEX]["bytes"] <= HASHED:
            check_content(folder / INDEX, files[INDEX], ADVICE)
        _chunks(content, folder.name)
        return content
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{manifest}: is not the manifest of a packed store; {ADVICE}") from None


def _chunks(content: dict[str, Any], split: str) -> list[str]:
    lost = [entry["chunk"] for entry in content["bad_chunks"] if entry["split"] == split]
    return sorted([*_of_split(content["sources"], split), *lost])


def _of_split(values: dict[str, Any], split: str) -> dict[str, Any]:
    return {name.removeprefix(f"{split}/"): value for name, value in values.items() if name.startswith(f"{split}/")}


def sound_frames(store: PackedStore, scene: str) -> list[int]:
    return sorted(set(range(store.frames(scene))) - store.bad(scene))


def subset_scenes(store: PackedStore, name: str) -> list[str]:
    """Return the scenes of the training subset `name` in the store's order: those in its first chunks by name.

    The paper trains on 76, 304, 1216 and all 4866 chunks of RealEstate10K and does not say which (specs/re10k_format.md
    section 5). Raises ConfigError for an unknown subset, and where there are fewer chunks than parts."""
    if name not in SUBSETS:
        raise ConfigError(f"subset={name}: choose one of {', '.join(SUBSETS)}")
    chunks = set(first_chunks(store.chunks, name)) if SUBSETS[name] > 1 else ()
    return [scene for scene in store.scenes if SUBSETS[name] == 1 or store.chunk(scene) in chunks]


def first_chunks(chunks: Sequence[str], name: str) -> list[str]:
    """Return the chunks of subset `name` out of all; raises ConfigError where one part in so many is none."""
    if not (count := len(chunks) // SUBSETS[name]):
        raise ConfigError(
            f"subset={name}: is 1/{SUBSETS[name]} of the training chunks, and there are {len(chunks)}; "
            f"take subset=full, or data in more chunks (rooms: a smaller source.chunk_bytes)"
        )
    return sorted(chunks)[:count]
