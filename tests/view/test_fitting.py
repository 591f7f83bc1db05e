"""Fitting keeps the heaviest keys, as many as there is room for, and a page's blocks take no more than their budget."""

import re
import zlib
from pathlib import Path

import pytest
import torch

import clearhead as ch
from clearhead.view.fitting import fitting, in_base64
from clearhead.view.payload import LayerView, pack
from clearhead.view.seen import Seen


@pytest.fixture
def layer() -> LayerView:
    weights = torch.randn(3, 200, 200).tril().mul(2).softmax(-1)
    top, keys = weights.topk(32, -1)
    texts = [str(n) for n in range(200)]
    return LayerView("attn", "self", texts, texts, keys, top)


def size(layers: list[LayerView]) -> int:
    return in_base64([zlib.compress(pack(layer)) for layer in layers])


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


@pytest.fixture(scope="module")
def seen() -> Seen:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, 60, 16))
    return seen


def blocks_in(page: Path) -> dict[str, int]:
    """The characters of each block in base64, by its name."""
    found = re.findall(r'<script type="[^"]*;base64" id="([^"]+)">([^<]*)<', page.read_text())
    return {name: len(text) for name, text in found}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99, 1.0])
def test_the_blocks_of_a_page_take_no_more_than_its_budget(seen: Seen, share: float, tmp_path: Path) -> None:
    whole = sum(blocks_in(seen.page(tmp_path / "whole.html")).values())
    # Of a budget that is just too small for all, some block stays out: each counts by its characters in the file.
    for less in range(4) if share == 1 else [0]:
        budget = int(share * whole) - less
        held = blocks_in(seen.page(tmp_path / "page.html", budget=budget))
        assert sum(held.values()) <= budget
        assert sum(held.values()) > 0.6 * budget
        assert {f"layer-{n}" for n in range(3)} <= held.keys()


def test_the_blocks_of_a_comparison_take_no_more_than_its_budget(seen: Seen, tmp_path: Path) -> None:
    compared = ch.compare(seen, seen)
    whole = sum(blocks_in(compared.page(tmp_path / "whole.html")).values())
    for budget in (whole // 3, whole // 2, whole - 1):
        held = blocks_in(compared.page(tmp_path / "page.html", budget=budget))
        assert 0.5 * budget < sum(held.values()) <= budget
