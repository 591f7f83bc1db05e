"""What is seen of each row, against the definitions in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import clearhead as ch

FLOATS = ("lse", "entropy", "entropy_normalised", "peak", "distance", "max_score")


def definitions(s: Tensor, w: Tensor, lse: Tensor) -> dict[str, Tensor]:
    """From masked scores, weights and log-sum-exp in float64; queries are the last of the positions."""
    Tq, Tk = w.shape[-2:]
    i, j = torch.arange(Tq)[:, None] + Tk - Tq, torch.arange(Tk)
    visible = (s > -torch.inf).sum(-1)
    entropy = -(w * w.clamp(min=1e-300).log()).sum(-1)
    total = w.sum(-1)
    return {
        "lse": lse,
        "entropy": entropy,
        "entropy_normalised": torch.where(visible > 1, entropy / visible.clamp(min=2).log(), 0),
        "peak": w.amax(-1),
        "distance": torch.where(total > 0, (w * (i - j).abs()).sum(-1) / total.clamp(min=1e-300), 0),
        "max_score": s.amax(-1),
        "visible": visible,
    }


def assert_seen(seen: ch.Statistics, expected: Any, **tolerance: float) -> None:
    wanted = definitions(expected.s, expected.w, expected.lse)
    for name in FLOATS:
        ours = getattr(seen, name)
        torch.testing.assert_close(ours.double(), wanted[name].expand(ours.shape), msg=name, **tolerance)
    assert torch.equal(seen.visible, wanted["visible"])
    at_peak = expected.w.gather(-1, seen.peak_at.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(at_peak, wanted["peak"], atol=1e-6, rtol=1e-6)  # the key of any equal peak will do
    assert torch.equal(seen.peak_at == -1, wanted["visible"] == 0)


@given(data=st.data())
def test_statistics_are_their_definitions(
    backend: str, dtype: torch.dtype, plain: Any, calls: Any, data: st.DataObject
) -> None:
    (q, k, v), options, plainly = data.draw(calls)
    _, seen = ch.attention(q, k, v, **options, probe=True, backend=backend)
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 5e-5, "atol": 1e-5}
    assert_seen(seen, plain(q, k, v, **plainly), **tolerance)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_they_hold_over_many_tiles_in_float32(backend: str, plain: Any, scale: float, sinks: bool) -> None:
    q, k, v = torch.randn(1, 4, 300, 8), torch.randn(1, 2, 1300, 8), torch.randn(1, 2, 1300, 2)
    pattern = ch.causal() & ch.window(700) | ch.first(2)
    logits = torch.randn(4) * 5 if sinks else None
    _, seen = ch.attention(q, k, v, pattern=pattern, scale=scale, sinks=logits, probe=True, backend=backend)
    expected = plain(q, k, v, pattern.dense(300, 1300), scale=scale, sinks=logits)
    assert_seen(seen, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("peak_first", [True, False])
@pytest.mark.parametrize("sink", [None, -25.0, 2.0])
@pytest.mark.parametrize("gap", [10.0, 20.0, 25.0, 40.0])
def test_an_entropy_near_zero_keeps_its_digits(
    backend: str, plain: Any, gap: float, sink: float | None, peak_first: bool
) -> None:
    """One weight is 1 − 10⁻⁹ or so, which float32 rounds to 1; its neighbours decide the entropy."""
    scores = torch.full((700,), -gap)
    scores[3 if peak_first else 650] = 0.0
    scores = scores + torch.linspace(0, 1e-3, 700) + 30
    q, k = torch.ones(1, 1, 1, 1), scores.view(1, 1, -1, 1)
    sinks = None if sink is None else torch.tensor([sink + 30])
    _, seen = ch.attention(q, k, k, scale=1.0, sinks=sinks, probe=True, backend=backend)
    s = scores.double()
    gaps = s.max() - s
    rest = gaps[gaps > 0].neg().exp().sum() + (0 if sinks is None else torch.exp(sinks[0].double() - s.max()))
    log_weights = -gaps - torch.log1p(rest)
    entropy = -(log_weights.exp() * log_weights).sum()
    torch.testing.assert_close(seen.entropy.double().item(), entropy.item(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sink", [20.0, 200.0, 1e9])
def test_the_distance_is_of_the_keys_alone_whatever_a_sink_takes(backend: str, sink: float) -> None:
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8)
    _, seen = ch.attention(q, k, k, sinks=torch.full((4,), sink), probe=True, backend=backend)
    _, without = ch.attention(q, k, k, probe=True, backend=backend)
    torch.testing.assert_close(seen.distance, without.distance, rtol=1e-4, atol=1e-4)


def test_a_uniform_row_has_normalised_entropy_1_and_a_sharp_one_0(backend: str) -> None:
    q, k = torch.zeros(1, 1, 9, 2), torch.randn(1, 1, 9, 2)
    _, seen = ch.attention(q, k, k, pattern=ch.causal(), probe=True, backend=backend)
    torch.testing.assert_close(seen.entropy, torch.arange(1, 10).float().log()[None, None])
    torch.testing.assert_close(seen.entropy_normalised[..., 1:], torch.ones(1, 1, 8))
    assert seen.entropy_normalised[0, 0, 0] == 0  # one visible key leaves no choice
    torch.testing.assert_close(seen.distance, torch.arange(9)[None, None] / 2)


def test_equal_peaks_are_seen_at_the_first_of_them(backend: str) -> None:
    q, k = torch.zeros(1, 1, 2, 2), torch.randn(1, 1, 1200, 2)
    _, seen = ch.attention(q, k, k, pattern=ch.window(1100), probe=True, backend=backend)
    assert seen.peak_at.tolist() == [[[99, 100]]]


def test_statistics_and_log_sum_exp_come_in_the_order_asked_for(backend: str) -> None:
    q = torch.randn(1, 1, 3, 2)
    assert isinstance(ch.attention(q, q, q, backend=backend), Tensor)
    out, lse, seen = ch.attention(q, q, q, return_lse=True, probe=True, backend=backend)
    torch.testing.assert_close(lse, seen.lse)
    assert out.shape == (1, 1, 3, 2)


def test_all_backends_see_the_same(backend: str) -> None:
    q, k, v = torch.randn(2, 4, 150, 8), torch.randn(2, 2, 600, 8), torch.randn(2, 2, 600, 8)
    options: dict[str, Any] = {"pattern": ch.causal() & ~ch.chunks(32), "bias": ch.alibi(4), "softcap": 4.0}
    ours, theirs = (ch.attention(q, k, v, **options, probe=True, backend=b)[1] for b in (backend, "reference"))
    for name in (*FLOATS, "visible", "peak_at"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), msg=name)
