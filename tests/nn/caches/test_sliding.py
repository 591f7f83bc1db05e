"""Sliding: bounded memory, and StreamingLLM's positions by their definition, query by query."""

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.nn.caches import Sliding
from clearhead.nn.positions.rotary import Rotary
from clearhead.nn.positions.scaling import DynamicNTK, YaRN

B, H, K, T, D = 2, 4, 2, 100, 16
PIECES = {
    "whole": [T],
    "token by token": [1] * T,
    "mixed": [7, 43, 1, 1, 1, 3, 44],
}


def streaming(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int, rotary: Rotary | None) -> Tensor:
    """Each query by itself, over a cache of sinks and window in which positions are counted anew (Xiao et al. 2023)."""
    rows = []
    for i in range(T):
        kept = [*range(min(sinks, max(0, i - window + 1))), *range(max(0, i - window + 1), i + 1)]
        one, keys = q[:, :, i : i + 1], k[:, :, kept]
        if rotary is not None:
            at = torch.arange(len(kept))[None]
            keys = rotary.turn(keys, keys, rotary.angles(at))[1]
            one = rotary.turn(one, one, rotary.angles(at[:, -1:]))[0]
        rows.append(ch.attention(one, keys, v[:, :, kept], backend="reference"))
    return torch.cat(rows, 2)


def flowing(cache: Sliding, pieces: list[int], q: Tensor, k: Tensor, v: Tensor, rotary: Rotary | None) -> Tensor:
    """The same by the cache, whose `positions` say where the tokens stand."""
    rows = []
    for one, keys, values in zip(*(x.split(pieces, 2) for x in (q, k, v)), strict=True):
        if rotary is not None:
            one, keys = rotary.turn(one, keys, rotary.angles(cache.positions(one.shape[2])))
        rows.append(cache.attend(one, keys, values, pattern=ch.causal()))
    return torch.cat(rows, 2)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("window", "sinks", "rotary"),
    [
        (8, 0, None),
        (20, 4, None),
        (20, 4, Rotary(D)),
        (20, 4, Rotary(D, scaling=YaRN(4.0, trained=16))),
        (5, 1, Rotary(D, layout="pairs")),
        (1, 2, Rotary(D, turned=8)),
        (1, 0, None),
    ],
    ids=["window", "sinks", "rotary", "temperature", "pairs", "one key", "itself alone"],
)
def test_in_any_pieces_it_is_streaming_by_its_definition(
    window: int, sinks: int, rotary: Rotary | None, dtype: torch.dtype
) -> None:
    q, k, v = (torch.randn(B, n, T, D, dtype=dtype) for n in (H, K, K))
    expected = streaming(q, k, v, window, sinks, rotary)
    for pieces, gradient in (("whole", False), ("token by token", False), ("mixed", False), ("mixed", True)):
        cache = Sliding(window, sinks, rotary)
        with torch.set_grad_enabled(gradient):
            out = flowing(cache, PIECES[pieces], q, k, v, rotary)
        near = 1e-6 if dtype == torch.float64 else 1e-5  # the angles are float32
        torch.testing.assert_close(out, expected, atol=near, rtol=near)


def test_unlike_lengths_stream_each_by_itself() -> None:
    rotary, q, k, v = Rotary(D), *(torch.randn(B, n, T, D) for n in (H, K, K))
    expected = streaming(q, k, v, 20, 4, rotary)
    cache, at = Sliding(20, 4, rotary), [0, 0]
    with torch.no_grad():
        for fresh in ([30, 9], [1, 1], [1, 0], [5, 25], *[[1, 1]] * 20, [3, 30]):
            T_ = max(fresh)
            one, keys, values = (torch.stack([x[b, :, n : n + T_] for b, n in enumerate(at)]) for x in (q, k, v))
            one, keys = rotary.turn(one, keys, rotary.angles(cache.positions(T_).expand(B, -1)))
            out = cache.attend(one, keys, values, torch.tensor(fresh), pattern=ch.causal())
            for b, n in enumerate(fresh):
                torch.testing.assert_close(out[b, :, :n], expected[b, :, at[b] : at[b] + n], atol=1e-5, rtol=1e-5)
                assert (out[b, :, n:] == 0).all()
                at[b] += n
    assert cache.counts == at


