"""Biases: tables over distance, ALiBi's slopes, T5's buckets, dense ones."""

import math
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.attend.biases import t5_bucket

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("zero", [None, 0, 5])
@pytest.mark.parametrize(("Tq", "Tk"), [(6, 6), (3, 8), (7, 4)])
def test_a_relative_bias_is_its_table_at_the_distance(
    backend: str, dtype: torch.dtype, plain: Any, near: Any, Tq: int, Tk: int, zero: int | None, rows: int
) -> None:
    q, k, v = (torch.randn(2, 4, T, 3, dtype=dtype) for T in (Tq, Tk, Tk))
    table = torch.randn(rows, 6, dtype=dtype)
    middle = 3 if zero is None else zero
    bias = torch.zeros(4, Tq, Tk, dtype=torch.float64)
    for h in range(4):
        for i in range(Tq):
            for j in range(Tk):
                entry = min(max(j - (i + Tk - Tq) + middle, 0), 5)
                bias[h, i, j] = table[h % rows, entry]
    out = ch.attention(q, k, v, bias=ch.relative(table, zero), backend=backend)
    expected = plain(q, k, v, bias=bias)
    near(out, expected.out, expected.s)


@pytest.mark.parametrize("rows", [1, 4], ids=["one row for all heads", "a row a head"])
@pytest.mark.parametrize("pattern", [ch.full(), ch.causal() & ch.window(3)], ids=str)
def test_a_relative_table_s_gradient_is_summed_over_all_that_share_an_entry(
    backend: str, pattern: ch.Pattern, rows: int
) -> None:
    """Batches, distances that are alike or beyond the table, and heads where they share one row."""
    q, k, v = torch.randn(3, 4, 6, 8), torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    table = torch.randn(rows, 6, requires_grad=True)
    out = ch.attention(q, k, v, pattern=pattern, bias=ch.relative(table), backend=backend)
    weigh = torch.randn_like(out)
    (out * weigh).sum().backward()

    exact = table.detach().double().requires_grad_()
    distance = torch.arange(9) - (torch.arange(6)[:, None] + 3)
    dense = exact[:, (distance + 3).clamp(0, 5)].expand(4, -1, -1)
    expected = ch.attention(q.double(), k.double(), v.double(), pattern=pattern, bias=dense, backend="reference")
    (expected * weigh).sum().backward()
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(table.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [*range(1, 21), 32, 40, 71, 112])
def test_alibi_s_slopes_are_those_of_bloom_for_any_number_of_heads(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(ch.alibi(heads).weights[0].flatten(), theirs)


def test_alibi_takes_slope_times_distance_from_the_score(backend: str, dtype: torch.dtype, plain: Any) -> None:
    q, k, v = (torch.randn(1, 3, T, 4, dtype=dtype) for T in (4, 9, 9))
    distance = (torch.arange(4)[:, None] + 5 - torch.arange(9)).abs()
    for bias, slopes in (
        (ch.alibi(3), torch.tensor([2**-4, 2**-8, 2**-2])),
        (ch.alibi(torch.tensor([0.1, 0.0, 2.0])), torch.tensor([0.1, 0.0, 2.0])),
    ):
        out = ch.attention(q, k, v, pattern=ch.causal(), bias=bias, backend=backend)
        visible = ch.causal().dense(4, 9)
        expected = plain(q, k, v, visible, bias=-slopes[:, None, None] * distance)
        torch.testing.assert_close(out.double(), expected.out, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(("Tq", "Tk", "K"), [(4, 9, 3), (130, 150, 1), (2, 90, 1)])
def test_alibi_s_slopes_may_differ_by_batch_and_be_learned(
    backend: str, dtype: torch.dtype, plain: Any, near: Any, Tq: int, Tk: int, K: int
) -> None:
    q = torch.randn(2, 3, Tq, 4, dtype=dtype)
    k, v = (torch.randn(2, K, Tk, 4, dtype=dtype) for _ in range(2))
    slopes = torch.rand(2, 3, dtype=dtype)
    distance = (torch.arange(Tq)[:, None] + Tk - Tq - torch.arange(Tk)).abs()
    learned, plainly = (slopes.clone().requires_grad_() for _ in range(2))
    out = ch.attention(q, k, v, pattern=ch.causal(), bias=ch.alibi(learned), backend=backend)
    bias = -plainly.double()[..., None, None] * distance
    expected = plain(q, k, v, ch.causal().dense(Tq, Tk), bias=bias)
    scores = expected.s.detach()
    near(out, expected.out, scores)
    out.square().sum().backward()
    expected.out.square().sum().backward()
    near(learned.grad, plainly.grad, scores, times=200)
    with torch.no_grad():
        for shared in (slopes[0], slopes[:1]):
            again = ch.attention(q, k, v, bias=ch.alibi(shared), backend=backend)
            torch.testing.assert_close(
                again, ch.attention(q, k, v, bias=ch.alibi(slopes[:1].repeat(2, 1)), backend=backend)
            )


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3, 1)])
@pytest.mark.usefixtures("unchecked")
def test_slopes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    q = torch.randn(2, 3, 4, 4)
    with pytest.raises(ch.ClearheadError, match=r"alibi: got slopes of shape .*expected .*\(?H?3?,?"):
        ch.attention(q, q, q, bias=ch.alibi(torch.rand(shape)))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 20), (8, 300), (64, 128)])
