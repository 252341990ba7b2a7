"""What planning computed before, kept by content between calls: the same files and words give the same answer.

`$XDG_CACHE_HOME/novelview/plan` (default `~/.cache/...`) can be deleted at any time. A stage composes its configuration
anew and compares digests, so nothing is ever computed from what is kept here.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from novelview.files import write_bytes

KEEP_DAYS = 30  # entries that no call has asked for in so long are removed


def recall(key: str, make: Callable[[], Any]) -> Any:
    """Return what `make()` gave for `key` before, or call it and keep its answer, which JSON must be able to hold.

    `key` has to name everything that the answer depends on. Where the folder cannot be written nothing is kept.
    """
    path = _folder() / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_bytes())
        os.utime(path)
        return value
    value = make()
    with contextlib.suppress(OSError):
        _sweep(path.parent)
        write_bytes(path, json.dumps(value).encode())
    return value


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "novelview" / "plan"


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove entries of long ago, once a process."""
    oldest = time.time() - KEEP_DAYS * 86400
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