def test_gradients_in_pieces_are_those_of_the_window() -> None:
    made = [torch.randn(1, n, 60, D, dtype=torch.float64, requires_grad=True) for n in (H, K, K)]
    weight = torch.randn(1, H, 60, D, dtype=torch.float64)
    whole = ch.attention(*made, pattern=ch.window(8))
    cache = Sliding(8)
    parts = zip(*(x.split([20, 1, 30, 9], 2) for x in made), strict=True)
    pieces = torch.cat([cache.attend(*part, pattern=ch.window(8)) for part in parts], 2)
    for mine, expected in zip(*(torch.autograd.grad((x * weight).sum(), made) for x in (pieces, whole)), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-12)


def test_memory_and_positions_stay_bounded_in_an_endless_text() -> None:
    rotary = Rotary(8)
    cache = Sliding(64, 4, rotary)
    most, furthest = 0, 0
    with torch.no_grad():
        for T in (1000, 300, *[1] * 50, 77, *[2] * 20):
            if T < 64:
                furthest = max(furthest, int(cache.positions(T).max()))
            q, k, v = (torch.randn(1, n, T, 8) for n in (4, 2, 2))
            cache.attend(*rotary.turn(q, k, rotary.angles(cache.positions(T))), v, pattern=ch.causal())
            most = max(most, cache.nbytes)
    room = 4 + 64 + 16
    assert most == room * 2 * (8 + 8) * 4
    assert furthest < room
    assert max(cache.kept) <= room


def test_a_narrower_pattern_is_kept_to() -> None:
    q, k, v = (torch.randn(B, n, 40, D) for n in (H, K, K))
    with torch.no_grad():
        cache = Sliding(20)
        out = torch.cat(
            [cache.attend(*(x[:, :, n : n + 1] for x in (q, k, v)), pattern=ch.window(5)) for n in range(40)], 2
        )
    torch.testing.assert_close(out, ch.attention(q, k, v, pattern=ch.window(5)), atol=1e-5, rtol=1e-5)


def test_guesses_can_be_taken_back_but_what_was_dropped_can_not() -> None:
    q, k, v = (torch.randn(B, n, T, D) for n in (H, K, K))
    expected = ch.attention(q, k, v, pattern=ch.window(8))
    cache = Sliding(8)
    with torch.no_grad():
        for n in range(70):
            cache.attend(*(x[:, :, n : n + 3] for x in (q, k, v)), pattern=ch.window(8))
            cache.crop(torch.tensor([n, n]))
            out = cache.attend(*(x[:, :, n : n + 1] for x in (q, k, v)), pattern=ch.window(8))
            torch.testing.assert_close(out, expected[:, :, n : n + 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ClearheadError, match="a text of 30 tokens needs the 7 before its next"):
        cache.crop(torch.tensor([30, 30]))
    assert cache.counts == [70, 70]


def test_what_it_can_not_do_is_said() -> None:
    with pytest.raises(ClearheadError, match="got a window of 0 and 2 sinks"):
        Sliding(0, 2)
    with pytest.raises(ClearheadError, match="expected a scaling that does not grow"):
        Sliding(8, 2, Rotary(D, scaling=DynamicNTK(2.0, trained=16)))
    q = torch.randn(1, 2, 5, D)
    with pytest.raises(ClearheadError, match="with sinks takes no bias"):
        Sliding(8, 2).attend(q, q, q, pattern=ch.causal(), bias=ch.alibi(2))
    with pytest.raises(ClearheadError, match=r"takes causal\(\) or window\(w\), and the pattern is full\(\)"):
        Sliding(8).attend(q, q, q, pattern=ch.full())