def test_t5_s_buckets_are_those_of_transformers(buckets: int, max_distance: int, bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-700, 701)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    assert torch.equal(t5_bucket(distance, buckets, bidirectional, max_distance), theirs)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_s_bias_is_that_of_transformers_at_every_distance(backend: str, plain: Any, bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    weights = torch.randn(16, 2)
    i, j = torch.arange(60)[:, None], torch.arange(60)
    bucket = T5Attention._relative_position_bucket(j - i, bidirectional, 16, 20)
    q, k, v = (torch.randn(1, 2, 60, 4) for _ in range(3))
    bias = ch.t5(weights, bidirectional=bidirectional, max_distance=20)
    out = ch.attention(q, k, v, bias=bias, scale=1.0, backend=backend)
    expected = plain(q, k, v, bias=weights[bucket].permute(2, 0, 1), scale=1.0).out
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_minus_infinity_in_a_dense_bias_hides_as_a_pattern_does(backend: str) -> None:
    q, k, v = (torch.randn(2, 2, 6, 4) for _ in range(3))
    bias, hidden = torch.randn(2, 1, 6, 6), torch.rand(2, 1, 6, 6) < 0.5
    hidden[:, :, 2] = True
    k[0, :, 1] = torch.nan
    hidden[0, :, :, 1] = True
    leaves = [bias.masked_fill(hidden, -torch.inf).requires_grad_(), bias.clone().requires_grad_()]
    both = (
        ch.attention(q, k, v, bias=leaves[0], pattern=ch.causal(), probe=True, backend=backend),
        ch.attention(q, k, v, bias=leaves[1], pattern=ch.causal() & ch.where(~hidden), probe=True, backend=backend),
    )
    for (out, seen), leaf in zip(both, leaves, strict=True):
        out.square().sum().backward()
        assert leaf.grad.isfinite().all()
        assert seen.visible[:, :, 2].max() == 0
    torch.testing.assert_close(both[0][0], both[1][0])
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_what_a_hidden_pair_s_bias_holds_never_leaks(backend: str) -> None:
    q, k, v = (torch.randn(1, 1, 5, 4) for _ in range(3))
    bias = torch.zeros(5, 5).masked_fill(ch.window(None, 0).dense(5, 5)[0, 0].logical_not(), math.nan)
    bias.requires_grad_()
    out = ch.attention(q, k, v, bias=bias, pattern=ch.causal(), backend=backend)
    torch.testing.assert_close(out, ch.attention(q, k, v, pattern=ch.causal(), backend=backend))
    out.sum().backward()
    assert bias.grad.isfinite().all()


def test_alibi_of_no_head_is_refused_in_a_sentence() -> None:
    with pytest.raises(ch.ClearheadError, match=r"alibi: got 0 heads; expected at least 1\."):
        ch.alibi(0)


def test_a_bias_of_float32_serves_a_call_in_bfloat16(backend: str) -> None:
    q = torch.randn(1, 2, 5, 4, dtype=torch.bfloat16)
    bias = torch.randn(2, 5, 5, requires_grad=True)
    ch.attention(q, q, q, bias=bias, backend=backend).sum().backward()
    assert bias.grad.dtype == torch.float32
