"""Chunks already on disk: verified and listed where they lie, never copied (specs/re10k_format.md section 1)."""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from novelview.config.sources import ChunksSource
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import read_registry
from novelview.errors import DataError
from novelview.files import expanded, file_entry, read_json, write_bytes, write_json
from novelview.scenes.chunks import check_counts, chunk_files, read_chunk
from novelview.scenes.views import load_index

log = logging.getLogger(__name__)
SPLITS = ("train", "test")
PREFIX = "dl3dv_"


def link(path: Path, source: ChunksSource, folder: Path, workers: int, progress: bool) -> dict[str, Any]:
    """Check a {train,test}/*.torch folder, write indices/, scenes.json; return root, files; DataError for misfits.

    A split without index.json gets one in `folder`; the folder of the user's stays as it is."""
    splits = [split for split in SPLITS if (path / split).is_dir()]
    if not splits:
        what = "has neither train/ nor test/" if path.is_dir() else "is a file" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}; give the folder above train/ and test/, or an address (docs/data.md)")
    scenes = {split: _check_split(path / split, folder / split) for split in splits}
    if not source.allow_partial:
        check_counts(scenes.get("train", {}), source.subsets, str(path / "train"))
    for name, given in source.indices.items():
        file = _index_file(path, name, given)
        load_index(file)
        write_bytes(folder / "indices" / f"{name}.json", _with_prefix(file, scenes.get("test", {})))
    write_json(folder / "scenes.json", {key: {"set": "test"} for key in scenes.get("test", {})})
    chunks = [file for split in splits for file in chunk_files(path / split)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = tqdm(pool.map(file_entry, chunks), "checksums", len(chunks), unit="chunk", disable=not progress)
        files = {str(file.relative_to(path)): entry for file, entry in zip(chunks, found, strict=True)}
    return {"root": str(path.resolve()), "files": files}


def _with_prefix(index: Path, scenes: Mapping[str, str]) -> bytes:
    """Return an index with `dl3dv_` before keys whose scene is called so here (specs/pmloss.md section 6)."""
    content = read_json(index)
    names = {key: key if key in scenes or PREFIX + key not in scenes else PREFIX + key for key in content}
    renamed = json.dumps({names[key]: value for key, value in content.items()}).encode()
    return renamed if any(key != name for key, name in names.items()) else index.read_bytes()


def _check_split(folder: Path, made: Path) -> dict[str, str]:
    """Return scene -> chunk of a split, as its index.json has it, or the one that is made from its chunks."""
    if not (folder / "index.json").exists():
        index: dict[str, str] = {}
        for file in chunk_files(folder):
            for scene in read_chunk(file):
                if scene.key in index:
                    raise DataError(f"{folder}: scene {scene.key} is in {index[scene.key]} and {file.name}; remove one")
                index[scene.key] = file.name
        log.warning("%s: has no index.json; one was made from its chunks, in %s", folder, made)
        write_json(made / "index.json", index)
        return index
    index = read_json(folder / "index.json")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise DataError(f"{folder / 'index.json'}: is no mapping from scenes to chunks; fetch it again")
    found, named = {file.name for file in chunk_files(folder)}, set(index.values())
    if named - found:
        raise DataError(f"{folder}: index.json names {min(named - found)}, which is missing; fetch that chunk")
    if found - named:
        raise DataError(f"{folder}: {min(found - named)} is not in index.json; remove it, or fetch the index again")
    return dict(sorted(index.items()))


def _index_file(path: Path, name: str, given: str) -> Path:
    for candidate in (expanded(given), path / given):
        if candidate.is_file():
            return candidate
    if given in read_registry():
        return fetch(given)
    where = f"here or in {path} nor an entry of conf/registry.yaml"
    raise DataError(f"source.indices.{name}={given}: neither a file {where}")
