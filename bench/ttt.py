"""The fast-weight layer and LaCT's two phases: memory against autograd, error against float64, cost a view.

`python bench/ttt.py memory|precision|views`; rows go to results/ttt_{memory,precision,views}.csv. Times are CPU seconds
of one thread, which other processes on the machine hardly move."""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import process_time

import torch
from common import append
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from novelview.cameras.paths import turntable
from novelview.config.models import LaCTConfig, TTTConfig
from novelview.models.lact import LaCT
from novelview.models.ttt import Span, ttt_update_apply
from novelview.scenes.batch import Views
from novelview_kernels.ttt import reference
from novelview_kernels.ttt.reference import FastWeights, column_norms

MB = 2**20
MEMORY = [(256, 512, 2048), (256, 512, 8192), (768, 1536, 2048)]  # head width, hidden width, learnt tokens
PRECISIONS = [("accurate", False), ("reference", False), ("accurate", True), ("reference", True)]
SIZE = 64
TARGETS = 8


def inputs(d: int, m: int, learnt: int, heads: int = 1) -> list[Tensor]:
    """Return w0, w1, w2, q, k, v, rates like the layer's: unit queries and keys, rates about 0.01."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, d, m), (heads, m, d), (heads, d, m), *[(heads, learnt * 3 // 2, d)] * 3, (3, heads, learnt)]
    w0, w1, w2, q, k, v, lr = (torch.randn(shape, generator=generator) for shape in shapes)
    mixed = torch.randn(d, d, generator=generator) / d**0.5
    q, k, v = (torch.nn.functional.silu(x @ mixed) for x in (q, k[:, :learnt], v[:, :learnt]))
    values = [w0 * (2 / d) ** 0.5, w1 * (2 / m) ** 0.5, w2 * (2 / d) ** 0.5]
    values += [q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True), v, 0.01 * lr.exp()]
    return [value.requires_grad_() for value in values]


def answers(values: list[Tensor], way: str, precision: str = "accurate") -> tuple[Tensor, ...]:
    """Learn from the keys, answer all queries; by the closed form, or by autograd through the plain formulas."""
    w0, w1, w2, q, k, v, lr = values
    weights = FastWeights(w0, w1, w2)
    if way == "autograd":
        norms = FastWeights(*(column_norms(w.detach()) for w in weights))
        weights = reference.update(weights, norms, k, v, lr, 5)
        return reference.apply(weights, q), *weights
    rows = [Span(0, k.shape[1], True, False), Span(0, q.shape[1], False, True)]
    o, weights = ttt_update_apply(weights, q, k, v, lr, rows, 5, precision)
    return o, *weights


def gradients(values: list[Tensor], results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the gradients of a fixed random sum of the results."""
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    return torch.autograd.grad(results, values, factors)


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the smallest CPU time of a call."""
    times = []
    for _ in range(repeats):
        begin = process_time()
        call()
        times.append(process_time() - begin)
    return min(times)


@contextmanager
def counting(kept: dict[int, int]) -> Iterator[None]:
    """Collect the bytes of every storage autograd keeps."""
    alive: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        alive.append(value)
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        yield


def one_way(way: str, d: int, m: int, learnt: int) -> None:
    """Print megabytes kept for the backward pass, growth of the largest resident set in megabytes, and CPU seconds."""
    torch.set_num_threads(1)
    small = inputs(16, 32, 64)
    gradients(small, answers(small, way))  # what libraries allocate on their first use is not the layer's
    values = inputs(d, m, learnt)
    kept: dict[int, int] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with counting(kept):
        results = answers(values, way)
    forgotten = sum(kept.values())
    gradients(values, results)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    del results
    took = cpu_seconds(lambda: gradients(values, answers(values, way)), 2)
    print(forgotten / MB, peak / MB, took)


def memory() -> None:
    """Measure each way in a process of its own, so that one's peak does not hide the other's."""
    rows = []
    for d, m, learnt in MEMORY:
        for way in ("autograd", "closed form"):
            words = [sys.executable, __file__, "one", way, str(d), str(m), str(learnt)]
            text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            kept, peak, took = (float(number) for number in text.split())
            sizes = {"head_width": d, "hidden": m, "learnt_tokens": learnt, "answered_tokens": learnt * 3 // 2}
            rows.append(
                {
                    "way": way,
                    **sizes,
                    "kept_mb": round(kept),
                    "peak_mb": round(peak),
                    "step_cpu_seconds": round(took, 2),
                }
            )
    append("ttt_memory", rows)


def precision() -> None:
    """Measure relative L2 distances to float64 of answers, weights and gradients, in both precisions and modes."""
    rows = []
    for d, m, learnt in ((64, 128, 1024), (256, 512, 2048)):
        exact = [value.detach().double().requires_grad_() for value in inputs(d, m, learnt)]
        truth = answers(exact, "autograd")
        truth = (*truth, *gradients(exact, truth))
        for name, autocast in PRECISIONS:
            rows.append(_error_row(inputs(d, m, learnt), truth, name, autocast))
    append("ttt_precision", rows)


def _error_row(values: list[Tensor], truth: tuple[Tensor, ...], name: str, autocast: bool) -> dict[str, object]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = answers(values, "closed form", name)
    ours = (*results, *gradients(values, results))
    errors = [((one.double() - other).norm() / other.norm()).item() for one, other in zip(ours, truth, strict=True)]
    kinds = {"answers": errors[:1], "weights": errors[1:4], "gradients": errors[4:]}
    sizes = {"head_width": values[0].shape[1], "hidden": values[0].shape[2], "learnt_tokens": values[4].shape[1]}
    worst = {f"{kind}_error": f"{max(found):.2e}" for kind, found in kinds.items()}
    return {"precision": name, "autocast": autocast, **sizes, **worst}


@torch.no_grad()
def views() -> None:
    """Measure seconds to learn context views and to render one more camera, against the number of views."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LaCT(LaCTConfig(d=256, n_layer=6, ttt=TTTConfig(d_head=256))).eval()
    rows = []
    for count in (2, 4, 8, 16, 32):
        c2w, intrinsics = (value[None] for value in turntable(count + TARGETS, SIZE, SIZE))
        context = Views(torch.rand(1, count, 3, SIZE, SIZE), c2w[:, :count], intrinsics[:, :count])
        state = model.reconstruct(context)
        cameras = c2w[:, count:].split(1, 1), intrinsics[:, count:].split(1, 1)
        learn = cpu_seconds(partial(model.reconstruct, context), 3)
        pairs = list(zip(*cameras, strict=True))
        render = cpu_seconds(lambda: [model.render(state, *pair, SIZE, SIZE) for pair in pairs], 5) / TARGETS  # noqa: B023
        size = sum(w.nbytes for block in state.blocks for w in block)
        rows.append(
            {
                "context_views": count,
                "size": SIZE,
                "parameters": sum(value.numel() for value in model.parameters()),
                "state_mb": round(size / MB, 1),
                "reconstruct_cpu_seconds": round(learn, 3),
                "cpu_seconds_per_view": round(render, 4),
            }
        )
    append("ttt_views", rows)


def main() -> None:
    """Run the measurements asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "precision", "views", "one"])
    parser.add_argument("one", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "one":
        way, *sizes = given.one
        one_way(way, *map(int, sizes))
    else:
        {"memory": memory, "precision": precision, "views": views}[given.what]()


if __name__ == "__main__":
    main()
