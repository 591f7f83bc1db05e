"""Every cache: whatever the pieces that a text comes in, attention is what it is without a cache."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.nn.caches import Cache, Growing, Paged, Pool, Quantised, Sliding, Static
from clearhead.nn.caches.cache import counted, positions

B, H, K, T, D, Dv = 3, 6, 2, 30, 16, 24
EXACT: dict[str, Callable[[torch.dtype], Cache]] = {
    "growing": lambda dtype: Growing(),
    "static": lambda dtype: Static(B, K, D, T, dtype, Dv=Dv),
    "sliding": lambda dtype: Sliding(T),
    "paged": lambda dtype: Paged(Pool(blocks=40, block=4)),
}
ALL = {**EXACT, "quantised": lambda dtype: Quantised()}
PATTERNS = {"causal": ch.causal(), "window": ch.window(7), "composed": ch.causal() & (ch.window(5) | ch.first(2))}
PIECES = {
    "whole": [T],
    "in chunks": [11, 17, 2],
    "token by token": [1] * T,
    "guessing": [20, 3, 1, 2, 4],
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}


@pytest.fixture(params=ALL)
def made(request: pytest.FixtureRequest) -> Callable[[torch.dtype], Cache]:
    return ALL[request.param]


@pytest.fixture(params=EXACT)
def exact(request: pytest.FixtureRequest) -> Callable[[torch.dtype], Cache]:
    return EXACT[request.param]


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(B, n, T, width).to(dtype) for n, width in ((H, D), (K, D), (K, Dv)))


def without(q: Tensor, k: Tensor, v: Tensor, pattern: ch.Pattern, **options: object) -> Tensor:
    """Attention without a cache, in float64."""
    options = {name: x.double() if isinstance(x, Tensor) else x for name, x in options.items()}
    return ch.attention(q.double(), k.double(), v.double(), pattern=pattern, backend="reference", **options)


def in_pieces(cache: Cache, pieces: list[int], q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    parts = zip(*(x.split(pieces, 2) for x in (q, k, v)), strict=True)
    return torch.cat([cache.attend(*part, **options) for part in parts], 2)


def pieces_of(x: Tensor, start: list[int], T: int) -> Tensor:
    """T tokens of each sequence, from its own place on; what would lie beyond the text is NaN."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, T), value=torch.nan)
    return torch.stack([padded[b, :, n : n + T] for b, n in enumerate(start)])


@pytest.mark.parametrize(
    ("dtype", "gradient"),
    [(torch.float32, False), (torch.float32, True), (torch.float64, False), (torch.bfloat16, False)],
    ids=["float32", "float32, gradient recorded", "float64", "bfloat16"],
)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_in_any_pieces_it_is_attention_without_a_cache(
    exact: Callable[[torch.dtype], Cache], pattern: ch.Pattern, dtype: torch.dtype, gradient: bool
) -> None:
    q, k, v = tensors(dtype)
    if isinstance(exact(dtype), Sliding) and pattern is PATTERNS["composed"]:
        with pytest.raises(ClearheadError, match=r"a sliding cache takes causal\(\) or window\(w\)"):
            exact(dtype).attend(q, k, v, pattern=pattern)
        return
    expected = without(q, k, v, pattern)
    for pieces in PIECES.values():
        cache = exact(dtype)
        with torch.set_grad_enabled(gradient):
            out = in_pieces(cache, pieces, q, k, v, pattern=pattern)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert cache.counts == cache.lengths.tolist() == [T] * B


