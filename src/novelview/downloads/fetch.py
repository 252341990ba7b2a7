"""Fetch what the registry names: licence first, then the file, verified."""

import logging
from collections.abc import Mapping
from pathlib import Path

from novelview.downloads.hub import download_from_hub
from novelview.downloads.registry import Entry, find, read_registry
from novelview.downloads.transfer import check_disk, download, mismatch
from novelview.files import sha256

log = logging.getLogger(__name__)


def fetch(name: str, folder: Path | str = ".", registry: Mapping[str, Entry] | None = None) -> Path:
    """Fetch the registry's entry `name` below `folder` and return its path; what is there and right is kept.

    Purpose, licence, citation and size are logged before the first byte. Raises ConfigError for an unknown name,
    DataError, one line, when the file cannot be had whole and right.
    """
    entry = find(registry if registry is not None else read_registry(), name)
    path = Path(folder) / entry.path
    if path.is_file():
        wrong = mismatch(path, entry.sha256, entry.size)
        if wrong is None:
            log.info("%s: already here (%s)", name, path)
            return path
        log.warning("%s: %s has %s; fetching it again", name, path, wrong)
    for line in describe(entry):
        log.info(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    _get(entry, path)
    log.info("%s: %s, SHA-256 %s%s", name, path, sha256(path), "" if entry.sha256 else " (none published to compare)")
    return path


def _get(entry: Entry, path: Path) -> None:
    if entry.url:
        download(entry.url, path, entry.sha256, entry.size)
    else:
        check_disk(path.parent, entry.bytes or 0)
        download_from_hub(entry, path)


def describe(entry: Entry) -> list[str]:
    """Return what a user should know before fetching an entry, as lines."""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "size unknown"
    return [
        f"{entry.name}: {entry.purpose}",
        f"  from {entry.origin} ({size})",
        f"  licence: {entry.licence}",
        f"  please cite: {entry.citation}",
    ]
