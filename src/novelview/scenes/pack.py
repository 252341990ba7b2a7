"""Chunks to the packed store: in parallel, resumable chunk by chunk, the frames' bytes untouched.

Every chunk becomes one shard and one record in `parts/`, whichever process makes it and in whichever order; the
index is merged from the records in the chunks' order, so the result does not depend on workers or interruptions.
"""

import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from novelview.config.schema import PackConfig
from novelview.errors import DataError
from novelview.files import sha256, write_json
from novelview.scenes.disk import locating
from novelview.scenes.pack_part import EMPTY, Part, Task, pack_chunk, record_of
from novelview.scenes.store import FORMAT, INDEX, MANIFEST, PackedStore, join, write_columns
from novelview.timebox import TimeBox

__all__ = ["PackedStore", "pack_chunks"]

logger = logging.getLogger(__name__)
FRAME_COLUMNS = ("offset", "length", "crc", "size", "intrinsics", "w2c", "timestamp", "bad")
SHOWN = 5


@dataclass
class BadChunk:
    """A chunk that could not be read, and why."""

    split: str
    chunk: str
    reason: str


def pack_chunks(
    chunk_files: Mapping[str, Sequence[Path]],
    out_dir: Path | str,
    cfg: PackConfig,
    workers: int = 0,
    progress: bool = True,
    checksums: Mapping[str, str] | None = None,
    unposed: Mapping[str, Sequence[int]] | None = None,
    box: TimeBox | None = None,
    depth_range: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Pack the chunks of every split into `out_dir`/{split}/ and write its manifest.json last; returns the manifest.

    chunk_files: split name -> chunks in order. workers: processes; 0 packs in this one.
    checksums: expected SHA-256 by "{split}/{chunk name}", from the download's manifest.
    unposed: scene -> frames that stage `poses` emptied: they are marked as damaged ones are, and not held against it.
    depth_range: nearest and farthest depth in the scenes, where known, for the manifest.
    Chunks finished by an interrupted run are verified and kept. Raises DataError when a scene is in two chunks of a
    split, or when more frames or chunks are damaged than `cfg` allows; everything else is packed first, so a second
    run with a higher allowance only writes the index. Raises BoxEnded when the time of `box` is over, after one chunk.
    """
    out = Path(out_dir)
    (out / MANIFEST).unlink(missing_ok=True)
    for split in chunk_files:
        _sweep(out / split)
    tasks = _tasks(chunk_files, out, checksums or {})
    parts, bad_chunks = _run(tasks, list(chunk_files), workers, progress, unposed or {}, box or TimeBox())
    _judge(parts, bad_chunks, cfg)
    with locating(out):
        counts = {split: _merge(out / split, found) for split, found in parts.items()}
        manifest = _manifest(out, counts, parts, bad_chunks)
        manifest |= {"depth_range": list(depth_range)} if depth_range else {}
        write_json(out / MANIFEST, manifest)
    for split in chunk_files:
        shutil.rmtree(out / split / "parts", ignore_errors=True)
    return manifest


def _tasks(chunk_files: Mapping[str, Sequence[Path]], out: Path, checksums: Mapping[str, str]) -> list[Task]:
    return [
        Task(split, str(path), str(out / split), checksums.get(f"{split}/{Path(path).name}"))
        for split, files in chunk_files.items()
        for path in files
    ]


def _sweep(folder: Path) -> None:
    """Make the split's folder and drop what a killed run left half-written."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob(".*.partial*"), *(folder / "parts").glob(".*.partial*")]:
        stale.unlink(missing_ok=True)


def _run(
    tasks: list[Task],
    splits: list[str],
    workers: int,
    progress: bool,
    unposed: Mapping[str, Sequence[int]],
    box: TimeBox,
) -> tuple[dict[str, list[Part]], list[BadChunk]]:
    """Pack every chunk; return the parts of each split in the chunks' order, and the damaged chunks."""
    results: dict[int, Part | str] = {}
    before = {number for number, task in enumerate(tasks) if record_of(task).exists()}
    finished = _in_turn(tasks) if workers < 2 else _in_parallel(tasks, workers)
    with tqdm(total=len(tasks), unit="chunk", desc="pack", disable=not progress) as bar:
        for number, result in finished:
            results[number] = result
            _forgive(result, unposed)
            _log(tasks[number], result)
            bar.update()
            if isinstance(result, Part) and number not in before:
                box.unit()
    parts: dict[str, list[Part]] = {split: [] for split in splits}
    bad_chunks: list[BadChunk] = []
    for number, task in enumerate(tasks):
        result = results[number]
        if isinstance(result, Part):
            parts[task.split].append(result)
        else:
            bad_chunks.append(BadChunk(task.split, Path(task.source).name, result))
    return parts, bad_chunks


def _forgive(result: Part | str, unposed: Mapping[str, Sequence[int]]) -> None:
    """Take frames emptied for want of a camera off the list of damaged ones; in the columns they stay marked."""
    if isinstance(result, Part):
        result.bad = [
            frame for frame in result.bad if frame.reason != EMPTY or frame.frame not in unposed.get(frame.scene, ())
        ]


def _in_turn(tasks: list[Task]) -> Iterator[tuple[int, Part | str]]:
    for number, task in enumerate(tasks):
        yield number, pack_chunk(task)


def _in_parallel(tasks: list[Task], workers: int) -> Iterator[tuple[int, Part | str]]:
    # Spawned, not forked: a fork of a process with torch's threads running may deadlock.
    pool = ProcessPoolExecutor(min(workers, len(tasks)) or 1, multiprocessing.get_context("spawn"))
    try:
        waiting = {pool.submit(pack_chunk, task): number for number, task in enumerate(tasks)}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise DataError(
            "preprocess: a worker process died, perhaps for lack of memory; lower runtime.workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _log(task: Task, result: Part | str) -> None:
    name = f"{task.split}/{Path(task.source).name}"
    if isinstance(result, str):
        logger.warning("%s: damaged chunk: %s", name, result)
        return
    for frame in result.bad:
        logger.warning("%s: scene %s frame %d: damaged: %s", name, frame.scene, frame.frame, frame.reason)


def _judge(parts: Mapping[str, list[Part]], bad_chunks: list[BadChunk], cfg: PackConfig) -> None:
    for split, found in parts.items():
        _refuse_repeats(split, found)
        if not found:
            raise DataError(f"{split}: no readable chunk ({_list_chunks(bad_chunks)}); download the data again")
    if len(bad_chunks) > cfg.max_bad_chunks:
        raise DataError(
            f"{len(bad_chunks)} damaged chunks, pack.max_bad_chunks={cfg.max_bad_chunks}: {_list_chunks(bad_chunks)}; "
            f"fetch them again, or set pack.max_bad_chunks={len(bad_chunks)} to go on without them"
        )
    bad = [frame for found in parts.values() for part in found for frame in part.bad]
    if len(bad) > cfg.max_bad_frames:
        named = _shorten([f"scene {frame.scene} frame {frame.frame} ({frame.reason})" for frame in bad])
        raise DataError(
            f"{len(bad)} damaged frames, pack.max_bad_frames={cfg.max_bad_frames}: {named}; "
            f"fetch the data again, or set pack.max_bad_frames={len(bad)} to go on without them"
        )


def _list_chunks(bad_chunks: list[BadChunk]) -> str:
    return _shorten([f"{bad.split}/{bad.chunk} ({bad.reason})" for bad in bad_chunks])


def _shorten(words: list[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _refuse_repeats(split: str, parts: list[Part]) -> None:
    owner: dict[str, str] = {}
    for part in parts:
        for scene in part.scenes:
            if scene in owner:
                raise DataError(
                    f"{split}: scene {scene} is in both {owner[scene]} and {part.source}; remove one of them"
                )
            owner[scene] = part.source


def _merge(folder: Path, parts: list[Part]) -> dict[str, Any]:
    """Write a split's index: frames in the chunks' order, scenes sorted by name; returns its counts."""
    names = [scene for part in parts for scene in part.scenes]
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    counts = np.concatenate([part.columns["count"] for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shards = np.repeat(np.arange(len(parts)), [len(part.scenes) for part in parts])
    urls = [url for part in parts for url in part.urls]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in FRAME_COLUMNS}
    columns |= {"name": join([names[row] for row in order]), "url": join([urls[row] for row in order])}
    columns |= {"start": starts[order], "count": counts[order], "shard": shards[order]}
    meta = {"format": FORMAT, "shards": [part.shard for part in parts]}
    write_columns(folder / INDEX, columns, meta)
    _drop_strangers(folder, {part.shard for part in parts})
    bad = sum(len(part.bad) for part in parts)
    return {"scenes": len(names), "frames": int(counts.sum()), "chunks": len(parts), "bad_frames": bad}


def _drop_strangers(folder: Path, known: set[str]) -> None:
    """Remove shards of an earlier source, so no shard is here that the manifest does not list."""
    for path in folder.glob("shard-*.bin"):
        if path.name not in known and path.is_file():
            path.unlink()


def _manifest(
    out: Path, counts: dict[str, Any], parts: Mapping[str, list[Part]], bad_chunks: list[BadChunk]
) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {}
    for split, found in parts.items():
        index = out / split / INDEX
        files[f"{split}/{INDEX}"] = {"bytes": index.stat().st_size, "sha256": sha256(index)}
        for part in found:
            files[f"{split}/{part.shard}"] = {"bytes": part.bytes, "sha256": part.sha256}
    bad = [{"split": split, **vars(frame)} for split, found in parts.items() for part in found for frame in part.bad]
    sources = {f"{split}/{part.source}": part.source_sha256 for split, found in parts.items() for part in found}
    return {
        "format": FORMAT,
        "splits": counts,
        "files": dict(sorted(files.items())),
        "sources": sources,
        "bad_frames": bad,
        "bad_chunks": [vars(chunk) for chunk in bad_chunks],
    }