OPTIONS = {
    "alibi": {"bias": ch.alibi(H)},
    "relative": {"bias": ch.relative(torch.linspace(-2, 1, H * 9).view(H, 9))},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": torch.linspace(-1, 3, H)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("new", [None, [5, 0, 9]], ids=["even", "uneven"])
def test_the_options_of_attention_pass_through(
    exact: Callable[[torch.dtype], Cache], new: list[int] | None, options: dict[str, object]
) -> None:
    q, k, v = tensors()
    expected = without(q, k, v, ch.causal(), **options).float()
    cache, at = exact(torch.float32), [0, 0, 0]
    with torch.no_grad():
        for T, fresh in ((9, new or [9, 9, 9]), (1, [1, 1, 1]), (6, [6, 2, 5] if new else [6, 6, 6])):
            q_, k_, v_ = (pieces_of(x, at, T) for x in (q, k, v))
            out = cache.attend(q_, k_, v_, torch.tensor(fresh), pattern=ch.causal(), **options)
            for b, n in enumerate(fresh):
                torch.testing.assert_close(out[b, :, :n], expected[b, :, at[b] : at[b] + n], atol=2e-6, rtol=1e-5)
            at = [n + more for n, more in zip(at, fresh, strict=True)]


@pytest.mark.parametrize("gradient", [False, True], ids=["no gradient", "gradient recorded"])
@pytest.mark.parametrize("pattern", [ch.causal(), ch.window(4)], ids=str)
def test_sequences_of_unlike_length_are_each_attention_over_their_own_keys(
    made: Callable[[torch.dtype], Cache], pattern: ch.Pattern, gradient: bool
) -> None:
    """Also where the padding holds NaN, where a sequence gets no token, and after some were dropped or doubled."""
    q, k, v = tensors()
    cache, at = made(torch.float32), [0, 0, 0]
    tolerance = 0.1 if isinstance(cache, Quantised) else 2e-6
    expected = without(q, k, v, pattern).float()

    def go_on(fresh: list[int], T: int) -> None:
        q_, k_, v_ = (pieces_of(x, at, T) for x in (q, k, v))
        for x in (q_, k_, v_):
            for b, n in enumerate(fresh):
                x[b, :, n:] = torch.nan
        for row in cache.positions(T).expand(len(at), -1), torch.tensor(at)[:, None] + torch.arange(T):
            assert torch.equal(row, torch.tensor(at)[:, None] + torch.arange(T))
        out = cache.attend(q_, k_, v_, torch.tensor(fresh), pattern=pattern)
        for b, n in enumerate(fresh):
            torch.testing.assert_close(
                out[b, :, :n], expected[b, :, at[b] : at[b] + n], atol=tolerance, rtol=0, equal_nan=False
            )
            assert (out[b, :, n:] == 0).all()
            at[b] += n
        assert cache.counts == at

    with torch.set_grad_enabled(gradient):
        go_on([7, 0, 12], 12)
        go_on([1, 1, 1], 1)
        go_on([1, 0, 1], 1)
        go_on([0, 3, 2], 4)
        order = torch.tensor([2, 0, 2])
        cache.take(order)
        q, k, v, expected = (x[order] for x in (q, k, v, expected))
        at = [at[b] for b in order.tolist()]
        go_on([1, 2, 3], 3)
        go_on([9, 1, 0], 9)
        cache.crop(torch.tensor([at[0] - 5, at[1], at[2] + 5]))
        at[0] -= 5
        go_on([1, 1, 1], 1)
        go_on([5, 5, 5], 6)


def test_a_token_takes_a_bias_for_each_pair_too(exact: Callable[[torch.dtype], Cache]) -> None:
    q, k, v = tensors()
    bias = torch.randn(B, H, 1, 10)
    cache = exact(torch.float32)
    with torch.no_grad():
        cache.write(k[:, :, :9], v[:, :, :9])
        one = (x[:, :, 9:10] for x in (q, k, v))
        out = cache.attend(*one, pattern=ch.causal(), bias=bias)
    expected = ch.attention(q[:, :, 9:10], k[:, :, :10], v[:, :, :10], bias=bias)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


def test_fewer_sequences_are_fewer(made: Callable[[torch.dtype], Cache]) -> None:
    q, k, v = tensors()
    cache = made(torch.float32)
    cache.write(k[:, :, :9], v[:, :, :9], torch.tensor([3, 9, 5]))
    cache.take(torch.tensor([2]))
    assert cache.counts == [5]
    keys, values = cache.read()
    near = 0.1 if isinstance(cache, Quantised) else 0
    torch.testing.assert_close(keys[0, :, :5], k[2, :, :5], atol=near, rtol=0)
    torch.testing.assert_close(values[0, :, :5], v[2, :, :5], atol=near, rtol=0)


def test_what_was_refused_is_written_over(made: Callable[[torch.dtype], Cache]) -> None:
    _, k, v = tensors()
    cache = made(torch.float32)
    cache.write(k[:, :, :20], v[:, :, :20])
    cache.write(torch.full_like(k[:, :, :3], 1e3), torch.full_like(v[:, :, :3], 1e3))
    cache.crop(torch.tensor([20, 20, 20]))
    cache.write(k[:, :, 20:23], v[:, :, 20:23])
    near = 0.1 if isinstance(cache, Quantised) else 0
    for kept, x in zip(cache.read(), (k, v), strict=True):
        torch.testing.assert_close(kept, x[:, :, :23], atol=near, rtol=0)


def test_it_says_what_memory_it_holds(made: Callable[[torch.dtype], Cache]) -> None:
    _, k, v = tensors()
    cache = made(torch.float32)
    cache.write(k, v)
    a_token = 4 * (D + Dv) if not isinstance(cache, Quantised) else D + Dv + 8
    assert B * K * T * a_token <= cache.nbytes <= 2 * B * K * T * a_token


def test_nothing_comes_of_no_token_and_no_sequence(made: Callable[[torch.dtype], Cache]) -> None:
    q, k, v = tensors()
    with torch.no_grad():
        cache = made(torch.float32)
        assert cache.attend(q[:, :, :0], k[:, :, :0], v[:, :, :0], pattern=ch.causal()).shape == (B, H, 0, Dv)
        cache.attend(q[:, :, :9], k[:, :, :9], v[:, :, :9], pattern=ch.causal())
        assert cache.attend(q[:, :, :0], k[:, :, :0], v[:, :, :0], pattern=ch.causal()).shape == (B, H, 0, Dv)
        assert cache.counts == [9] * B
        cache.take(torch.tensor([], dtype=torch.int64))
        for T in (1, 9):
            assert cache.attend(q[:0, :, :T], k[:0, :, :T], v[:0, :, :T], pattern=ch.causal()).shape == (0, H, T, Dv)


def test_under_autocast_and_in_inference_mode_it_is_the_same(exact: Callable[[torch.dtype], Cache]) -> None:
    q, k, v = tensors(torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        cache = exact(torch.bfloat16)
        first = cache.attend(q[:, :, :20], k[:, :, :20], v[:, :, :20], pattern=ch.causal())
        cache.take(torch.tensor([1, 0]))
    with torch.no_grad():
        one, other, another = (x[[1, 0], :, 20:] for x in (q, k, v))
        rest = cache.attend(one, other, another, pattern=ch.causal())
    expected = without(q, k, v, ch.causal())
    torch.testing.assert_close(first.double(), expected[:, :, :20], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(rest.double(), expected[[1, 0], :, 20:], atol=2e-2, rtol=2e-2)


def test_without_a_cache_tokens_stand_from_0_and_with_one_behind_it(made: Callable[[torch.dtype], Cache]) -> None:
    _, k, v = tensors()
    cache, here = made(torch.float32), torch.device("cpu")
    assert positions(None, 3, here).tolist() == [[0, 1, 2]]
    cache.write(k[:, :, :4], v[:, :, :4], torch.tensor([4, 0, 2]))
    assert positions(cache, 2, here).tolist() == [[4, 5], [0, 1], [2, 3]]


def test_a_sequence_that_is_not_there_is_not_taken(made: Callable[[torch.dtype], Cache]) -> None:
    _, k, v = tensors()
    cache = made(torch.float32)
    cache.write(k[:, :, :6], v[:, :, :6])
    before, held = cache.read(), cache.nbytes
    for rows in ([0, 3], [-1]):
        with pytest.raises(
            ClearheadError, match=r"take: got sequences .*, expected numbers from 0 to 2, as .* holds 3"
        ):
            cache.take(torch.tensor(rows))
    assert (cache.counts, cache.nbytes) == ([6] * B, held)
    assert all(torch.equal(x, y) for x, y in zip(cache.read(), before, strict=True))
    if isinstance(cache, Paged):
        assert set(cache.pool.users) == {0, 1}  # none is shared with a sequence that did not come to be
    if not isinstance(cache, Static):
        with pytest.raises(ClearheadError, match=r"take: got sequences \[0\], but the cache holds none yet"):
            made(torch.float32).take(torch.tensor([0]))


def test_a_mistake_is_named(made: Callable[[torch.dtype], Cache]) -> None:
    _, k, v = tensors()
    cache = made(torch.float32)
    cache.write(k[:, :, :4], v[:, :, :4])
    with pytest.raises(ClearheadError, match=r"\(2, 2, 4, 16\)"):
        cache.write(k[:2, :, :4], v[:2, :, :4])
    with pytest.raises(ClearheadError, match=r"got \(3, 1, 4, 16\)"):
        cache.write(k[:, :1, :4], v[:, :1, :4])
    with pytest.raises(ClearheadError, match=r"new: got 0 to 5, expected 0 to T = 4"):
        cache.attend(k[:, :, :4], k[:, :, :4], v[:, :, :4], torch.tensor([0, 4, 5]), pattern=ch.causal())
    with pytest.raises(ClearheadError, match=r"new: got 2 numbers, expected one for each sequence, \(B,\) = \(3,\)"):
        counted(torch.tensor([0, 4]), 3, 4)
    with pytest.raises(ClearheadError, match=r"crop: got lengths \[1, 2\], expected one for each of the 3"):
        cache.crop(torch.tensor([1, 2]))
    assert cache.counts == [4] * B
    assert all(math.isfinite(x.sum()) for x in cache.read())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v": slice(5)}, r"got k \(3, 2, 6, 16\) and v \(3, 2, 5, 24\), expected .* the same B, K and T"),
        ({"k": slice(5)}, r"got k \(3, 2, 5, 16\) and v \(3, 2, 6, 24\)"),
        ({"k": (0, 0)}, r"got k \(6, 16\) and v"),
        ({"new": torch.tensor([7, 1, 1])}, r"new: got 1 to 7, expected 0 to T = 6"),
        ({"new": torch.tensor([-1, 1, 1])}, r"new: got -1 to 1, expected 0 to T = 6"),
        ({"new": torch.tensor([1, 1])}, r"new: got 2 numbers, expected one for each sequence"),
        ({"new": torch.tensor([[1, 1, 1]])}, r"new: got torch.int64 of shape \(1, 3\), expected whole numbers"),
        ({"new": torch.tensor([1.0, 1.0, 1.0])}, r"new: got torch.float32 of shape \(3,\), expected whole numbers"),
        ({"new": torch.tensor([True, True, True])}, r"new: got torch.bool of shape \(3,\), expected whole numbers"),
        ({"new": [1, 1, 1]}, r"new: got list, expected a tensor of whole numbers"),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_a_write_that_does_not_fit_is_said_and_writes_nothing(
    made: Callable[[torch.dtype], Cache], change: dict[str, Any], said: str, filled: bool
) -> None:
    q, k, v = tensors()
    cache = made(torch.float32)
    if filled:
        cache.write(k[:, :, :9], v[:, :, :9], torch.tensor([9, 3, 0]))
    before, counts = cache.nbytes, list(cache.counts)
    given = {"k": k[:, :, 9:15], "v": v[:, :, 9:15], "new": None}
    for name, to in change.items():
        given[name] = given[name][:, :, to] if isinstance(to, slice) else given[name][to] if name == "k" else to
    for call in (cache.write, lambda *given: cache.attend(q[:, :, 9:15], *given, pattern=ch.causal())):
        with pytest.raises(ClearheadError, match=said):
            call(*given.values())
        assert (cache.counts, cache.nbytes) == (counts, before)


REFUSED: dict[str, dict[str, Any]] = {
    "sinks for other heads": {"sinks": torch.zeros(H + 1)},
    "an unknown backend": {"backend": "none"},
    "a bias for other tokens": {"bias": torch.zeros(1, 1, 2, 77)},
    "queries of another width": {"q": torch.zeros(B, H, 6, D + 1)},
    "queries of other heads": {"q": torch.zeros(B, 5, 6, D)},
    "queries of fewer tokens": {"q": torch.zeros(B, H, 5, D)},
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("new", [None, [6, 2, 0]], ids=["even", "uneven"])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_an_attend_that_is_refused_counts_no_token(
    made: Callable[[torch.dtype], Cache], refused: dict[str, Any], filled: bool, new: list[int] | None
) -> None:
    q, k, v = tensors()
    cache, untouched = made(torch.float32), made(torch.float32)
    if filled:
        for one in (cache, untouched):
            one.attend(q[:, :, :9], k[:, :, :9], v[:, :, :9], torch.tensor([9, 3, 0]), pattern=ch.causal())
    fresh = None if new is None else torch.tensor(new)
    for T in (6, 1):
        if T == 1 and "q" in refused:
            continue
        given = [x[:, :, 9 : 9 + T] for x in (q, k, v)]
        options = dict(refused)
        given[0] = options.pop("q", given[0])
        with torch.no_grad(), pytest.raises(ClearheadError):
            cache.attend(*given, None if fresh is None else fresh.clamp(max=T), pattern=ch.causal(), **options)
        assert cache.counts == untouched.counts
    given = [x[:, :, 9:15] for x in (q, k, v)]
    out, expected = (one.attend(*given, fresh, pattern=ch.causal()) for one in (cache, untouched))
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    if isinstance(cache, Paged):
        assert cache.pool.free == untouched.pool.free


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "static"])  # which is made for its widths
def test_after_a_first_attend_that_is_refused_other_tensors_may_come(kind: str) -> None:
    q, k, v = tensors()
    cache = ALL[kind](torch.float32)
    with pytest.raises(ClearheadError):
        cache.attend(q[:2], k[:2, :1, :, :8], v[:2, :1, :, :8], pattern=ch.causal())
    out = cache.attend(q, k, v, pattern=ch.causal())
    torch.testing.assert_close(out.double(), without(q, k, v, ch.causal()), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(
    made: Callable[[torch.dtype], Cache], how: Callable[[Cache], Cache], filled: bool
) -> None:
    """And what is left of the one harms the other in nothing: a paged copy shares blocks, and counts that it does."""
    _, k, v = tensors()
    cache, new = made(torch.float32), torch.tensor([9, 3, 7])
    if filled:
        cache.write(k[:, :, :9], v[:, :, :9], new)
    start = list(cache.counts)
    other = how(cache)
    assert type(other) is type(cache) and other.counts == start
    other.write(k[:, :, 10:13], v[:, :, 10:13])
    cache.write(k[:, :, 20:21], v[:, :, 20:21])
    del other
    third = how(cache)
    third.take(torch.tensor([2]))
    third.write(k[:1, :, :5], v[:1, :, :5])
    near = 0.1 if isinstance(cache, Quantised) else 0
    for kept, x in zip(cache.read(), (k, v), strict=True):
        for b, n in enumerate(start or [0] * B):
            torch.testing.assert_close(kept[b, :, :n], x[b, :, :n], atol=near, rtol=0)
            torch.testing.assert_close(kept[b, :, n], x[b, :, 20], atol=near, rtol=0)
