"""Chunks to the packed store: in parallel, resumable chunk by chunk, the frames' bytes untouched.

Every chunk becomes a shard and a record in `parts/`, from which the index is merged in the chunks' order."""

import functools
import hashlib
import io
import logging
import multiprocessing
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from novelview.config.schema import PackConfig
from novelview.devices import start_worker
from novelview.errors import DataError, worker_died
from novelview.files import MANIFEST, file_entry, locating, replacing, sha256, write_json
from novelview.scenes.chunks import read_chunk, recorded_checksums
from novelview.scenes.store import FORMAT, INDEX, Columns, join_words, map_columns, split_words, write_columns
from novelview.timebox import TimeBox

EMPTY = "empty"  # the reason of a frame without a byte
STORED = {"offset": np.int64, "length": np.uint32, "crc": np.uint32, "size": np.uint16, "bad": np.uint8}
FRAME_COLUMNS = (*STORED, "intrinsics", "w2c", "timestamp")
SHOWN = 5  # damaged frames or chunks that an error line names
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """A chunk to pack: split name, chunk file, the split's folder in the store, expected SHA-256 if known."""

    split: str
    source: Path
    folder: Path
    checksum: str | None = None

    @property
    def record(self) -> Path:
        return self.folder / "parts" / f"{self.source.stem}.safetensors"


@dataclass
class Part:
    """What one chunk became: its shard, and {scene, frame, reason} of damaged frames. record: the file of its columns,
    which have a row a frame; they stay there, as those of all chunks together need gigabytes."""

    source: str
    source_sha256: str
    shard: str
    bytes: int
    sha256: str
    bad: list[dict[str, Any]]
    record: Path
    scenes: list[str]

    @property
    def columns(self) -> Columns:
        return map_columns(self.record)[0]


