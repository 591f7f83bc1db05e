"""Positions added to tokens: sines and cosines as the paper has them, and learned tables with their end."""

import math
from typing import Any

import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.nn.positions import Learned, Sinusoidal

ZEROS = torch.zeros(1, 50, 16, dtype=torch.float64)
EACH = torch.arange(50)[None]


def test_a_sinusoidal_position_is_the_paper_s_formula() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) = cos of the same (Vaswani et al. 2017, § 3.5)."""
    table = Sinusoidal(16).add(ZEROS, EACH)[0]
    for position in (0, 1, 2, 49):
        for i in range(8):
            angle = position / 10_000 ** (2 * i / 16)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_in_halves_all_sines_stand_before_all_cosines_as_in_marian() -> None:
    pairs, halves = (Sinusoidal(16, layout=layout).add(ZEROS, EACH) for layout in ("pairs", "halves"))
    assert torch.equal(halves, torch.cat((pairs[..., 0::2], pairs[..., 1::2]), -1))
    marian = pytest.importorskip("transformers.models.marian.modeling_marian")
    theirs = marian.MarianSinusoidalPositionalEmbedding(50, 16)
    theirs.weight = torch.nn.Parameter(theirs.create_weight())
    torch.testing.assert_close(halves[0].float(), theirs(torch.Size((1, 50))).detach(), atol=1e-6, rtol=0)


def test_two_sinusoidal_positions_are_as_alike_as_they_are_near() -> None:
    """Their product hangs on the distance alone, which the paper hoped that the model would find."""
    table = Sinusoidal(64).add(torch.zeros(1, 100, 64, dtype=torch.float64), torch.arange(100)[None])[0]
    alike = table @ table.T
    for distance in (0, 1, 7, 50):
        torch.testing.assert_close(alike.diagonal(distance), alike[0, distance].expand(100 - distance))
    assert alike[0, 0] > alike[0, 1] > alike[0, 2]


def test_each_sequence_has_its_own_positions() -> None:
    x, positions = torch.randn(2, 3, 8), torch.tensor([[0, 1, 2], [5, 6, 9]])
    for position in (Sinusoidal(8), Learned(10, 8)):
        both = position.add(x, positions)
        for n in range(2):
            torch.testing.assert_close(both[n : n + 1], position.add(x[n : n + 1], positions[n : n + 1]))


def test_positions_of_a_million_keep_their_digits() -> None:
    far = Sinusoidal(8).add(torch.zeros(1, 1, 8), torch.tensor([[1_000_003]]))[0, 0]
    assert far[0].item() == pytest.approx(math.sin(1_000_003), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tokens_keep_their_type(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 8, dtype=dtype)
    for position in (Sinusoidal(8), Learned(5, 8).to(dtype)):
        assert position.add(x, torch.arange(5)[None]).dtype == dtype


def test_a_learned_position_is_its_row_of_the_table() -> None:
    position, x = Learned(12, 4, offset=2), torch.randn(2, 3, 4)
    assert torch.equal(position.add(x, torch.tensor([[0, 4, 9]])), x + position.table[[2, 6, 11]])


def test_the_rows_that_were_used_get_the_gradient() -> None:
    position, x = Learned(6, 4), torch.randn(2, 3, 4)
    position.add(x, torch.tensor([[1, 2, 1]])).sum().backward()
    assert position.table.grad is not None
    assert torch.equal(position.table.grad[:, 0], torch.tensor([0.0, 4.0, 2.0, 0.0, 0.0, 0.0]))


def test_an_offset_is_that_of_opt_in_transformers() -> None:
    opt = pytest.importorskip("transformers.models.opt.modeling_opt")
    theirs = opt.OPTLearnedPositionalEmbedding(10, 4)
    ours = Learned(12, 4, offset=2)
    ours.load_state_dict({"table": theirs.weight})
    expected = theirs(torch.ones(1, 8, dtype=torch.int64), 3)
    assert torch.equal(ours.add(torch.zeros(1, 5, 4), torch.arange(3, 8)[None]), expected)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sinusoidal(7), "Sinusoidal: got width 7; expected an even one"),
        (lambda: Learned(2, 8, offset=2), "Learned: got offset 2 for a table of 2 rows; expected a row beyond it"),
        (
            lambda: Learned(12, 8, offset=2).add(torch.zeros(1, 2, 8), torch.tensor([[9, 10]])),
            "got a token at position 10, counted from 0; expected none beyond 9, the last in the table. Give a shorter",
        ),
    ],
)
def test_what_does_not_fit_is_said(make: Any, said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        make()


def test_a_layout_that_is_none_is_said(unchecked: None) -> None:
    with pytest.raises(ClearheadError, match="Sinusoidal: got layout 'thirds'; expected 'pairs' or 'halves'"):
        Sinusoidal(8, layout="thirds")  # type: ignore[arg-type]
