"""Chunk sets, {train,test}/*.torch and index.json, from the hub or an HTTP mirror (specs/re10k_format.md section 1)."""

import logging
import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from novelview.downloads.address import PREFIX, parse_hub
from novelview.downloads.collect import collect, is_collected
from novelview.downloads.fetch import fetch_folder
from novelview.downloads.hub import Remote
from novelview.downloads.transfer import Missing, download
from novelview.downloads.verify import implausible
from novelview.errors import DataError
from novelview.files import read_json, sha256

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
PATTERNS = [f"{split}/{name}" for split in SPLITS for name in ("*.torch", "index.json")]
SUMS = "SHA256SUMS"  # lines of `sha256sum`: hex digits, blanks, path relative to the mirror's folder
CHUNK = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.torch")


def fetch_chunks(address: str, folder: Path, progress: bool = True) -> Path:
    """Fetch a chunk set to `folder` and return it; what an earlier call left is kept or continued.

    address: hf://owner/repo[/folder][@revision] (a data set unless it says models/), or an http(s):// folder that holds
    train/ and test/, or one of them, each with index.json, and SHA256SUMS where chunks are to be verified by more than
    length and kind. Raises ConfigError for an address that is none, DataError, one line, when the set cannot be had.
    """
    base = address if address.startswith(PREFIX) else address.rstrip("/")
    origin = str(parse_hub(base, "dataset")) if base.startswith(PREFIX) else base
    if is_collected(folder, [origin]):
        log.info("%s: already in %s", origin, folder)
        return folder
    log.info("fetching the chunks of %s into %s; their licence is the data set's own (docs/data.md)", origin, folder)
    if base.startswith(PREFIX):
        fetch_folder(parse_hub(base, "dataset"), PATTERNS, folder)
    else:
        _fetch_http(base, folder, progress)
    return folder


def _fetch_http(base: str, folder: Path, progress: bool) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        sums = _sums(base, Path(place))
        files = [remote for split in SPLITS for remote in _split(base, split, sums, Path(place))]
    if not files:
        raise DataError(f"{base}: has neither train/index.json nor test/index.json; give the folder above them")
    if not sums:
        log.warning("%s: has no %s, so chunks are checked by length and kind alone", base, SUMS)

    def get(remote: Remote, path: Path, _: Path) -> None:
        check = None if remote.digest else partial(implausible, name=path.name)
        download(f"{base}/{remote.path}", path, remote.digest, remote.size, check, progress=False)

    indices: dict[str, Any] = {remote.path: remote.digest for remote in files if remote.path.endswith(".json")}
    collect(files, get, folder, {"origin": base, "indices": indices, "verified": bool(sums)}, progress)


def _sums(base: str, place: Path) -> dict[str, str]:
    try:
        download(f"{base}/{SUMS}", place / SUMS, progress=False)
    except Missing:
        return {}
    words = [line.split() for line in (place / SUMS).read_text(errors="replace").splitlines() if line.strip()]
    if not all(len(line) == 2 and re.fullmatch(r"[0-9a-fA-F]{64}", line[0]) for line in words):
        raise DataError(f"{base}/{SUMS}: not lines of a SHA-256 and a path; ask the mirror's owner, or remove it")
    return {path.removeprefix("*").removeprefix("./"): digest.lower() for digest, path in words}


def _split(base: str, split: str, sums: Mapping[str, str], place: Path) -> list[Remote]:
    name = f"{split}/index.json"
    local = place / f"{split}.json"
    try:
        download(f"{base}/{name}", local, sums.get(name), progress=False)
    except Missing:
        return []
    index = read_json(local)
    if not isinstance(index, dict) or not all(CHUNK.fullmatch(str(chunk)) for chunk in index.values()):
        raise DataError(f"{base}/{name}: is no mapping from scenes to chunks; ask the mirror's owner")
    paths = sorted({f"{split}/{chunk}" for chunk in index.values()})
    unlisted = [path for path in paths if sums and path not in sums]
    if unlisted:
        raise DataError(f"{base}/{SUMS}: does not list {unlisted[0]}; ask the mirror's owner")
    return [Remote(name, local.stat().st_size, sha256(local)), *(Remote(path, None, sums.get(path)) for path in paths)]
