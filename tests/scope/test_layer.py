"""A layer counts its sequence's queries through all its calls, and its keys by the last of them."""

import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.scope.layer import Layer
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting


def record(*calls: tuple[int, int]) -> Layer:
    """A layer that was called with so many queries on so many keys, of one growing text."""
    torch.manual_seed(0)
    k = torch.randn(1, 1, 20, 4)
    seen = Record()
    for n, (Tq, Tk) in enumerate(calls):
        q = torch.randn(1, 2, Tq, 4)
        seen.add(Sighting("attn", 0, "self", n, q=q, k=k[:, :, :Tk], v=k[:, :, :Tk], mask=None, scale=0.5))
    return seen.layers[0]


def test_lengths_are_of_all_calls_of_a_sequence() -> None:
    assert record((5, 5)).lengths == (5, 5)
    assert record((5, 5), (1, 6), (2, 8)).lengths == (8, 8)
    assert record((3, 10), (1, 11)).lengths == (4, 11)  # what stood in the cache before the watch has no query


def test_lengths_of_two_sequences_are_asked_of_one() -> None:
    both = record((5, 5), (7, 7))
    assert len(both.sequences) == 2
    assert [both.sequence(n).lengths for n in (0, 1)] == [(5, 5), (7, 7)]
    with pytest.raises(ClearheadError, match="attn saw 2 sequences"):
        _ = both.lengths
