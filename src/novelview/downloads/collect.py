"""Sets of files: every one verified, and the folder gets its name when the last one is there."""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from novelview.downloads.hub import Remote
from novelview.downloads.registry import LISTING
from novelview.downloads.transfer import check_disk
from novelview.downloads.verify import mismatch
from novelview.errors import DataError
from novelview.files import read_json, write_json

log = logging.getLogger(__name__)

STAGING = ".staging"
WORKERS = 4


def is_collected(folder: Path, origins: Sequence[str]) -> bool:
    """Tell whether `folder` is complete and from one of `origins`; raises DataError when something else is there."""
    if not folder.exists():
        return False
    if not (folder / LISTING).is_file():
        raise DataError(f"{folder}: exists and was not fetched; move it away or choose another folder")
    listing = read_json(folder / LISTING)
    if not isinstance(listing, dict) or listing.get("origin") not in origins:
        raise DataError(f"{folder}: holds other files than {origins[0]}; move it away or choose another folder")
    wrong = [name for name, facts in listing["files"].items() if not _has(folder / name, facts["bytes"])]
    if wrong:
        log.warning("%s: %s is missing or changed; fetching it again", folder, wrong[0])
        os.replace(folder, _part(folder))
        (_part(folder) / LISTING).unlink()
        for name in wrong:
            (_part(folder) / name).unlink(missing_ok=True)
    return not wrong


def collect(
    files: Sequence[Remote],
    get: Callable[[Remote, Path, Path], None],
    folder: Path,
    about: Mapping[str, Any],
    progress: bool = True,
) -> None:
    """Fetch `files` into `folder`, several at a time; what has arrived waits in `folder`.part for the next call.

    get: fetches one file to a path, verified, given a folder for rests. about: written to fetched.json, with every
    file's size and digest. Raises DataError, one line, for the first file that cannot be had whole and right.
    """
    for remote in files:
        if PurePosixPath(remote.path).is_absolute() or ".." in PurePosixPath(remote.path).parts:
            raise DataError(f"{about['origin']}: names a file outside the folder ({remote.path}); nothing was fetched")
    part = _part(folder)
    part.mkdir(parents=True, exist_ok=True)
    with _locked(part):
        same = _continues(part, about)
        missing = [remote for remote in files if not _keeps(part / remote.path, remote, same)]
        check_disk(part, sum(remote.size or 0 for remote in missing))
        _get_all(missing, get, part, len(files) - len(missing), progress)
        shutil.rmtree(part / STAGING, ignore_errors=True)
        write_json(part / LISTING, {**about, "files": {remote.path: _facts(part, remote) for remote in files}})
        os.replace(part, folder)


def _facts(part: Path, remote: Remote) -> dict[str, Any]:
    return {"bytes": (part / remote.path).stat().st_size, "digest": remote.digest}


def _part(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _has(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _continues(part: Path, about: Mapping[str, Any]) -> bool:
    """Tell whether the rest in `part` is of the very same set, and note which set it is of from now on."""
    note = part / STAGING / "of.json"
    same = note.is_file() and read_json(note) == dict(about)
    write_json(note, dict(about))
    return same


def _keeps(path: Path, remote: Remote, same: bool) -> bool:
    """Tell whether a file of the rest stays: verified when it was fetched, else by its digest now."""
    if same:
        return _has(path, remote.size)
    return remote.digest is not None and path.is_file() and mismatch(path, remote.digest, remote.size) is None


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[None]:
    with open(part.with_name(f".{part.name}.lock"), "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{part}: another process is fetching this folder; wait for it") from None
        yield
        Path(stream.name).unlink(missing_ok=True)


def _get_all(
    files: Sequence[Remote], get: Callable[[Remote, Path, Path], None], part: Path, have: int, progress: bool
) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        tasks = [pool.submit(get, remote, part / remote.path, part / STAGING) for remote in files]
        try:
            bar = tqdm(tasks, total=have + len(files), initial=have, unit="file", disable=None if progress else True)
            for task in bar:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
