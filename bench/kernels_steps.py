"""Training steps of whole models with our kernels off and on: `python bench/kernels_steps.py`.

Random views in place of data, mean squared error in place of the recipe's loss: what is timed is the model, its
backward pass and AdamW. One row a (model, size, arrangement): milliseconds, peak memory, share of the matrix units'
rate. The first arrangement is the published one: PyTorch's attention, every layer recomputed in the backward pass; all
ratios are against it, at equal batch. Part of `make gpu`; on a CPU `--scale demo` shows that it runs."""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from common import append
from torch.utils.flop_counter import FlopCounterMode

from novelview.config.compose import compose
from novelview.config.stages import TrainStage
from novelview.models.dinov2 import without_weights
from novelview.models.registry import build
from novelview.scenes.batch import Views
from novelview_kernels import backend
from novelview_kernels.gpu.measure import Clock, at_most

RATE = 790e12  # dense bfloat16 products measured on an H200, FLOP/s (specs/ttt_kernels.md section 3)
SETTINGS = [  # x224, x518, the small models, LaCT with 24 layers
    ("uplvsm", "pretrain"),
    ("lact", "pretrain"),
    ("lvsm_decoder_only", "pretrain"),
    ("uplvsm", "finetune"),
    ("lact", "finetune"),
]
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
TARGET = 1.8  # ours over the published arrangement, UP-LVSM at 224 pixels
LONGEST = 4.0  # seconds of repeats
COLUMNS = {"model": 18, "size": 4, "batch": 5, "kernels": 7, "recompute": 9}  # of the short table, with their widths
COLUMNS |= {"ms": 9, "peak_mib": 8, "mfu": 5, "ratio": 5, "note": 0}


class Arrangement(NamedTuple):
    """Which kernels, and whether layers are recomputed in the backward pass."""

    kernels: str
    recompute: bool


PUBLISHED = Arrangement("torch", True)
ON_GPU = [PUBLISHED, Arrangement("triton", False), Arrangement("triton", True), Arrangement("torch", False)]
ON_CPU = [PUBLISHED, Arrangement("torch", False), Arrangement("auto", False)]


def random_views(batch: int, views: int, size: int, device: str) -> Views:
    """Return random pictures seen by cameras at the origin."""
    pose = torch.eye(4, device=device).expand(batch, views, 4, 4).contiguous()
    lens = torch.tensor([size, size, size / 2, size / 2], device=device, dtype=torch.float32)
    images = torch.rand(batch, views, 3, size, size, device=device)
    return Views(images, pose, lens.expand(batch, views, 4).contiguous())


class Step:
    """One training step of a configured model on a fixed random batch."""

    def __init__(self, cfg: TrainStage, device: str) -> None:
        self.cfg, self.device = cfg, device
        self.context, self.target = self._views(cfg.train.batch_size)
        self.model = build(without_weights(cfg.model)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=device == "cuda")

    def _views(self, batch: int) -> tuple[Views, Views]:
        views = self.cfg.views
        counts = (views.num_context, views.num_target)
        first, second = (random_views(batch, count, views.image_size, self.device) for count in counts)
        return first, second

    def _backward(self, context: Views, target: Views, low: torch.dtype) -> None:
        assert target.images is not None
        with torch.autocast(self.device, low, enabled=low != torch.float32):
            loss = (self.model(context, target).images.float() - target.images).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def flops(self) -> float:
        """Return the operations of a step without recomputation: those of one sample in float32, times the batch."""
        self.model.activation_checkpointing = False
        with backend.use("torch"), FlopCounterMode(display=False) as counter:
            self._backward(*self._views(1), torch.float32)
        return float(counter.get_total_flops()) * self.cfg.train.batch_size

    def __call__(self) -> None:
        """Forward, backward, update."""
        self._backward(self.context, self.target, PRECISIONS.get(self.cfg.train.amp, torch.float32))
        self.optimizer.step()


def milliseconds(step: Step, repeats: int) -> float:
    """Return the median time of a step after two to warm up; fewer repeats where they take long."""
    times: list[float] = []
    for number in range(2 + repeats):
        begin = time.perf_counter()
        step()
        if step.device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
        if number > 2 and sum(times[2:]) > 1000 * LONGEST:
            break
    return statistics.median(times[2:])


def measured(step: Step, arrangement: Arrangement, repeats: int, flops: float) -> dict[str, Any]:
    """Return time, peak memory and share of the rate of one arrangement; one that cannot run says why."""
    cuda = step.device == "cuda"
    step.model.activation_checkpointing = arrangement.recompute
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with backend.use(arrangement.kernels):
            ms = milliseconds(step, repeats)
    except (RuntimeError, ValueError) as problem:
        step.optimizer.zero_grad(set_to_none=True)
        return {"ms": "", "peak_mib": "", "mfu": "", "note": str(problem).splitlines()[0][:120]}
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
    mfu = flops / (ms / 1000) / RATE if cuda else 0.0
    return {"ms": round(ms, 2), "peak_mib": round(peak), "mfu": round(mfu, 3), "note": ""}


def rows(cfg: TrainStage, device: str, repeats: int, clock: Clock) -> Iterator[dict[str, Any]]:
    """Yield one row an arrangement, and what the published one takes beside it; those without time left say so."""
    torch.manual_seed(0)
    step = Step(cfg, device)
    flops, published = step.flops(), None
    for arrangement in ON_GPU if device == "cuda" else ON_CPU:
        head: dict[str, Any] = {"model": cfg.model.name, "phase": cfg.phase, "size": cfg.views.image_size}
        head |= {"batch": cfg.train.batch_size, **arrangement._asdict()}
        if clock.left() <= 0:
            yield head | {"ms": "", "peak_mib": "", "mfu": "", "note": "not run: out of time", "ratio": ""}
            continue
        found = measured(step, arrangement, repeats, flops)
        published = found["ms"] if arrangement == PUBLISHED else published
        yield head | found | {"ratio": round(published / found["ms"], 2) if published and found["ms"] else ""}


def short_table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table, and whether the target for UP-LVSM at 224 pixels is met."""
    for row in [{name: name for name in COLUMNS}, *found]:
        yield "  ".join(f"{row[name]!s:{width}}" for name, width in COLUMNS.items()).rstrip()
    ours = [row["ratio"] for row in found if (row["model"], row["size"], row["kernels"]) == ("uplvsm", 224, "triton")]
    reached = max((ratio for ratio in ours if ratio != ""), default=None)
    verdict = "NOT MEASURED" if reached is None else f"{'met' if reached >= TARGET else 'MISSED'}, {reached:.2f}x"
    yield f"UP-LVSM training step at 224 pixels: {TARGET}x the published arrangement: {verdict}"


def main() -> None:
    """Measure every setting that the time allows; append and print the rows."""
    parser = argparse.ArgumentParser(description="Training steps with our kernels off and on.")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=2.0, help="what no longer fits is left out, and said to be")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, found = Clock(60 * given.minutes), []
    with at_most(60 * given.minutes + 15):
        for model, phase in SETTINGS:
            cfg = compose("train", [f"model={model}", f"scale={given.scale}", f"phase={phase}", *given.overrides])
            if clock.left() > 0:
                found += rows(cfg, device, given.repeats, clock)
            else:
                print(f"not run, out of time: {model} {phase}")
    if found:
        append("kernels_steps", found)
    print("\n".join(short_table(found)))


if __name__ == "__main__":
    main()
