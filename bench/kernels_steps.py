"""Training steps of whole models with our kernels off, on and as the table chooses: `python bench/kernels_steps.py`.

Random views in place of data, mean squared error in place of the recipe's loss: what is timed is the model, its
backward pass and AdamW. One row a (model, size, arrangement): milliseconds, peak memory, share of the matrix units'
rate. The first arrangement is the published one: PyTorch's attention, every layer recomputed in the backward pass.
Part of `make gpu`; on a CPU `--scale demo` shows that it runs.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import append
from torch.utils.flop_counter import FlopCounterMode

from novelview.config.compose import compose
from novelview.config.schema import TrainStage
from novelview.models.dinov2 import without_weights
from novelview.models.registry import build
from novelview.scenes.batch import Views
from novelview_kernels import backend

RATE = 790e12  # dense bfloat16 products measured on an H200, FLOP/s (specs/ttt_kernels.md section 3)
SETTINGS = [("uplvsm", "pretrain"), ("uplvsm", "finetune"), ("lvsm_decoder_only", "pretrain"), ("lact", "pretrain")]
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def random_views(batch: int, views: int, size: int, device: str) -> Views:
    """Return random pictures seen by cameras at the origin."""
    pose = torch.eye(4, device=device).expand(batch, views, 4, 4).contiguous()
    lens = torch.tensor([size, size, size / 2, size / 2], device=device, dtype=torch.float32)
    images = torch.rand(batch, views, 3, size, size, device=device)
    return Views(images, pose, lens.expand(batch, views, 4).contiguous())


class Step:
    """One training step of a configured model on a fixed random batch."""

    def __init__(self, cfg: TrainStage, device: str) -> None:
        batch, size = cfg.train.batch_size, cfg.views.image_size
        self.cfg, self.device = cfg, device
        self.context = random_views(batch, cfg.views.num_context, size, device)
        self.target = random_views(batch, cfg.views.num_target, size, device)
        self.model = build(without_weights(cfg.model)).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=device == "cuda")

    def __call__(self) -> None:
        """Forward, backward, update."""
        low = PRECISIONS.get(self.cfg.train.amp, torch.float32)
        truth = self.target.images
        assert truth is not None
        with torch.autocast(self.device, low, enabled=low != torch.float32):
            loss = (self.model(self.context, self.target).images.float() - truth).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def milliseconds(step: Step, repeats: int) -> float:
    """Return the median time of a step after two to warm up."""
    times = []
    for _ in range(2 + repeats):
        begin = time.perf_counter()
        step()
        if step.device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[2:])


def rows(cfg: TrainStage, device: str, arrangements: list[tuple[str, bool]], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield one row an arrangement (mode, recomputation of layers); one that cannot run says why."""
    torch.manual_seed(0)
    step = Step(cfg, device)
    with backend.use("torch"), FlopCounterMode(display=False) as counter:
        step()
    for mode, recompute in arrangements:
        step.model.activation_checkpointing = recompute
        head: dict[str, Any] = {"model": cfg.model.name, "phase": cfg.phase, "size": cfg.views.image_size}
        head |= {"batch": cfg.train.batch_size, "kernels": mode, "recompute": recompute}
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            with backend.use(mode):
                ms = milliseconds(step, repeats)
        except (RuntimeError, ValueError) as problem:
            yield head | {"ms": "", "peak_mib": "", "mfu": "", "note": str(problem).splitlines()[0][:120]}
            continue
        peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
        mfu = counter.get_total_flops() / (ms / 1000) / RATE if device == "cuda" else 0.0
        yield head | {"ms": round(ms, 2), "peak_mib": round(peak), "mfu": round(mfu, 3), "note": ""}


def main() -> None:
    """Measure every setting; append and print the rows."""
    parser = argparse.ArgumentParser(description="Training steps with kernels off, on and chosen by the table.")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.0, help="settings that no longer fit are left out")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end, found = time.monotonic() + 60 * given.minutes, []
    for model, phase in SETTINGS:
        if time.monotonic() > end:
            print(f"not run, out of time: {model} {phase}")
            continue
        cfg = compose("train", [f"model={model}", f"scale={given.scale}", f"phase={phase}", *given.overrides])
        modes = ["torch", "triton", "auto"] if device == "cuda" else ["torch", "auto"]
        found += rows(cfg, device, [("torch", True), *((mode, False) for mode in modes)], given.repeats)
    append("kernels_steps", found)


if __name__ == "__main__":
    main()
