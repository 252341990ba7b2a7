"""Fetch what the registry or an address names: licence first, then files, each verified; a folder is whole or not."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from novelview.downloads import transfer
from novelview.downloads.registry import LISTING, PREFIX, Entry, HubAddress, find, parse_hub, read_registry
from novelview.downloads.transfer import Missing, Remote, check_disk, download, implausible, locked, mismatch, reject
from novelview.errors import DataError
from novelview.files import read_json, replacing, sha256, write_json

log = logging.getLogger(__name__)

BEFORE_MIRROR = 3  # attempts at an address while there is another
STAGING = ".staging"
WORKERS = 4
SPLITS = ("train", "test")
PATTERNS = [f"{split}/{name}" for split in SPLITS for name in ("*.torch", "index.json")]
SUMS = "SHA256SUMS"  # lines of `sha256sum`: hex digits, blanks, path relative to the mirror's folder
CHUNK = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.torch")


def fetch(name: str, folder: Path | str = ".", registry: Mapping[str, Entry] | None = None) -> Path:
    """Fetch the registry's entry `name` below `folder` and return its path; what is there and right is kept.

    Purpose, licence, citation and size are logged first; addresses are tried in turn. Raises ConfigError for an unknown
    name, DataError, one line, when the entry cannot be had whole and right."""
    entry = find(registry if registry is not None else read_registry(), name)
    path = Path(folder) / entry.path
    wrong = mismatch(path, entry.sha256, entry.size) if path.is_file() else None
    if wrong:
        log.warning("%s: %s has %s; fetching it again", name, path, wrong)
    if is_collected(path, entry.addresses) if entry.files else path.is_file() and not wrong:
        log.info("%s: already here (%s)", name, path)
        return path
    for line in describe(entry):
        log.info(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for left, address in reversed(list(enumerate(reversed(entry.addresses)))):
        try:
            _from(entry, address, path, BEFORE_MIRROR if left else transfer.ATTEMPTS)
            break
        except DataError as error:
            reasons.append(str(error))
            if left:
                log.warning("%s; trying the next address", error)
    else:
        raise DataError(" | ".join(reasons))
    if not entry.files:
        stated = "" if entry.sha256 else " (none in the registry to compare)"
        log.info("%s: %s, SHA-256 %s%s", name, path, sha256(path), stated)
    return path


def describe(entry: Entry) -> list[str]:
    """Return what a user should know before fetching an entry, as lines."""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "size unknown"
    lines = [f"{entry.name}: {entry.purpose}", f"  from {' or '.join(entry.addresses)} ({size})"]
    lines += [f"  licence: {entry.licence}", f"  please cite: {entry.citation}"]
    return [*lines, "  gated: accept the terms on its page, then `hf auth login`"] if entry.gated else lines


def _from(entry: Entry, address: str, path: Path, attempts: int) -> None:
    if not address.startswith(PREFIX):
        check = None if entry.sha256 else partial(implausible, name=path.name, about=entry.bytes)
        download(address, path, entry.sha256, entry.size, check, attempts)
    elif entry.files:
        fetch_folder(parse_hub(address, entry.repo_type), entry.files, path)
    else:
        _fetch_file(parse_hub(address, entry.repo_type), path, entry)


def _fetch_file(address: HubAddress, path: Path, entry: Entry) -> None:
    """Fetch one file of a repository, verified against the registry and against what the hub says of it."""
    if transfer.is_offline():
        with replacing(path) as copy:
            shutil.copyfile(transfer.cached_file(address), copy)
    else:
        commit = transfer.commit_of(address)
        facts = transfer.file_facts(address, commit)
        log.info("%s: commit %s, %s bytes, %s", address, commit, facts.size, facts.digest)
        if facts.size is not None and entry.size not in (None, facts.size):
            raise DataError(f"{address}: the hub has {facts.size} bytes instead of {entry.size}; mend the registry")
        check_disk(path.parent, facts.size or entry.bytes or 0)
        staging = path.with_name(f".{path.name}.hub")
        transfer.download_file(address, commit, facts, path, staging)
        shutil.rmtree(staging, ignore_errors=True)
    wrong = mismatch(path, entry.sha256, entry.size) or implausible(path, path.name)
    reject(address, path, wrong, "check conf/registry.yaml")


def fetch_folder(address: HubAddress, patterns: list[str], folder: Path) -> None:
    """Fetch the files of a repository's folder that match `patterns`, all of one commit, into `folder`."""
    commit = transfer.commit_of(address)
    files = transfer.list_files(address, commit, patterns)
    if not files:
        raise DataError(f"{address}: no file there matches {' '.join(patterns)}; see {address.page}")
    total = sum(remote.size or 0 for remote in files)
    log.info("%s: commit %s, %d files, %.1f GB", address, commit, len(files), total / 1e9)

    def get(remote: Remote, path: Path, staging: Path) -> None:
        inside = replace(address, path=f"{address.path}/{remote.path}".lstrip("/"))
        transfer.download_file(inside, commit, remote, path, staging)

    _collect(files, get, folder, {"origin": str(address), "commit": commit})


def fetch_chunks(address: str, folder: Path, progress: bool = True) -> Path:
    """Fetch a chunk set to `folder` and return it; what an earlier call left is kept or continued.

    address: hf:// (a data set unless it says models/), or an http(s):// folder with train/ or test/ or both, each with
    index.json, and SHA256SUMS if chunks are to be verified by more than length and kind (specs/re10k_format.md section
    1). Raises ConfigError for an address that is none, DataError, one line, when the set cannot be had."""
    place = parse_hub(address, "dataset") if address.startswith(PREFIX) else None
    origin = str(place) if place else address.rstrip("/")
    if is_collected(folder, [origin]):
        log.info("%s: already in %s", origin, folder)
        return folder
    log.info("fetching the chunks of %s into %s; their licence is the data set's own (docs/data.md)", origin, folder)
    if place:
        fetch_folder(place, PATTERNS, folder)
    else:
        _fetch_mirror(origin, folder, progress)
    return folder


