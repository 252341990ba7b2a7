"""Fetch what the registry names: licence first, then the files, verified, from the first address that has them."""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from novelview.downloads.address import PREFIX, HubAddress, parse_hub
from novelview.downloads.collect import collect, is_collected
from novelview.downloads.hub import Remote, commit_of, download_file, file_facts, from_cache, is_offline, list_files
from novelview.downloads.registry import Entry, find, read_registry
from novelview.downloads.transfer import ATTEMPTS, check_disk, download
from novelview.downloads.verify import implausible, mismatch
from novelview.errors import DataError
from novelview.files import sha256

log = logging.getLogger(__name__)

BEFORE_MIRROR = 3  # attempts at an address while there is another


def fetch(name: str, folder: Path | str = ".", registry: Mapping[str, Entry] | None = None) -> Path:
    """Fetch the registry's entry `name` below `folder` and return its path; what is there and right is kept.

    Purpose, licence, citation and size are logged before the first byte. The entry's addresses are tried in turn.
    Raises ConfigError for an unknown name, DataError, one line, when the entry cannot be had whole and right.
    """
    entry = find(registry if registry is not None else read_registry(), name)
    path = Path(folder) / entry.path
    if _is_here(entry, path):
        log.info("%s: already here (%s)", name, path)
        return path
    for line in describe(entry):
        log.info(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    _from_any(entry, path)
    if not entry.is_folder:
        stated = "" if entry.sha256 else " (none in the registry to compare)"
        log.info("%s: %s, SHA-256 %s%s", name, path, sha256(path), stated)
    return path


def _is_here(entry: Entry, path: Path) -> bool:
    if entry.is_folder:
        return is_collected(path, entry.addresses)
    if not path.is_file():
        return False
    wrong = mismatch(path, entry.sha256, entry.size)
    if wrong:
        log.warning("%s: %s has %s; fetching it again", entry.name, path, wrong)
    return not wrong


def _from_any(entry: Entry, path: Path) -> None:
    reasons = []
    for number, address in enumerate(entry.addresses, start=1):
        last = number == len(entry.addresses)
        try:
            return _get(entry, address, path, ATTEMPTS if last else BEFORE_MIRROR)
        except DataError as error:
            reasons.append(str(error))
            if not last:
                log.warning("%s; trying the next address", error)
    raise DataError(" | ".join(reasons))


def _get(entry: Entry, address: str, path: Path, attempts: int) -> None:
    if not address.startswith(PREFIX):
        check = None if entry.sha256 else partial(implausible, name=path.name, about=entry.bytes)
        download(address, path, entry.sha256, entry.size, check, attempts)
    elif entry.is_folder:
        fetch_folder(parse_hub(address, entry.repo_type), entry.files, path)
    else:
        fetch_file(parse_hub(address, entry.repo_type), path, entry)


def fetch_file(address: HubAddress, path: Path, entry: Entry) -> None:
    """Fetch one file of a repository, verified against the registry and against what the hub says of it."""
    if is_offline():
        from_cache(address, path)
    else:
        commit = commit_of(address)
        facts = file_facts(address, commit)
        log.info("%s: commit %s, %s bytes, %s", address, commit, facts.size, facts.digest)
        if facts.size is not None and entry.size not in (None, facts.size):
            raise DataError(f"{address}: the hub has {facts.size} bytes instead of {entry.size}; mend the registry")
        check_disk(path.parent, facts.size or entry.bytes or 0)
        staging = path.with_name(f".{path.name}.hub")
        download_file(address, commit, facts, path, staging)
        shutil.rmtree(staging, ignore_errors=True)
    wrong = mismatch(path, entry.sha256, entry.size) or implausible(path, path.name)
    if wrong:
        path.unlink()
        raise DataError(f"{address}: what arrived has {wrong}; it was deleted, check conf/registry.yaml")


def fetch_folder(address: HubAddress, patterns: list[str], folder: Path) -> None:
    """Fetch the files of a repository's folder that match `patterns`, all of one commit, into `folder`."""
    commit = commit_of(address)
    files = list_files(address, commit, patterns)
    if not files:
        raise DataError(f"{address}: no file there matches {' '.join(patterns)}; see {address.page}")
    total = sum(remote.size or 0 for remote in files)
    log.info("%s: commit %s, %d files, %.1f GB", address, commit, len(files), total / 1e9)
    prefix = f"{address.path}/" if address.path else ""

    def get(remote: Remote, path: Path, staging: Path) -> None:
        one = HubAddress(address.repo, address.repo_type, f"{prefix}{remote.path}", address.revision)
        download_file(one, commit, remote, path, staging)

    collect(files, get, folder, {"origin": str(address), "commit": commit})


def describe(entry: Entry) -> list[str]:
    """Return what a user should know before fetching an entry, as lines."""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "size unknown"
    lines = [
        f"{entry.name}: {entry.purpose}",
        f"  from {' or '.join(entry.addresses)} ({size})",
        f"  licence: {entry.licence}",
        f"  please cite: {entry.citation}",
    ]
    return [*lines, "  gated: accept the terms on its page, then `hf auth login`"] if entry.gated else lines
