"""Positions as biases: the papers' slopes and buckets, gradients of the learned ones, and nothing but the distance."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.nn.positions import T5, Alibi, Position, Relative

MAKERS: list[Callable[[], Position]] = [
    lambda: Alibi(4),
    lambda: Alibi(4, learned=True),
    lambda: T5(4, 8, 20),
    lambda: T5(4, 8, 20, bidirectional=False),
    lambda: Relative(4, 6),
    lambda: Relative(1, 3),
]
NAMES = ["alibi", "learned alibi", "t5", "t5 back", "relative", "relative for all"]


def drawn(make: Callable[[], Position]) -> Position:
    """One whose learned numbers are random, and not the same for all distances."""
    position = make()
    for parameter in position.parameters():
        torch.nn.init.uniform_(parameter)
    return position


def full_bias(position: Position, Tq: int, Tk: int) -> torch.Tensor:
    """The bias of each pair, (H, Tq, Tk)."""
    i, j = torch.arange(Tq)[:, None], torch.arange(Tk)
    bias = position.bias()
    assert bias is not None
    return bias.at(i, j, Tk - Tq, *bias.weights)[0]


def test_slopes_are_those_that_the_paper_prints() -> None:
    """For 8 heads 1/2, 1/4, … 1/256; for 16 the eight between them too (Press et al. 2022, § 3)."""
    assert Alibi(8).slopes.tolist() == [2.0**-n for n in range(1, 9)]
    torch.testing.assert_close(Alibi(16).slopes, torch.tensor([2.0 ** (-n / 2) for n in range(1, 17)]))


def test_buckets_are_those_that_the_paper_describes() -> None:
    """32 buckets, logarithmic up to 128; beyond that all share one (Raffel et al. 2020, § 2.1)."""
    position = T5(1)
    with torch.no_grad():
        position.table[:, 0] = torch.arange(32.0)
    back = full_bias(position, 1, 1000)[0, 0].flip(0)  # of keys 0, 1, 2, … before the query
    assert back[:8].tolist() == list(range(8))
    assert (back[1:] >= back[:-1]).all()
    assert back[127] == 15 and (back[128:] == 15).all() and back[8] == back[9] == 8
    decoder = T5(1, bidirectional=False)
    with torch.no_grad():
        decoder.table[:, 0] = torch.arange(32.0)
    assert full_bias(decoder, 1, 1000)[0, 0].flip(0)[:17].tolist() == [*range(16), 16]
    assert full_bias(decoder, 1000, 1000)[0, 0].unique().tolist() == [0]  # all that comes after is at distance 0


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_t5_bias_is_that_of_transformers(bidirectional: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = t5.T5Config(num_heads=4, d_model=16, d_kv=4, is_decoder=not bidirectional)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True)
    ours = T5(4, bidirectional=bidirectional)
    ours.load_state_dict({"table": theirs.relative_attention_bias.weight})
    expected = theirs.compute_bias(150, 300, past_seen_tokens=150)
    torch.testing.assert_close(full_bias(ours, 150, 300)[None], expected)


def test_a_relative_bias_is_its_table_over_clipped_distance() -> None:
    position = drawn(lambda: Relative(3, 4))
    bias, table = full_bias(position, 5, 9), next(position.parameters())
    for i in range(5):
        for j in range(9):
            distance = min(max(j - (i + 4), -4), 4)
            assert torch.equal(bias[:, i, j], table[:, distance + 4])


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_scores_know_only_the_distance(make: Callable[[], Position]) -> None:
    """Both shifted: the same tokens, with 100 others before them that are not seen."""
    position = drawn(make)
    q, k, v = (torch.randn(1, 4, 9, 8) for _ in range(3))
    others = torch.randn(1, 4, 100, 8)
    shifted = [torch.cat((others, x), 2) for x in (q, k, v)]
    near, far = ch.causal(), ch.causal() & ~ch.first(100)
    out = ch.attention(q, k, v, pattern=near, bias=position.bias())
    expected = ch.attention(*shifted, pattern=far, bias=position.bias())[:, :, 100:]
    torch.testing.assert_close(out, expected)
    assert (out - ch.attention(q, k, v, pattern=near)).abs().max() > 0.01


@pytest.mark.parametrize("make", MAKERS[1:], ids=NAMES[1:])
def test_what_is_learned_gets_the_gradient_of_its_definition(make: Callable[[], Position]) -> None:
    position = drawn(make).double()
    (parameter,) = position.parameters()
    q, k, v = (torch.randn(2, 4, T, 8, dtype=torch.float64) for T in (7, 11, 11))
    scores = q @ k.mT / 8**0.5 + full_bias(position, 7, 11)
    expected = scores.masked_fill(~ch.causal().dense(7, 11), -torch.inf).softmax(-1) @ v
    out = ch.attention(q, k, v, pattern=ch.causal(), bias=position.bias())
    torch.testing.assert_close(out, expected)
    dout = torch.randn_like(out)
    torch.testing.assert_close(*(torch.autograd.grad(o, parameter, dout) for o in (out, expected)))


def test_alibi_s_slopes_are_no_weights_unless_learned() -> None:
    assert not list(Alibi(8).parameters()) and not Alibi(8).state_dict()
    assert list(Alibi(8, learned=True).state_dict()) == ["slopes"]


def test_only_learned_numbers_are_saved_and_the_rest_is_there_where_weights_wait_to_be_loaded() -> None:
    for make, name in zip(MAKERS, NAMES, strict=True):
        with torch.device("meta"):
            position = make()
        drawn_one = drawn(make)
        position.load_state_dict(drawn_one.state_dict(), assign=True)
        if name != "alibi":
            assert len(position.state_dict()) == 1
        torch.testing.assert_close(full_bias(position, 5, 9), full_bias(drawn_one, 5, 9))


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_a_layer_in_bfloat16_attends_with_its_bias(make: Callable[[], Position]) -> None:
    position = drawn(make)
    q, k, v = (torch.randn(1, 4, 9, 8) for _ in range(3))
    out = ch.attention(q, k, v, bias=position.bias())
    rounded = ch.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias=position.bfloat16().bias())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), out, atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Alibi(0), "alibi: got 0 heads; expected at least 1"),
        (
            lambda: T5(4, 3),
            "T5: 3 buckets make 0 exact distances to a side, and max_distance is 128; expected at least 1",
        ),
        (
            lambda: T5(4, 64, 16, bidirectional=False),
            "T5: 64 buckets make 32 exact distances to a side, and max_distance",
        ),
        (lambda: Relative(0, 4), "Relative: got 0 heads and distance 4; expected at least 1 of each"),
        (lambda: Relative(4, 0), "Relative: got 4 heads and distance 0; expected at least 1 of each"),
    ],
)
def test_what_makes_no_sense_is_said(make: Any, said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        make()
