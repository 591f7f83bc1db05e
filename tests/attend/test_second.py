"""What the native kernels find in a second pass over the scores is what the whole float64 weights hold."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import clearhead as ch
from clearhead.attend import library, reference, second, tiled
from clearhead.attend.api import checked
from clearhead.attend.call import Call
from clearhead.attend.runs import Runs

SHAPES = {  # B, H, K, Tq, Tk, D
    "many blocks and tiles": (1, 2, 2, 330, 340, 16),
    "grouped heads of odd sizes": (2, 4, 2, 130, 203, 13),
    "few queries of a group in one block": (2, 8, 2, 13, 150, 40),
    "one query of a group": (1, 12, 1, 1, 333, 64),
    "fewer keys than queries": (1, 2, 1, 100, 33, 8),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"pattern": ch.causal()},
    "window, first tokens, sinks": {"pattern": ch.causal() & ch.window(50) | ch.first(4), "sinks": True},
    "empty rows": {"pattern": ch.causal(align=-7)},
    "scattered": {"pattern": ch.dilated(5, 3)},
    "by distance": {"pattern": ch.causal(), "bias": "alibi"},
    "by pair, capped": {"bias": "pairs", "softcap": 4.0},
    "by key": {"bias": "keys", "scale": 0.7},
}


@pytest.fixture(params=["amx", "avx512bf16", "avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, if this machine has it."""
    said = library.missing()
    if said:
        pytest.skip(said)
    if request.param not in library.isas():
        pytest.skip(f"this machine has no {request.param}")
    with library.using(request.param):
        yield request.param


def a_call(B: int, H: int, K: int, Tq: int, Tk: int, D: int, dtype: torch.dtype = torch.float32, **said: Any) -> Call:
    q, k = torch.randn(B, H, Tq, D).to(dtype), torch.randn(B, K, Tk, D).to(dtype)
    biases = {"alibi": ch.alibi(H), "pairs": torch.randn(B, 1, Tq, Tk, dtype=dtype), "keys": torch.randn(H, 1, Tk)}
    options = dict(said)
    if "bias" in said:
        options["bias"] = biases[said["bias"]]
    if "sinks" in said:
        options["sinks"] = torch.randn(H)
    return checked(q, k, k[..., :0], **options)


def truth(call: Call) -> Tensor:
    """The weights in float64."""
    return reference.softmax(call.with_tensors(*(None if t is None else t.double() for t in call.tensors)))[1]


def known(call: Call) -> tuple[Tensor, Tensor]:
    """The highest score of each row and its weight."""
    seen = tiled.forward(call, True)[2]
    assert seen is not None
    return seen.max_score, seen.peak


def pooled(w: Tensor, height: int, width: int) -> Tensor:
    """The means of cells, by a matrix on each side."""
    sides = []
    for n, cells in ((w.shape[-2], height), (w.shape[-1], width)):
        member = torch.arange(n) * cells // n == torch.arange(cells)[:, None]
        sides.append(member.double() / member.sum(1, keepdim=True))
    return sides[0] @ w @ sides[1].T


