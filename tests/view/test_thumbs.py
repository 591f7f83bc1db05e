"""Thumbs: each cell is the share of its weight that a query puts on some keys, by the definition from full weights."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope.layer import Layer
from clearhead.view.thumbs import thumbs


class Attends(torch.nn.Module):
    """One attention with everything a call may have."""

    def __init__(self, heads: int, key_heads: int, width: int):
        super().__init__()
        self.heads, self.key_heads, self.width = heads, key_heads, width

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        q = x.unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        k = y[..., : self.key_heads * self.width].unflatten(-1, (self.key_heads, self.width)).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(q, k, k, mask, enable_gqa=True)


def seen_of(Tq: int, Tk: int, mask: Tensor | None, batches: int = 2) -> tuple[Layer, list[Tensor]]:
    """A layer and, for each text of the batch, its weights by definition, in float64."""
    torch.manual_seed(Tq)
    H, K, D = 4, 2, 8
    x, y = torch.randn(batches, Tq, H * D) * 2, torch.randn(batches, Tk, H * D)
    model = Attends(H, K, D)
    with ch.watch(model) as seen:
        model(x, y, mask)
    q = x.double().unflatten(-1, (H, D)).transpose(1, 2)
    k = y[..., : K * D].double().unflatten(-1, (K, D)).transpose(1, 2).repeat_interleave(H // K, 1)
    s = q @ k.mT / math.sqrt(D)
    if mask is not None:
        s = s.masked_fill(~mask, -math.inf)
    return seen.layers[0], list(s.softmax(-1).nan_to_num(0.0))


def pooled(weights: Tensor) -> Tensor:
    """The shares, cell by cell."""
    H, Tq, Tk = weights.shape
    height, width = min(Tq, 32), min(Tk, 32)
    row = [i * height // Tq for i in range(Tq)]
    column = [j * width // Tk for j in range(Tk)]
    shares = torch.zeros(H, height, width, dtype=torch.float64)
    for i in range(Tq):
        for j in range(Tk):
            shares[:, row[i], column[j]] += weights[:, i, j] / row.count(row[i])
    return shares


def causal(Tq: int, Tk: int) -> Tensor:
    return torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq)


def padded(Tq: int, Tk: int) -> Tensor:
    """The last keys of the second text are padding."""
    real = torch.ones(2, 1, 1, Tk, dtype=torch.bool)
    real[1, ..., Tk - 5 :] = False
    return real & causal(Tq, Tk)


CASES = {
    "causal": (75, 75, causal(75, 75)),
    "exactly one cell a token": (32, 32, causal(32, 32)),
    "shorter than a picture": (5, 5, causal(5, 5)),
    "windowed": (70, 70, causal(70, 70) & ~causal(70, 70).tril(-9)),
    "padded": (50, 50, padded(50, 50)),
    "cross": (41, 100, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [0, 1])
def test_a_cell_holds_the_share_of_its_weight_that_a_query_puts_on_its_keys(case: str, batch: int) -> None:
    layer, weights = seen_of(*CASES[case])
    expected = pooled(weights[batch])
    codes = np.frombuffer(thumbs(layer, batch), "u1").reshape(expected.shape)
    assert np.abs(codes - 255 * expected.sqrt().numpy()).max() <= 0.51
    assert codes.max() > 100


def test_a_text_read_in_several_calls_has_the_same_picture() -> None:
    torch.manual_seed(3)
    x = torch.randn(1, 40, 32)
    model = Attends(4, 2, 8)
    with ch.watch(model) as whole:
        model(x, x, causal(40, 40))
    with ch.watch(model) as steps:
        model(x[:, :37], x[:, :37], causal(37, 37))
        for n in range(38, 41):
            model(x[:, n - 1 : n], x[:, :n], None)
    assert len(steps.layers[0].sequence(-1).steps) == 4
    one, other = (np.frombuffer(thumbs(seen.layers[0].sequence(-1), 0), "u1") for seen in (whole, steps))
    assert np.abs(one.astype(int) - other).max() <= 1


def test_weights_that_are_no_numbers_are_refused() -> None:
    x = torch.randn(1, 6, 32)
    x[0, 2] = math.nan
    model = Attends(4, 2, 8)
    with pytest.warns(WatchWarning, match="is not what happened"), ch.watch(model) as seen:
        model(x, x, None)
    with pytest.raises(ClearheadError, match=r"has weights that are no numbers \(NaN\), so there is no picture"):
        thumbs(seen.layers[0], 0)


def test_a_saved_page_holds_the_pictures_of_all_layers_before_anything_but_the_lists() -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, 9, 16))
    scene = seen.scene()
    assert [name for name, _ in zip(scene.worth_saving(), range(3), strict=False)] == [f"thumbs-{n}" for n in range(3)]
    assert len(zlib.decompress(scene.block("thumbs-1"))) == 2 * 9 * 9
