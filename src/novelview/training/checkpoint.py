"""Where a run starts and goes on: model and identity, checkpoints, the rows of its log, signals to stop."""

import hashlib
import io
import json
import logging
import math
import pickle
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from novelview.config.checkpoints import ForeignWeightsError, difference, read_config
from novelview.config.digest import digest, resolved
from novelview.config.stages import TrainStage
from novelview.devices import Team
from novelview.errors import CheckpointError
from novelview.files import read_json, sha256, write_bytes, write_text
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.models.render import ViewModel

log = logging.getLogger(__name__)

COLUMNS = ("step", "loss", "mse", "psnr", "lr", "grad_norm", "skipped", "seconds")
MEANS = ("loss", "mse", "psnr", "grad_norm")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

State = dict[str, Any]


def build_model(cfg: TrainStage, team: Team) -> ViewModel:
    """Build the configured model, the same on every process, from weights (`io.init`) if given; see `load_init`."""
    start = Path(cfg.io["init"]) if cfg.io.get("init") else None
    torch.manual_seed(cfg.train.seed)  # nothing in training draws from another generator
    model = build(cfg.model.without_weights() if start else cfg.model)
    if start:
        load_init(model, cfg, start)
    if team.leads:
        named = getattr(getattr(cfg.model, "dino", None), "weights", None), getattr(cfg.model, "match_weights", None)
        backbones = " and ".join(name for name in named if name)
        origin = f"public backbone weights in {backbones}, everything else from scratch"
        scratch = "everything from scratch (neither io.init nor model.dino.weights is set)"
        log.info("starting point: %s", start or (origin if backbones else scratch))
        log.info("precision: %s", {"none": "float32"}.get(cfg.train.amp, f"{cfg.train.amp}, weights in float32"))
    torch.manual_seed(cfg.train.seed + team.rank)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.train.tf32
    model.activation_checkpointing = cfg.train.activation_checkpointing
    model = model.to(team.device)
    if cfg.train.compile:
        model.compile()
    return model


def load_init(model: nn.Module, cfg: TrainStage, path: Path) -> None:
    """Copy weights, ours or published ones, from `path`; raises CheckpointError when they are another model's."""
    with suppress(ForeignWeightsError):  # a published file, or a damaged one, which load_published tells apart
        if other := difference(read_config(path)["model"], resolved(cfg)["model"]):
            raise CheckpointError(f"{path}: weights of another model: {other}; choose the weights or the model to fit")
    load_published(path, model)


def identity(cfg: TrainStage) -> str:
    """Return 16 hex digits over configuration, data and start; raises CheckpointError without a named start.

    Trainings that differ in `train.steps` alone share the first 8, and under a schedule that does not ask for their
    number all: the longer one goes on where the shorter one ended."""
    init = cfg.io.get("init")
    if init and not Path(init).is_file():
        raise CheckpointError(f"{init}: no such file; io.init names the weights to start from")
    parts = {"init": sha256(init) if init else None}
    parts["data"] = sha256(Path(cfg.io["packed"]) / "manifest.json")
    if cfg.train.losses.pointmap.weight and cfg.io.get("pointmaps"):
        parts["pointmaps"] = sha256(Path(cfg.io["pointmaps"]) / "manifest.json")

    def hashed(config: TrainStage) -> str:
        return hashlib.sha256(json.dumps({**parts, "config": digest(config)}, sort_keys=True).encode()).hexdigest()

    kin = hashed(replace(cfg, train=replace(cfg.train, steps=0)))
    return kin[:16] if cfg.train.schedule == "constant" else kin[:8] + hashed(cfg)[:8]


def compare_depths(cfg: TrainStage) -> None:
    """Warn of scenes that reach before the near or behind the far plane of a model that has them."""
    planes = getattr(cfg.model, "near", None), getattr(cfg.model, "far", None)
    seen = read_json(Path(cfg.io["packed"]) / "manifest.json").get("depth_range")
    if None not in planes and seen and not (planes[0] <= seen[0] and seen[1] <= planes[1]):
        text = "model.near=%g, model.far=%g: what the photographs see lies between %.3g and %.3g, in the units of their"
        text += " cameras, and nothing can be placed outside of these planes; give model.near and model.far around that"
        log.warning(text, *planes, *seen)


