"""The payload gives back what went in, within 8 bits, and says how much it holds."""

import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from clearhead.errors import ClearheadError
from clearhead.view.contents import contents, held
from clearhead.view.payload import LayerView, pack, width


def heaviest(weights: torch.Tensor, most: int, enough: float = 0.99) -> LayerView:
    """The view of dense weights (H, Tq, Tk): the keys that hold `enough` of each row, at most `most`."""
    top, keys = weights.topk(min(most, weights.shape[-1]), -1)
    needed = (top.cumsum(-1) - top < enough) & (top > 0)
    texts = [f" {j}" for j in range(weights.shape[-1])]
    return LayerView(
        name="model.layers.0.self_attn",
        kind="self",
        queries=texts[-weights.shape[1] :],
        keys=texts,
        top_keys=keys.where(needed, torch.tensor(-1)),
        top_weights=top * needed,
    )


def causal(heads: int, tokens: int) -> torch.Tensor:
    scores = torch.randn(heads, tokens, tokens) * 3
    return scores.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).triu(1), -math.inf).softmax(-1)


def unpack(layer: LayerView) -> tuple[torch.Tensor, torch.Tensor]:
    """The dense weights (H, Tq, Tk) and rests (H, Tq) that a reader of the packed bytes finds."""
    packed, size = pack(layer), width(len(layer.keys))
    H, Tq, integer = layer.heads, len(layer.queries), f"<u{size}"
    counts = np.frombuffer(packed, integer, H * Tq).astype(int)
    listed = counts.sum()
    at = H * Tq * size
    gaps = np.frombuffer(packed, integer, listed, at).astype(int)
    at += listed * size
    rests = (np.frombuffer(packed, "u1", H * Tq, at) / 255) ** 2
    weights = (np.frombuffer(packed, "u1", listed, at + H * Tq) / 255) ** 2
    assert len(packed) == at + H * Tq + listed
    dense = np.zeros((H * Tq, len(layer.keys)))
    starts = np.concatenate([[0], counts.cumsum()])
    for row in range(H * Tq):
        mine = slice(starts[row], starts[row + 1])
        dense[row, gaps[mine].cumsum()] = weights[mine]
    return torch.from_numpy(dense).view(H, Tq, -1), torch.from_numpy(rests).view(H, Tq)


@given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**31))
def test_each_weight_comes_back_within_the_bound_of_8_bits(heads: int, tokens: int, most: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = heaviest(causal(heads, tokens), most)
    read, rests = unpack(layer)
    sent = torch.zeros(heads, tokens, tokens + 1, dtype=torch.float64)
    # Where no key is listed (-1), the weight 0 goes to a column that is cut off.
    sent.scatter_(-1, layer.top_keys.masked_fill(~layer.listed, tokens), layer.top_weights.double())
    sent = sent[..., :tokens]
    assert ((read - sent).abs() <= (sent.sqrt() + 1 / 1020) / 255 + 1e-6).all()
    rest = 1 - layer.shares().double()
    assert ((rests - rest).abs() <= (rest.sqrt() + 1 / 1020) / 255 + 1e-6).all()


@pytest.mark.parametrize(("tokens", "bytes_"), [(255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_an_integer_is_as_wide_as_the_keys_need(tokens: int, bytes_: int) -> None:
    keys = torch.tensor([[[tokens - 1, 0]]])
    layer = LayerView("a", "cross", ["q"], ["k"] * tokens, keys, torch.tensor([[[0.75, 0.25]]]))
    assert width(len(layer.keys)) == bytes_
    read, _ = unpack(layer)
    assert read[0, 0, [0, -1]].tolist() == pytest.approx([0.25, 0.75], abs=0.004)


def test_a_weight_of_one_and_an_empty_row_come_back_exactly() -> None:
    keys = torch.tensor([[[2, -1], [-1, -1]]])
    layer = LayerView("a", "cross", ["a", "b"], ["x", "y", "z"], keys, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    assert unpack(layer)[0].tolist() == [[[0, 0, 1], [0, 0, 0]]]


def test_half_precision_is_taken() -> None:
    layer = heaviest(causal(2, 9), 32)
    half = LayerView("a", "self", layer.queries, layer.keys, layer.top_keys, layer.top_weights.half())
    assert (unpack(half)[0] - unpack(layer)[0]).abs().max() < 0.01


def test_the_share_is_what_the_listed_keys_hold_and_passes_over_empty_rows() -> None:
    keys = torch.tensor([[[0, -1], [0, 1], [-1, -1]]])
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.1], [0.0, 0.0]]])
    layer = LayerView("a", "cross", ["a", "b", "c"], ["x", "y"], keys, weights)
    share = held([layer])
    assert share == {"mean": pytest.approx(0.8), "worst": pytest.approx(0.6)}
    nothing = LayerView("a", "cross", ["c"], ["x"], torch.tensor([[[-1]]]), torch.zeros(1, 1, 1))
    assert held([nothing]) is None


def test_statistics_are_found_by_name_and_head_and_hold_no_nan() -> None:
    layer = heaviest(causal(2, 4), 32)
    heads = [
        {
            "layer": 7,
            "name": layer.name,
            "kind": "self",
            "head": 1,
            "queries": 4,
            "entropy": 1 / 3,
            "induction": math.nan,
        },
        {
            "layer": 7,
            "name": layer.name,
            "kind": "self",
            "head": 0,
            "queries": 4,
            "entropy": -math.inf,
            "induction": 1,
        },
        {
            "layer": 8,
            "name": "another",
            "kind": "self",
            "head": 0,
            "queries": 4,
            "entropy": 9.0,
            "induction": 9.0,
        },
    ]
    known = contents([layer], title="", heads=heads, facts={})
    assert known["statistics"] == {"entropy": [[None, 0.3333]], "induction": [[1.0, None]]}
    assert known["layers"][0]["position"] == 7
    json.dumps(known, allow_nan=False)


def test_a_text_that_layers_share_is_held_once() -> None:
    layer = heaviest(causal(1, 5), 32)
    known = contents([layer, layer], title="", heads=[], facts={})
    assert known["texts"] == [layer.keys]


A, B = torch.tensor([[[0, 1]]]), torch.tensor([[[0.5, 0.5]]])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("kin", ["q"], ["a", "b"], A, B), 'got kind \'kin\', expected "self" or "cross"'),
        (
            ("self", ["q", "r"], ["a", "b"], A, B),
            "texts of 2 queries and the keys of 1. Give one text a query",
        ),
        (
            ("self", ["q"], ["a"], A, B),
            "got keys from 0 to 1, expected -1 .none. to 0, as there are the texts of 1 keys",
        ),
        (("self", ["q"], ["a", "b"], A - 2, B), "got keys from -2 to -1"),
        (("self", ["q"], ["a", "b"], A * 0, B), "a query names a key twice"),
        (("self", ["q"], ["a", "b"], A, B * math.nan), "a weight that is NaN or outside"),
        (("self", ["q"], ["a", "b"], A, B * 3), "a weight that is NaN or outside"),
    ],
)
def test_a_view_that_cannot_be_is_refused_in_words(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ClearheadError, match=sentence):
        LayerView("attn", *arguments)