def _fetch_mirror(base: str, folder: Path, progress: bool) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        sums = _checksums(base, Path(place) / SUMS)
        files = [one for split in SPLITS for one in _files_of_split(base, split, sums, Path(place) / f"{split}.json")]
    if not files:
        raise DataError(f"{base}: has neither train/index.json nor test/index.json; give the folder above them")
    if not sums:
        log.warning("%s: has no %s, so chunks are checked by length and kind alone", base, SUMS)

    def get(remote: Remote, path: Path, _: Path) -> None:
        check = None if remote.digest else partial(implausible, name=path.name)
        download(f"{base}/{remote.path}", path, remote.digest, remote.size, check, progress=False)

    indices = {remote.path: remote.digest for remote in files if remote.path.endswith(".json")}
    _collect(files, get, folder, {"origin": base, "indices": indices, "verified": bool(sums)}, progress)


def _checksums(base: str, local: Path) -> dict[str, str]:
    try:
        download(f"{base}/{SUMS}", local, progress=False)
    except Missing:
        return {}
    words = [line.split() for line in local.read_text(errors="replace").splitlines() if line.strip()]
    if not all(len(line) == 2 and re.fullmatch(r"[0-9a-fA-F]{64}", line[0]) for line in words):
        raise DataError(f"{base}/{SUMS}: not lines of a SHA-256 and a path; ask the mirror's owner, or remove it")
    return {path.removeprefix("*").removeprefix("./"): digest.lower() for digest, path in words}


def _files_of_split(base: str, split: str, sums: Mapping[str, str], local: Path) -> list[Remote]:
    name = f"{split}/index.json"
    try:
        download(f"{base}/{name}", local, sums.get(name), progress=False)
    except Missing:
        return []
    index = read_json(local)
    if not isinstance(index, dict) or not all(CHUNK.fullmatch(str(chunk)) for chunk in index.values()):
        raise DataError(f"{base}/{name}: is no mapping from scenes to chunks; ask the mirror's owner")
    paths = sorted({f"{split}/{chunk}" for chunk in index.values()})
    if unlisted := [path for path in paths if sums and path not in sums]:
        raise DataError(f"{base}/{SUMS}: does not list {unlisted[0]}; ask the mirror's owner")
    return [Remote(name, local.stat().st_size, sha256(local)), *(Remote(path, None, sums.get(path)) for path in paths)]


def is_collected(folder: Path, origins: Sequence[str]) -> bool:
    """Tell whether `folder` is complete and from one of `origins`; raises DataError when something else is there."""
    part = _part(folder)
    if not folder.exists():
        return False
    if not (folder / LISTING).is_file():
        raise DataError(f"{folder}: exists and was not fetched; move it away or choose another folder")
    listing = read_json(folder / LISTING)
    if not isinstance(listing, dict) or listing.get("origin") not in origins:
        raise DataError(f"{folder}: holds other files than {origins[0]}; move it away or choose another folder")
    files = [Remote(name, facts["bytes"]) for name, facts in listing["files"].items()]
    wrong = [remote.path for remote in files if not _keeps(folder / remote.path, remote, same=True)]
    if wrong:
        log.warning("%s: %s is missing or changed; fetching it again", folder, wrong[0])
        os.replace(folder, part)
        for name in (LISTING, *wrong):
            (part / name).unlink(missing_ok=True)
    return not wrong


def _collect(
    files: Sequence[Remote],
    get: Callable[[Remote, Path, Path], None],
    folder: Path,
    about: Mapping[str, Any],
    progress: bool = True,
) -> None:
    """Fetch `files` into `folder`, several at a time; what has arrived waits in `folder`.part for the next call.

    get: fetches one file to a path, verified, given a folder for rests. about: facts beside files in fetched.json."""
    for remote in files:
        if PurePosixPath(remote.path).is_absolute() or ".." in PurePosixPath(remote.path).parts:
            raise DataError(f"{about['origin']}: names a file outside the folder ({remote.path}); nothing was fetched")
    part = _part(folder)
    part.mkdir(parents=True, exist_ok=True)
    lock, staging = part.with_name(f".{part.name}.lock"), part / STAGING
    with locked(lock, part):
        note = staging / "of.json"
        same = note.is_file() and read_json(note) == dict(about)  # the rest is of the very same set
        write_json(note, dict(about))
        missing = [remote for remote in files if not _keeps(part / remote.path, remote, same)]
        check_disk(part, sum(remote.size or 0 for remote in missing))
        with ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(get, remote, part / remote.path, staging) for remote in missing]
            done, hidden = len(files) - len(missing), None if progress else True
            try:
                for task in tqdm(tasks, total=len(files), initial=done, unit="file", disable=hidden):
                    task.result()
            finally:
                pool.shutdown(cancel_futures=True)
        shutil.rmtree(staging, ignore_errors=True)
        facts = {one.path: {"bytes": (part / one.path).stat().st_size, "digest": one.digest} for one in files}
        write_json(part / LISTING, {**about, "files": facts})
        os.replace(part, folder)
        lock.unlink(missing_ok=True)


def _part(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _keeps(path: Path, remote: Remote, same: bool) -> bool:
    """Tell whether a file of the rest stays: verified when it was fetched, else by its digest now."""
    known = path.is_file() and bool(same or remote.digest)
    return known and mismatch(path, None if same else remote.digest, remote.size) is None
