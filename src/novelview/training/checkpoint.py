"""Resumable training checkpoints: whole or absent, verified, rotating, and never another run's."""

import hashlib
import io
import logging
import pickle
import random
from pathlib import Path
from typing import Any

import torch

from novelview.files import write_bytes

log = logging.getLogger(__name__)

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in `folder`, named `{identity}-{step}-{checksum}.pt`; the newest `keep` stay.

    `identity` is a digest of everything the weights depend on; files of another identity are reported and left alone.
    """

    def __init__(self, folder: Path | str, identity: str, keep: int) -> None:
        self.folder, self.identity, self.keep = Path(folder), identity, keep

    def own(self) -> list[Path]:
        """Return this run's checkpoints, newest first."""
        return sorted(self.folder.glob(f"{self.identity}-*.pt"), reverse=True)

    def save(self, step: int, state: State) -> Path:
        """Write `state` (tensors, numbers, strings, containers of these) after `step` steps; drop the oldest."""
        buffer = io.BytesIO()
        torch.save({**state, "step": step}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{self.identity}-{step:09d}-{_checksum(content)}.pt"
        write_bytes(path, content)
        for old in [other for other in self.own() if other != path][self.keep - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def sweep(self) -> None:
        """Remove what killed processes left of unfinished checkpoints."""
        for left in self.folder.glob(f".{self.identity}-*.partial.pt"):
            left.unlink(missing_ok=True)

    def load(self) -> State | None:
        """Return the newest undamaged state, or None to start from the beginning; warns about what it passes over."""
        self._report_stale()
        for path in self.own():
            state = _read(path)
            if state is not None:
                log.info("resuming from %s, after step %d", path, state["step"])
                return state
            log.warning("damaged checkpoint passed over: %s", path)
        return None

    def _report_stale(self) -> None:
        for path in sorted(self.folder.glob("*.pt")):
            if not path.name.startswith(f"{self.identity}-"):
                log.warning("STALE checkpoint ignored: %s is of another configuration, code, data or start", path)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read(path: Path) -> State | None:
    content = path.read_bytes()
    if _checksum(content) != path.stem.rpartition("-")[2]:
        return None
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return None


def random_state() -> State:
    """Return the state of every generator training may draw from (numpy's is not used)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "python": random.getstate(), "cuda": cuda}


def restore_random_state(state: State) -> None:
    """Put every generator back to where `random_state` found it."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def sweep_partial(path: Path | str) -> None:
    """Remove what killed processes left of an unfinished `path` (see `novelview.files.replacing`)."""
    final = Path(path)
    for left in final.parent.glob(f".{final.stem}.*.partial{final.suffix}"):
        left.unlink(missing_ok=True)
