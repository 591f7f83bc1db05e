"""Fitting keeps the heaviest keys, as many as there is room for."""

import zlib

import pytest
import torch

from clearhead.view.fitting import BASE64, fitting
from clearhead.view.payload import LayerView, pack


@pytest.fixture
def layer() -> LayerView:
    weights = torch.randn(3, 200, 200).tril().mul(2).softmax(-1)
    top, keys = weights.topk(32, -1)
    texts = [str(n) for n in range(200)]
    return LayerView("attn", "self", texts, texts, keys, top)


def size(layers: list[LayerView]) -> float:
    return BASE64 * sum(len(zlib.compress(pack(layer))) for layer in layers)


def test_what_fits_stays_as_it_is(layer: LayerView) -> None:
    assert fitting([layer], int(size([layer])) + 1) == ([layer], [zlib.compress(pack(layer))])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_what_does_not_keeps_the_heaviest_keys_that_do(layer: LayerView, share: float) -> None:
    budget = int(share * size([layer, layer]))
    fits, packed = fitting([layer, layer], budget)
    most = fits[0].top_keys.shape[-1]
    assert size(fits) <= budget and 1 <= most < 32
    assert packed == [zlib.compress(pack(one)) for one in fits]
    for kept in fits:
        assert torch.equal(kept.top_keys, layer.top_keys[..., :most])
        assert torch.equal(kept.top_weights, layer.top_weights[..., :most])
    assert size(fits) > budget / 2


def test_one_key_a_query_is_kept_whatever_it_takes(layer: LayerView) -> None:
    (kept,), _ = fitting([layer], 1)
    assert kept.top_keys.shape == (3, 200, 1)
