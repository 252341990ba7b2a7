"""What a stage has finished before its end, kept beside its output until the output is whole.

`results/x/evaluation` has its units in `results/x/.evaluation.units/`: a file each, behind its SHA-256. They belong to
one stamp, a digest of all that they depend on; units of another stamp are removed, damaged ones made again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from novelview.files import write_bytes, write_text
from novelview.timebox import BoxEnded

STAMP = "stamp"


def stamp_of(*parts: object) -> str:
    """Return a digest of everything that units depend on; parts: what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Unfinished:
    """The finished units of one output; nothing is made on disk before the first is kept."""

    def __init__(self, out: Path | str, stamp: str, own: bool = True) -> None:
        """Open the units of `out`, a file or a folder; own: this process removes those of another stamp."""
        final = Path(out).absolute()
        self.folder, self.stamp = final.with_name(f".{final.name}.units"), stamp
        if own and self.folder.exists() and not self._fits():
            shutil.rmtree(self.folder)

    def _fits(self) -> bool:
        path = self.folder / STAMP
        return path.is_file() and path.read_bytes() == self.stamp.encode()

    def read(self, name: str) -> bytes | None:
        """Return what was kept under `name`; None where nothing was, or it is damaged."""
        with suppress(OSError):
            content = (self.folder / name).read_bytes()
            if self._fits() and content[:32] == hashlib.sha256(content[32:]).digest():
                return content[32:]
        return None

    def keep(self, name: str, content: bytes) -> None:
        """Keep a finished unit."""
        if not self._fits():
            write_text(self.folder / STAMP, self.stamp)
        write_bytes(self.folder / name, hashlib.sha256(content).digest() + content)

    def read_json(self, name: str) -> Any:
        """Return what `keep_json` kept under `name`, else None."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def keep_json(self, name: str, value: Any) -> None:
        """Keep a unit that JSON can hold."""
        self.keep(name, json.dumps(value).encode())

    def drop(self, name: str) -> None:
        """Remove one unit."""
        (self.folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all units: the output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def resuming_folder(final: Path, stamp: str) -> Iterator[tuple[Path, Unfinished]]:
    """Yield a sibling of `final` and its units; on success the sibling takes the name and the units go.

    After BoxEnded, Ctrl-C or a kill both stay, and a call with the same stamp finds them; else they are removed.
    """
    partial, old = (final.with_name(f".{final.name}.{word}") for word in ("partial", "old"))
    units = Unfinished(final, stamp)
    shutil.rmtree(old, ignore_errors=True)
    if not units.folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial, units
        if final.exists():
            final.rename(old)
        partial.rename(final)
    except (BoxEnded, KeyboardInterrupt):
        raise
    except BaseException:
        _remove(partial, units)
        raise
    _remove(old, units)


def _remove(folder: Path, units: Unfinished) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    units.clear()