class Record:
    """Rows of the log, with means over the steps since the row before; further: columns of this run's own, means too.
    Its state travels in the checkpoint, so a resumed run neither repeats nor misses rows."""

    def __init__(self, path: Path | str, every: int, last: int, further: tuple[str, ...] = ()) -> None:
        self.means = (*MEANS, *further)
        self.columns = (*COLUMNS[:4], *further, *COLUMNS[4:])
        self.path, self.every, self.last = Path(path), every, last
        self.rows: list[dict[str, float]] = []
        self.window: list[dict[str, float]] = []
        self.before = 0.0
        self.started = self.flushed = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained so far, interruptions not counted."""
        return self.before + time.monotonic() - self.started

    def add(self, step: int, values: dict[str, float]) -> dict[str, float] | None:
        """Take in one step (keys `MEANS`, lr, skipped); return the row when one is due, else None."""
        self.window.append(values)
        if step % self.every and step != self.last:
            return None
        row = {"step": float(step)}
        for key in self.means:
            finite = [entry[key] for entry in self.window if math.isfinite(entry[key])]
            row[key] = sum(finite) / len(finite) if finite else math.nan
        row |= {"lr": values["lr"], "skipped": sum(entry["skipped"] for entry in self.window), "seconds": self.seconds}
        self.rows.append(row)
        self.window = []
        return row

    def write(self) -> None:
        """Write the CSV file atomically."""
        form = {key: "{:.6g}" for key in self.columns} | {"step": "{:.0f}", "skipped": "{:.0f}", "seconds": "{:.2f}"}
        lines = [",".join(form[key].format(row[key]) for key in self.columns) for row in self.rows]
        write_text(self.path, "\n".join([",".join(self.columns), *lines]) + "\n")
        self.flushed = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Rows, the unfinished window and the seconds so far."""
        return {"rows": self.rows, "window": self.window, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.window, self.before = list(state["rows"]), list(state["window"]), state["seconds"]
        self.started = time.monotonic()


class Checkpoints:
    """The newest `keep` checkpoints `{identity}-{code}-{step}-{checksum}.pt` of one run; others in `folder` stay.

    code: digests of the modules that the numbers depend on; last: step after which states are another's, of a longer
    training. With `go_on` a run that has no checkpoint of its own code
    goes on from one of other code, which it drops when it has saved its own; without, it begins anew."""

    def __init__(
        self,
        folder: Path | str,
        identity: str,
        keep: int,
        code: Mapping[str, str] | None = None,
        go_on: bool = False,
        last: int = 10**9,
    ) -> None:
        self.folder, self.identity, self.keep, self.last = Path(folder), identity, keep, last
        self.code, self.go_on = dict(code or {}), go_on
        self.name = f"{identity}-{_checksum(json.dumps(self.code, sort_keys=True).encode())[:8]}"

    def own(self) -> list[Path]:
        """Return this run's checkpoints by this code, newest first."""
        return sorted(filter(self._in_reach, self.folder.glob(f"{self.name}-*.pt")), reverse=True)

    def _in_reach(self, path: Path) -> bool:
        return int(path.stem.rsplit("-", 2)[1]) <= self.last

    def of_other_code(self) -> list[Path]:
        """Return this run's checkpoints by other code, newest first."""
        found = set(self.folder.glob(f"{self.identity}-*.pt")) - set(self.folder.glob(f"{self.name}-*.pt"))
        return sorted(filter(self._in_reach, found), key=lambda path: path.name.split("-")[2:], reverse=True)

    def save(self, step: int, state: State) -> Path:
        """Write `state` (tensors, numbers, strings, containers of these) after `step` steps; drop the oldest."""
        torch.save({**state, "step": step, "code": self.code}, buffer := io.BytesIO())
        content = buffer.getvalue()
        path = self.folder / f"{self.name}-{step:09d}-{_checksum(content)}.pt"
        write_bytes(path, content)
        others = [other for other in self.own() if other != path] + (self.of_other_code() if self.go_on else [])
        for old in others[self.keep - 1 :]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> State | None:
        """Return the newest undamaged state, or None to start from the beginning; warns about what it passes over."""
        for path in sorted(self.folder.glob("*.pt")):
            if path.name.startswith(f"{self.identity}-"):
                continue
            if path.name.startswith(self.identity[:8]):
                text = "checkpoint ignored: %s is of other train.steps, and this train.schedule depends on their number"
                log.warning(f"{text}; the training begins anew (train.schedule=constant goes on)", path)
            else:
                log.warning("STALE checkpoint ignored: %s is of another configuration, data or start", path)
        for path in self.own():
            if state := _read(path):
                log.info("resuming from %s, after step %d", path, state["step"])
                return state
        for path in self.of_other_code():
            if state := _read(path):
                theirs = state.get("code", {})
                changed = sorted(name for name in {*theirs, *self.code} if theirs.get(name) != self.code.get(name))
                if self.go_on:
                    text = "runtime.code=keep: going on from %s, after step %d, although code changed since: %s"
                    log.warning(text, path, state["step"], ", ".join(changed))
                    return state
                text = "STALE checkpoint ignored: %s is of other code (changed: %s); runtime.code=keep goes on from it"
                log.warning(text, path, ", ".join(changed))
        return None


def _read(path: Path) -> State | None:
    """Return the state in a checkpoint; None, with a warning, where it is damaged."""
    content = path.read_bytes()
    if _checksum(content) == path.stem.rpartition("-")[2]:
        with suppress(pickle.UnpicklingError):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    log.warning("damaged checkpoint passed over: %s", path)
    return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


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


def sweep_partial(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of unfinished files (see `novelview.files.replacing`)."""
    for left in folder.glob(pattern):
        left.unlink(missing_ok=True)


class Interrupt:
    """The name of the signal that came, or None; true once one has come."""

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


@contextmanager
def noting_signals() -> Iterator[Interrupt]:
    """Note SIGTERM, SIGUSR1 (of clusters, before the time limit) and SIGINT; a second Ctrl-C stops at once."""
    interrupt = Interrupt()

    def receive(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and interrupt:
            raise KeyboardInterrupt
        interrupt.name = signal.Signals(number).name

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
