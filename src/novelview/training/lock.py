"""One run at a time in a checkpoint folder: an orphan of a killed workflow may still be training there."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def holding(folder: Path | str, wanted: bool = True) -> Iterator[None]:
    """Hold the lock of `folder` while the body runs; wait, with one line, while another process has it.

    The lock ends with the process, however it dies. A file system without locks is said, and then not guarded.
    """
    if not wanted:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / ".lock", "w") as stream:
        _acquire(stream.fileno(), folder)
        yield


def _acquire(descriptor: int, folder: Path | str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("%s: another process is training here; waiting for it to end, then going on", folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        log.warning("%s: this file system has no locks (%s); start one run at a time", folder, error.strerror)
