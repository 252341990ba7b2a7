"""Registration, modes and wrong input of the attention operators; the torch path they fall back to."""

import re

import pytest
import torch
from torch import Tensor

from novelview_kernels import backend, context_attention, qk_attention, table
from novelview_kernels.attention import configs, reference
from novelview_kernels.attention.op import attention, attention_backward
from novelview_kernels.context_attention.merged import merged
from novelview_kernels.ttt import ttt_apply


def _qkv(n: int = 24, d: int = 32, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    qkv = torch.randn(2, n, 3, 2, d, generator=generator, dtype=dtype)
    return qkv, torch.rand(d, dtype=dtype, generator=generator) + 0.5, torch.rand(d, dtype=dtype, generator=generator)


def test_two_merged_calls_equal_repeated_keys() -> None:
    """The benchmark's baseline computes the same thing, gradients included."""
    inputs = [x.requires_grad_() for x in _qkv(30)]
    ours, theirs = merged(*inputs, 1e-6, 10, 5), reference.repeated(*inputs, 1e-6, 10, 5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    bar = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(torch.autograd.grad(ours, inputs, bar), torch.autograd.grad(theirs, inputs, bar), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("context", "view"), [(24, 0), (8, 8)])
def test_opcheck(context: int, view: int) -> None:
    qkv, wq, wk = (x.requires_grad_() for x in _qkv())
    torch.library.opcheck(attention, (qkv, wq, wk, 1e-6, context, view))
    with torch.no_grad():
        o, lse, hat, rstd = attention(qkv, wq, wk, 1e-6, context, view)
    args = (torch.ones_like(o), qkv.detach(), wq.detach(), wk.detach(), o, lse, hat, rstd, context, view)
    torch.library.opcheck(attention_backward, args)


@pytest.mark.usefixtures("interpret")
def test_compiled_whole_and_equal() -> None:
    inputs = [x.requires_grad_() for x in _qkv()]
    compiled = torch.compile(lambda *x: qk_attention(*x, 1e-6).square().sum(), fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(qk_attention(*inputs, 1e-6).square().sum(), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("views", [0, 2])
def test_formulas_match_autograd_in_float64(views: int) -> None:
    inputs = [x.requires_grad_() for x in _qkv(d=32, dtype=torch.float64)]
    context, view = (24, 0) if not views else (8, 8)
    plain = reference.dense(*inputs, 1e-6) if not views else reference.repeated(*inputs, 1e-6, context, view)
    ours = attention(*inputs, 1e-6, context, view)[0]
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    weight = torch.randn(plain.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(plain, inputs, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, 5, 3, 1, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = [torch.rand(4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *x: attention(*x, 1e-6, 5, 0)[0], (qkv, *weights))
    assert torch.autograd.gradcheck(lambda *x: attention(*x, 1e-6, 1, 2)[0], (qkv, *weights))


def test_torch_mode_is_scaled_dot_product_attention() -> None:
    with backend.use("torch"):
        assert torch.equal(qk_attention(*_qkv(), 1e-6), reference.dense(*_qkv(), 1e-6))


def test_a_view_equals_dense_attention_over_context_and_itself() -> None:
    qkv, wq, wk = _qkv(30)
    o = context_attention(qkv, wq, wk, 1e-6, 10, 10)
    alone = qk_attention(torch.cat([qkv[:, :10], qkv[:, 20:]], 1), wq, wk, 1e-6)
    torch.testing.assert_close(o[:, 20:], alone[:, 10:], rtol=0, atol=2e-6)
    torch.testing.assert_close(o[:, :10], qk_attention(qkv[:, :10], wq, wk, 1e-6), rtol=0, atol=2e-6)


WRONG = [
    (lambda q, w: qk_attention(q[:, :, :2], w, w, 0.1), "[2, 24, 2, 2, 32]; it must be [batch, tokens, 3"),
    (lambda q, w: qk_attention(q, w[:5], w, 0.1), "q_weight has shape [5]; it must be [32]"),
    (lambda q, w: context_attention(q, w, w, 0.1, 10, 5), "24 tokens are no context of 10 and whole views of 5"),
    (lambda q, w: context_attention(q, w, w, 0.1, 24, 8), "24 tokens are no context of 24 and whole views of 8"),
]


@pytest.mark.parametrize(("call", "says"), WRONG, ids=["packing", "weight", "ragged", "no-view"])
def test_wrong_shapes_say_what_is_wrong(call, says: str) -> None:
    qkv, wq, _ = _qkv()
    with pytest.raises(ValueError, match=re.escape(says)):
        call(qkv, wq)


def test_demanding_triton_on_cpu_is_an_error() -> None:
    with backend.use("triton"), pytest.raises(ValueError, match="NOVELVIEW_KERNELS=triton, but qk_attention cannot"):
        qk_attention(*_qkv(), 1e-6)
    with backend.use("interpret"), pytest.raises(ValueError, match="head width 8 is none of"):
        qk_attention(*_qkv(d=8), 1e-6)


def test_bfloat16_is_not_interpreted_unless_corrected() -> None:
    """Triton's interpreter returns garbage for it without a word."""
    qkv, wq, wk = _qkv(dtype=torch.float32)
    with backend.use("interpret"), pytest.raises(ValueError, match=r"qk_attention cannot: .* bfloat16 wrongly"):
        qk_attention(qkv.bfloat16(), wq, wk, 1e-6)
    w, tokens = torch.ones(1, 8, 16), torch.ones(1, 4, 8, dtype=torch.bfloat16)
    with backend.use("interpret"), pytest.raises(ValueError, match=r"ttt_apply cannot: .* bfloat16 wrongly"):
        ttt_apply([w, w.mT, w], tokens)


def test_kernels_take_what_the_table_of_tiles_lists() -> None:
    for tiles in (configs.FORWARD, configs.DQ, configs.DKDV):
        assert set(tiles) == {(cc, d) for cc in (80, 90) for d in configs.HEAD_DIMS} - {(80, 128)}
    assert configs.unsupported(_qkv()[0]) == "no kernel for float32"
    assert configs.ships(86, 64) and configs.ships(120, 128) and not configs.ships(86, 128)


def _table(tmp_path, rows: list[str]):
    file = tmp_path / "table.csv"
    file.write_text(",".join(table.COLUMNS) + "\n" + "".join(f"{row},x,gpu,2.11,3.6,2026\n" for row in rows))
    table.measurements.cache_clear()
    return file


def test_only_a_measurement_nearby_that_favours_us_chooses_triton(tmp_path) -> None:
    rows = [
        "op,90,bfloat16,forward,b=1 h=12 n=1280 d=64,1.0,2.0",
        "op,90,bfloat16,forward,b=8 h=12 n=5120 d=64,3.0,2.0",
    ]
    file = _table(tmp_path, rows)

    def choice(training: bool = False, cc: int = 90, **sizes: int) -> str:
        return table.fastest("op", cc, "bfloat16", training, {"b": 1, "h": 12, "n": 1280, "d": 64} | sizes, file).choice

    assert choice() == choice(n=1500) == "triton"
    assert choice(n=4000) == choice(b=3) == choice(b=8, n=5120) == choice(d=32) == "torch"
    assert choice(training=True) == choice(cc=80) == "torch"


def test_the_checked_in_table_is_readable() -> None:
    table.measurements.cache_clear()
    assert all(row.ours > 0 and row.other > 0 for rows in table.measurements().values() for row in rows)
    assert table.FILE.read_text().splitlines()[0].split(",") == table.COLUMNS
