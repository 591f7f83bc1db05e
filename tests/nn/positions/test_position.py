"""Any position goes into any attention: each tells the order at one place, and none at all tells an encoder nothing."""

import pytest
import torch

import clearhead as ch
from clearhead.nn.positions import T5, Alibi, Learned, Position, Relative, Rotary, Sinusoidal

POSITIONS = {
    "Sinusoidal": lambda: Sinusoidal(32),
    "Learned": lambda: Learned(20, 32),
    "Rotary": lambda: Rotary(8),
    "Rotary in pairs": lambda: Rotary(8, turned=4, layout="pairs"),
    "Alibi": lambda: Alibi(4),
    "T5": lambda: T5(4, 8, 20),
    "Relative": lambda: Relative(4, 5),
}


def attend(position: Position, x: torch.Tensor, weights: torch.Tensor, pattern: ch.Pattern | None) -> torch.Tensor:
    """One layer of four heads, with the position at whichever place it acts."""
    at = torch.arange(x.shape[1])[None]
    x = position.add(x, at)
    q, k, v = ((x @ weight).unflatten(-1, (4, 8)).transpose(1, 2) for weight in weights)
    q, k = position.turn(q, k, position.angles(at))
    return ch.attention(q, k, v, pattern=pattern, bias=position.bias()).transpose(1, 2).flatten(2)


def both(position: Position, pattern: ch.Pattern | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer of tokens that were permuted, and its result permuted, in float64."""
    for parameter in position.parameters():
        torch.nn.init.normal_(parameter)
    x, weights = torch.randn(2, 12, 32), torch.randn(3, 32, 32) / 32**0.5
    order = torch.randperm(12)
    return attend(position, x[:, order], weights, pattern), attend(position, x, weights, pattern)[:, order]


def test_without_a_position_an_encoder_does_not_know_the_order() -> None:
    torch.testing.assert_close(*both(Position(), None))


@pytest.mark.parametrize("name", POSITIONS)
def test_with_any_position_it_does(name: str) -> None:
    one, other = both(POSITIONS[name](), None)
    assert (one - other).abs().max() > 0.05


def test_without_a_position_a_decoder_knows_the_order_by_what_it_sees() -> None:
    one, other = both(Position(), ch.causal())
    assert (one - other).abs().max() > 0.05


@pytest.mark.parametrize("name", POSITIONS)
def test_a_position_acts_at_one_place(name: str) -> None:
    position, plain = POSITIONS[name](), Position
    overridden = [place for place in ("add", "turn", "bias") if getattr(type(position), place) != getattr(plain, place)]
    assert len(overridden) == 1


@pytest.mark.parametrize("name", POSITIONS)
def test_tokens_that_come_later_are_told_the_same_as_if_they_came_at_once(name: str) -> None:
    position = POSITIONS[name]()
    x, q, k = torch.randn(1, 9, 32), torch.randn(1, 4, 9, 8), torch.randn(1, 4, 9, 8)
    at = torch.arange(9)[None]
    torch.testing.assert_close(position.add(x, at)[:, 6:], position.add(x[:, 6:], at[:, 6:]))
    whole = position.turn(q, k, position.angles(at))
    later = position.turn(q[:, :, 6:], k[:, :, 6:], position.angles(at[:, 6:]))
    for one, other in zip(whole, later, strict=True):
        torch.testing.assert_close(one[:, :, 6:], other)


@pytest.mark.parametrize("name", POSITIONS)
def test_it_says_what_it_is(name: str) -> None:
    position = POSITIONS[name]()
    assert repr(eval(repr(position), {**vars(ch.nn), type(position).__name__: type(position)})) == repr(position)