def pack_chunks(
    chunk_files: Mapping[str, Sequence[Path]],
    out_dir: Path | str,
    cfg: PackConfig,
    workers: int = 0,
    progress: bool = True,
    checksums: Mapping[str, str] | None = None,
    unposed: Mapping[str, Sequence[int]] | None = None,
    box: TimeBox | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Pack the chunks of every split into `out_dir`/{split}/ and write its manifest.json last; returns the manifest.

    chunk_files: split -> chunks in order. workers: processes; 0 packs in this one. checksums: expected SHA-256 by
    "{split}/{chunk name}". unposed: scene -> frames that stage `poses` emptied. facts: further entries of the
    manifest. Chunks of an interrupted run are kept. Raises DataError, after packing all else, when a scene is in two
    chunks of a split or more is damaged than `cfg` allows; BoxEnded when the time of `box` is over."""
    out = Path(out_dir)
    (out / MANIFEST).unlink(missing_ok=True)
    for name in chunk_files:
        (out / name / "parts").mkdir(parents=True, exist_ok=True)
    for stale in out.rglob(".*.partial*"):  # what a killed run left half-written
        stale.unlink(missing_ok=True)
    sums, sources = checksums or {}, [(name, Path(path)) for name, files in chunk_files.items() for path in files]
    chunks = [Chunk(name, path, out / name, sums.get(f"{name}/{path.name}")) for name, path in sources]
    results = list(zip(chunks, _run(chunks, workers, progress, unposed or {}, box or TimeBox()), strict=True))
    parts = {name: [part for c, part in results if c.split == name and isinstance(part, Part)] for name in chunk_files}
    failed = ((chunk, result) for chunk, result in results if isinstance(result, str))
    bad_chunks = [{"split": chunk.split, "chunk": chunk.source.name, "reason": why} for chunk, why in failed]
    _refuse_damage(parts, bad_chunks, cfg)
    with locating(out):
        counts = {name: _merge(out / name, found) for name, found in parts.items()}
        files = {f"{name}/{INDEX}": file_entry(out / name / INDEX) for name in parts}
        rows = [(name, part) for name, found in parts.items() for part in found]
        files |= {f"{name}/{part.shard}": {"bytes": part.bytes, "sha256": part.sha256} for name, part in rows}
        manifest: dict[str, Any] = {"format": FORMAT, "splits": counts, "files": dict(sorted(files.items()))}
        manifest["sources"] = {f"{name}/{part.source}": part.source_sha256 for name, part in rows}
        manifest["bad_frames"] = [{"split": name, **frame} for name, part in rows for frame in part.bad]
        manifest["bad_chunks"] = bad_chunks
        manifest |= facts or {}
        write_json(out / MANIFEST, manifest)
    for name in chunk_files:
        shutil.rmtree(out / name / "parts", ignore_errors=True)
    return manifest


def _run(
    chunks: list[Chunk], workers: int, progress: bool, unposed: Mapping[str, Sequence[int]], box: TimeBox
) -> list[Part | str]:
    results: dict[int, Part | str] = {}
    emptied = {(scene, frame, EMPTY) for scene, frames in unposed.items() for frame in frames}
    before = {number for number, chunk in enumerate(chunks) if chunk.record.exists()}
    finished = enumerate(map(_pack_chunk, chunks)) if workers < 2 else _in_parallel(chunks, workers)
    with tqdm(total=len(chunks), unit="chunk", desc="pack", disable=not progress) as bar:
        for number, result in finished:
            results[number] = result
            bar.update()
            name = f"{chunks[number].split}/{chunks[number].source.name}"
            if isinstance(result, str):
                logger.warning("%s: damaged chunk: %s", name, result)
                continue
            # Frames emptied for want of a camera are no damage; in the columns they stay marked.
            result.bad = [bad for bad in result.bad if tuple(bad.values()) not in emptied]
            for bad in result.bad:
                logger.warning("%s: scene %s frame %d: damaged: %s", name, *bad.values())
            if number not in before:
                box.unit()
    return [results[number] for number in range(len(chunks))]


def _in_parallel(chunks: list[Chunk], workers: int) -> Iterator[tuple[int, Part | str]]:
    # Spawned, not forked: a fork of a process with torch's threads running may deadlock.
    pool = ProcessPoolExecutor(min(workers, len(chunks)) or 1, multiprocessing.get_context("spawn"), start_worker)
    try:
        waiting = {pool.submit(_pack_chunk, chunk): number for number, chunk in enumerate(chunks)}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise worker_died("preprocess") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_damage(parts: Mapping[str, list[Part]], bad_chunks: list[dict[str, str]], cfg: PackConfig) -> None:
    chunks = [f"{bad['split']}/{bad['chunk']} ({bad['reason']})" for bad in bad_chunks]
    for name, found in parts.items():
        owner: dict[str, str] = {}
        for scene, source in ((scene, part.source) for part in found for scene in part.scenes):
            if scene in owner:
                raise DataError(f"{name}: scene {scene} is in both {owner[scene]} and {source}; remove one of them")
            owner[scene] = source
        if not found:
            raise DataError(f"{name}: no readable chunk ({_shorten(chunks)}); download the data again")
    bad = [frame for found in parts.values() for part in found for frame in part.bad]
    frames = ["scene {scene} frame {frame} ({reason})".format(**frame) for frame in bad]
    limits = ("chunks", chunks, cfg.max_bad_chunks, "them"), ("frames", frames, cfg.max_bad_frames, "the data")
    for kind, damaged, allowed, what in limits:
        if len(damaged) > allowed:
            raise DataError(
                f"{len(damaged)} damaged {kind}, pack.max_bad_{kind}={allowed}: {_shorten(damaged)}; "
                f"fetch {what} again, or set pack.max_bad_{kind}={len(damaged)} to go on without them"
            )


def _shorten(words: list[str]) -> str:
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _merge(folder: Path, parts: list[Part]) -> dict[str, Any]:
    """Write a split's index: frames in the chunks' order, scenes sorted by name; returns its counts."""
    names = [scene for part in parts for scene in part.scenes]
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    counts = np.concatenate([part.columns["count"] for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shards = np.repeat(np.arange(len(parts)), [len(part.scenes) for part in parts])
    urls = [url for part in parts for url in split_words(part.columns["url"])]
    columns: Columns = {
        "name": join_words([names[row] for row in order]),
        "url": join_words([urls[row] for row in order]),
    }
    columns |= {"start": starts[order], "count": counts[order], "shard": shards[order]}
    meta = {"format": FORMAT, "shards": [part.shard for part in parts]}
    long = {name: functools.partial(_column, parts, name) for name in FRAME_COLUMNS}
    write_columns(folder / INDEX, columns, meta, long)
    for path in {*folder.glob("shard-*.bin")} - {folder / name for name in meta["shards"]}:  # of an earlier source
        path.unlink()
    bad = sum(len(part.bad) for part in parts)
    return {"scenes": len(names), "frames": int(counts.sum()), "chunks": len(parts), "bad_frames": bad}


def _column(parts: Iterable[Part], name: str) -> Iterator[NDArray[Any]]:
    return (part.columns[name] for part in parts)


def _pack_chunk(chunk: Chunk) -> Part | str:
    source = chunk.source
    try:
        with locating(chunk.folder):
            if known := _unchanged(chunk):
                return known
            checksum = sha256(source)
            if chunk.checksum and checksum != chunk.checksum:
                return "its content differs from the download's manifest; run the download stage again"
            return _finished(chunk, checksum) or _pack(source, checksum, chunk.folder, chunk.record)
    except FileNotFoundError:
        return "no such file; run the download stage again"
    except DataError as error:
        return str(error).removeprefix(f"{source}: ")


def _recorded(chunk: Chunk) -> tuple[Part, dict[str, Any]] | None:
    """Return the part of an earlier run and its record's metadata, where the record is whole."""
    try:
        columns, meta = map_columns(chunk.record)
        part = Part(**meta["part"], record=chunk.record, scenes=split_words(columns["name"]))
    except (DataError, KeyError, TypeError, ValueError):
        return None
    whole = (meta.get("format"), meta.get("columns"), part.source) == (FORMAT, _digest(columns), chunk.source.name)
    return (part, meta) if whole else None


def _stamps(*paths: Path) -> list[list[int]]:
    """Return size and time of modification of files, by which a chunk and its shard are known again unread."""
    return [[about.st_size, about.st_mtime_ns] for about in (path.stat() for path in paths)]


def _unchanged(chunk: Chunk) -> Part | None:
    """Return the part of an earlier run when neither chunk nor shard was touched since: they are terabytes to read."""
    part, meta = _recorded(chunk) or (None, {})
    if part is None or chunk.checksum not in (None, part.source_sha256):
        return None
    shard = chunk.folder / part.shard
    return part if shard.is_file() and meta.get("stamps") == _stamps(chunk.source, shard) else None


def _finished(chunk: Chunk, checksum: str) -> Part | None:
    """Return the part of an earlier run when its record fits the source and its shard is intact, both read anew; what
    was read is known by size and time from then on."""
    part, meta = _recorded(chunk) or (None, {})
    if part is None or part.source_sha256 != checksum:
        return None
    shard = chunk.folder / part.shard
    if not shard.is_file() or file_entry(shard) != {"bytes": part.bytes, "sha256": part.sha256}:
        return None
    write_columns(chunk.record, part.columns, {**meta, "stamps": _stamps(chunk.source, shard)})
    return part


def _pack(source: Path, checksum: str, folder: Path, record: Path) -> Part:
    """Write a chunk's shard, then its record; a damaged frame keeps its row, with length 0."""
    scenes, known = read_chunk(source), recorded_checksums(source)
    for scene in scenes:
        if _changed(scene.cameras, known) or _changed(scene.timestamps, known):
            raise DataError(f"scene {scene.key}: cameras or timestamps changed since the chunk was written")
    shard, offset, total = f"shard-{source.stem}.bin", 0, hashlib.sha256()
    rows: list[tuple[Any, ...]] = []  # a frame's values of STORED
    bad: list[dict[str, Any]] = []
    with replacing(folder / shard) as partial, open(partial, "wb") as stream:
        for scene in scenes:
            for number, image in enumerate(scene.images):
                content = image.numpy().tobytes()
                size, reason = inspect(content)
                if not reason and _changed(image, known):
                    reason = "bytes changed since the chunk was written"
                if reason:
                    bad.append({"scene": scene.key, "frame": number, "reason": reason})
                    content, size = b"", (0, 0)
                rows.append((offset, len(content), zlib.crc32(content), size, bool(reason)))
                offset += len(content)
                total.update(content)
                stream.write(content)
    columns = {name: np.array([row[place] for row in rows], STORED[name]) for place, name in enumerate(STORED)}
    cameras = np.concatenate([scene.cameras.numpy() for scene in scenes])
    columns |= {
        "name": join_words([scene.key for scene in scenes]),
        "url": join_words([scene.url for scene in scenes]),
        "count": np.array([len(scene.images) for scene in scenes], np.int64),
        "intrinsics": cameras[:, :4],
        "w2c": cameras[:, 6:].reshape(-1, 3, 4),
        "timestamp": np.concatenate([scene.timestamps.numpy() for scene in scenes]),
    }
    part = Part(source.name, checksum, shard, offset, total.hexdigest(), bad, record, [scene.key for scene in scenes])
    stored = {name: value for name, value in vars(part).items() if name not in ("record", "scenes")}
    meta = {"format": FORMAT, "part": stored, "columns": _digest(columns), "stamps": _stamps(source, folder / shard)}
    write_columns(record, columns, meta)
    return part


def _digest(columns: Columns) -> str:
    total = hashlib.sha256()
    for name in sorted(columns):
        total.update(name.encode() + columns[name].tobytes())
    return total.hexdigest()


def _changed(tensor: Tensor, known: frozenset[int] | None) -> bool:
    """Whether a tensor with its own record in the archive has bytes that no recorded checksum fits."""
    own = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return known is not None and own and zlib.crc32(tensor.numpy().tobytes()) not in known


def inspect(content: bytes) -> tuple[tuple[int, int], str]:
    """Decode a frame in full, lest it be truncated; return (height, width), "", or (0, 0), what is wrong with it."""
    if not content:
        return (0, 0), EMPTY
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.load()
            return (image.height, image.width), ""
    # Damaged bytes can fail in any way inside the decoder: this is the trust boundary.
    except Exception as error:
        said = " ".join(str(error).split())[:100] or type(error).__name__
        return (0, 0), "neither JPEG nor PNG" if isinstance(error, UnidentifiedImageError) else said
