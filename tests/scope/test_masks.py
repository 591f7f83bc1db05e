"""A model's mask is read as the pattern and the bias that it stands for, in O(T) where that can be."""

import pytest
import torch

from clearhead.attend.biases import dense, relative
from clearhead.scope.masks import MaskReader

VISIBLE = torch.ones(6, 9, dtype=torch.bool).tril(3)[None, None]


def read(mask):
    return MaskReader().read(mask, 6, 9)


def test_a_boolean_mask_is_a_pattern():
    pattern, bias = read(VISIBLE)
    assert torch.equal(pattern.dense(6, 9), VISIBLE) and bias is None


def test_a_mask_that_hides_nothing_is_no_pattern():
    assert read(torch.ones(1, 1, 6, 9, dtype=torch.bool)) == (None, None)
    assert read(torch.zeros(1, 1, 6, 9)) == (None, None)


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -1e9, -1e4])
def test_a_float_mask_hides_where_it_is_very_low(low):
    pattern, bias = read(torch.zeros(1, 1, 6, 9).masked_fill(~VISIBLE, low))
    assert torch.equal(pattern.dense(6, 9), VISIBLE) and bias is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_that_is_low_throughout_hides_nothing_and_is_a_column(dtype):
    for low in (torch.finfo(dtype).min, *([-1e9] if dtype != torch.float16 else []), -1e4):
        mask = torch.zeros(1, 1, 6, 9, dtype=dtype).masked_fill(~VISIBLE, low)
        mask[0, 0, 2] = low
        pattern, bias = read(mask)
        visible = VISIBLE.clone()
        visible[0, 0, 2] = True
        assert torch.equal(pattern.dense(6, 9), visible)
        assert isinstance(bias, dense) and torch.equal(bias.tensor, mask[..., :1])


def test_a_row_that_is_hidden_by_infinity_is_empty():
    mask = torch.zeros(1, 1, 6, 9).masked_fill(~VISIBLE, -1e9)
    mask[0, 0, 2] = -torch.inf
    pattern, bias = read(mask)
    assert pattern.runs(6, 9).count()[0, 0].tolist() == [4, 5, 0, 7, 8, 9] and bias is None


@pytest.mark.parametrize("heads", [1, 3])
def test_a_bias_by_distance_is_kept_as_a_table(heads):
    distance = torch.arange(9) - torch.arange(6)[:, None] - 3
    table = torch.randn(heads, 40)
    mask = table[:, distance + 20][None].masked_fill(~VISIBLE, -torch.inf)
    pattern, bias = read(mask)
    assert isinstance(bias, relative) and bias.table.numel() == heads * (6 + 9 - 1)
    again = bias.at(torch.arange(6)[:, None], torch.arange(9)[None], 3, *bias.weights)
    assert torch.equal(again.masked_fill(~pattern.dense(6, 9), -torch.inf), mask)


def test_any_other_bias_is_kept_as_it_came():
    mask = torch.randn(2, 3, 6, 9)
    pattern, bias = read(mask)
    assert pattern is None and isinstance(bias, dense) and torch.equal(bias.tensor, mask)


def test_the_mask_that_every_layer_is_handed_is_read_once():
    reader, mask = MaskReader(), VISIBLE.expand(2, 1, 6, 9)
    first = reader.read(mask, 6, 9)
    assert reader.read(mask[:, :, :, :9], 6, 9) is first
    changed = mask.clone()
    changed[..., 0] = False
    assert reader.read(changed, 6, 9)[0].pairs(6, 9) != first[0].pairs(6, 9)


def test_a_mask_that_was_changed_in_place_is_read_again():
    reader, mask = MaskReader(), torch.ones(1, 1, 6, 9, dtype=torch.bool)
    assert reader.read(mask, 6, 9) == (None, None)
    mask[..., 4] = False
    assert reader.read(mask, 6, 9)[0].pairs(6, 9) == 6 * 8