def assert_all_is_found(call: Call, by: Any = second) -> None:
    """`by` has the functions of `second`: what takes their place in PyTorch is held to the same."""
    w, seen, Tk = truth(call), known(call), call.k.shape[2]
    near: dict[str, float] = {"atol": 2e-6, "rtol": 2e-6}
    torch.testing.assert_close(by.received(call, *seen).double(), w.sum(-2), **near)
    for k in (1, 7, min(Tk, 90)):
        keys, weights = by.top(call, *seen, k)
        torch.testing.assert_close(weights.double(), w.topk(k, -1).values, **near)
        assert (weights[..., :-1] >= weights[..., 1:]).all()
        assert torch.equal(keys == -1, weights == 0)
        at_keys = w.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0)
        torch.testing.assert_close(weights.double(), at_keys, **near)
        used = torch.where(keys < 0, -1 - torch.arange(k), keys).sort(-1).values
        assert (used[..., 1:] != used[..., :-1]).all()  # no key twice
    height, width = min(5, w.shape[-2]), 7
    for columns in (slice(0, Tk), slice(Tk // 5, Tk - Tk // 7)):
        picture = by.picture(call, *seen, columns, (height, width))
        torch.testing.assert_close(picture.double(), pooled(w[..., columns], height, width), **near)
    few = by.fewest(call, *seen, 0.9)
    assert (fewest(w, 0.9 - 1e-5) <= few).all() and (few <= fewest(w, 0.9 + 1e-5)).all()
    if by is second and call.bias is None:
        assert_named_keys_are_found(call)


def fewest(w: Tensor, share: float) -> Tensor:
    """How many keys hold so much of each row."""
    held = w.sort(-1, descending=True).values.cumsum(-1)
    return ((held < share * held[..., -1:]).sum(-1) + 1).masked_fill(held[..., -1] == 0, 0)


def assert_named_keys_are_found(call: Call) -> None:
    """Of keys that a query may not see, too."""
    B, _, Tq, Tk = (*call.q.shape[:3], call.k.shape[2])
    seen, near = known(call), {"atol": 2e-6, "rtol": 5e-6}
    exact = call.with_tensors(*(None if t is None else t.double() for t in call.tensors))
    max_score, peak = known(exact)
    base = max_score.masked_fill(max_score == -torch.inf, 0)[..., None]
    w = torch.exp(exact.scores(slice(0, Tq), slice(0, Tk)) - base) * peak[..., None]
    high = {"atol": 2e-6, "rtol": 5e-6 * float(max(1, w.max()))}
    targets = torch.randint(0, Tk, (3, B, Tq))
    for j, toward in zip(targets, second.toward(call, *seen, targets), strict=True):
        at_targets = w.gather(-1, j[:, None, :, None].expand(*w.shape[:3], 1))[..., 0]
        torch.testing.assert_close(toward.double(), at_targets, **high)
    keys, order, (start, stop) = torch.randint(0, Tk, (2, 128)), torch.randperm(Tq), torch.randint(0, 257, (2, Tq, 2))
    runs = Runs.of(start[None, None], stop[None, None], 256)
    listed = (w[:, :, order][..., keys] * runs.dense().double().unflatten(-1, keys.shape)).sum(-1)
    held = second.held(call, *seen, order, keys, runs)
    torch.testing.assert_close(held[:, :, :, order].double(), listed.movedim(-1, 0), **high | near)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", ["grouped heads of odd sizes", "few queries of a group in one block"])
def test_a_second_pass_finds_what_the_whole_weights_hold(isa: str, shape: str, options: str) -> None:
    assert_all_is_found(a_call(*SHAPES[shape], **OPTIONS[options]))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_does_so_in_blocks_and_tiles_of_any_number(isa: str, shape: str) -> None:
    assert_all_is_found(a_call(*SHAPES[shape], **OPTIONS["causal"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_widened_not_computed_in(isa: str, dtype: torch.dtype) -> None:
    for options in (OPTIONS["causal"], OPTIONS["by pair, capped"]):
        assert_all_is_found(a_call(1, 4, 2, 130, 203, 13, dtype, **options))


def test_queries_that_were_taken_keep_their_places(isa: str) -> None:
    call = a_call(1, 4, 2, 200, 260, 16, pattern=ch.causal(), bias="alibi")
    assert_all_is_found(call.take(torch.tensor([190, 3, 4, 5, 77, *range(100, 160), 0])))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_pictures_of_any_size_are_means_of_their_cells(data: st.DataObject) -> None:
    if library.missing():
        pytest.skip(str(library.missing()))
    Tq, Tk = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    H = data.draw(st.sampled_from([1, 2, 6]))
    left = data.draw(st.integers(0, Tk - 1))
    columns = slice(left, data.draw(st.integers(left + 1, Tk)))
    size = data.draw(st.integers(1, Tq)), data.draw(st.integers(1, columns.stop - columns.start))
    call = a_call(1, H, 1, Tq, Tk, 4, pattern=data.draw(st.sampled_from([None, ch.causal(), ch.window(20)])))
    picture = second.picture(call, *known(call), columns, size)
    expected = pooled(truth(call)[..., columns], *size)
    torch.testing.assert_close(picture.double(), expected, atol=2e-6, rtol=2e-6)


def test_results_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    call = a_call(1, 3, 1, 500, 600, 8, pattern=ch.causal())
    seen, before = known(call), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            picture = second.picture(call, *seen, slice(0, 600), (9, 11))
            listed = torch.randint(0, 600, (3, 192), generator=torch.Generator().manual_seed(0))
            runs = Runs.of(torch.zeros(1, 1, 500, 1).int(), torch.arange(500).view(1, 1, -1, 1), listed.numel())
            held = second.held(call, *seen, torch.arange(500).flip(0), listed, runs)
            toward = second.toward(call, *seen, listed.repeat(1, 3)[:, None, :500])
            rest = second.fewest(call, *seen, 0.9)
            found.append((second.received(call, *seen), picture, held, toward, rest, *second.top(call, *seen, 9)))
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], one, strict=True))


def test_among_equal_weights_the_lower_key_comes_first(isa: str) -> None:
    q, k = torch.ones(1, 1, 100, 4), torch.ones(1, 1, 200, 4)
    call = checked(q, k, k[..., :0], pattern=ch.causal())
    keys, weights = second.top(call, *known(call), 20)
    assert torch.equal(keys, torch.arange(20).expand(keys.shape))
    assert (weights == weights[..., :1]).all()


def test_what_weighs_nothing_is_no_key(isa: str) -> None:
    k = torch.tensor([0.0, -80.0, -300.0, 2.0, -torch.inf]).view(1, 1, 5, 1)
    call = checked(torch.ones(1, 1, 1, 1), k, k[..., :0], scale=1.0)
    keys, weights = second.top(call, *known(call), 5)
    assert keys.flatten().tolist() == [3, 0, 1, -1, -1]
    assert (weights > 0).flatten().tolist() == [True, True, True, False, False]


def test_weights_are_exact_among_huge_scores(isa: str) -> None:
    low = torch.full((1, 1, 1, 150), -1e9)
    low[..., 100:] = -torch.inf
    call = checked(torch.zeros(1, 2, 60, 4), torch.zeros(1, 2, 150, 4), torch.zeros(1, 2, 150, 0), bias=low)
    seen = known(call)
    received = second.received(call, *seen)
    torch.testing.assert_close(received[..., :100], torch.full((1, 2, 100), 0.6))
    assert (received[..., 100:] == 0).all()
    keys, weights = second.top(call, *seen, 3)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.01))
    assert torch.equal(keys, torch.arange(3).expand(keys.shape))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_a_hidden_key_holds_stays_hidden(isa: str, bad: float) -> None:
    hidden = ch.where((torch.arange(200) == 120).expand(130, 200))
    call = a_call(1, 4, 2, 130, 200, 16, pattern=ch.window(30) & ~hidden)
    seen = known(call)
    found = []
    for held in (0.0, bad):
        call.k[:, :, 120] = held
        picture = second.picture(call, *seen, slice(0, 200), (9, 9))
        found.append((second.received(call, *seen), picture, *second.top(call, *seen, 5)))
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_a_row_of_nan_reaches_only_the_keys_that_it_sees(isa: str) -> None:
    call = a_call(1, 2, 2, 130, 130, 16, pattern=ch.causal())
    call.q[0, 0, 70] = torch.nan
    seen = known(call)
    received = second.received(call, *seen)
    assert torch.equal(received[0].isnan(), (torch.arange(130) <= 70) & torch.tensor([[True], [False]]))
    keys, weights = second.top(call, *seen, 4)
    assert (keys[0, 0, 70] == -1).all() and (weights[0, 0, 70] == 0).all()
    assert (keys[0, 0, [69, 71]] >= 0).all()


def test_a_long_column_keeps_its_digits(isa: str) -> None:
    call = checked(torch.zeros(1, 1, 6000, 1), torch.zeros(1, 1, 70, 1), torch.zeros(1, 1, 70, 0))
    received = second.received(call, *known(call))
    torch.testing.assert_close(received, torch.full_like(received, 6000 / 70), rtol=5e-7, atol=0)
