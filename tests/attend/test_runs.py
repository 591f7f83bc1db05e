"""Interval algebra, against dense boolean algebra."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from clearhead.attend.runs import Runs

sizes = st.integers(0, 9)


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    return arrays(bool, shape).map(torch.from_numpy)


@st.composite
def pairs_of_masks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two masks over the same queries and keys, each with its own batches and heads, or one for all."""
    Tq, Tk, B, H = draw(sizes), draw(sizes), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    shape = st.tuples(st.sampled_from([1, B]), st.sampled_from([1, H]), st.just(Tq), st.just(Tk))
    return draw(shape.flatmap(masks)), draw(shape.flatmap(masks))


def assert_canonical(runs: Runs) -> None:
    """Sorted, disjoint, not touching, empty ones [Tk, Tk) at the end."""
    real = runs.start < runs.stop
    assert ((runs.start >= 0) & (runs.stop <= runs.keys)).all()
    assert ((runs.start == runs.keys) & (runs.stop == runs.keys))[~real].all()
    assert (runs.stop[..., :-1] < runs.start[..., 1:])[real[..., 1:]].all()
    assert (real[..., :-1] >= real[..., 1:]).all()


@given(pairs_of_masks())
def test_a_mask_comes_back_from_its_runs(masks: tuple[Tensor, Tensor]) -> None:
    runs = Runs.of_mask(masks[0])
    assert_canonical(runs)
    assert torch.equal(runs.dense(), masks[0])
    assert torch.equal(runs.count(), masks[0].sum(-1))


@given(pairs_of_masks())
def test_and_or_not_are_those_of_boolean_algebra(masks: tuple[Tensor, Tensor]) -> None:
    a, b = masks
    x, y = Runs.of_mask(a), Runs.of_mask(b)
    for runs, dense in ((x & y, a & b), (x | y, a | b), (~x, ~a), (~(x & ~y), ~(a & ~b))):
        assert_canonical(runs)
        assert torch.equal(runs.dense(), dense)


@given(
    arrays(
        np.int64,
        st.tuples(st.integers(1, 2), st.integers(1, 2), sizes, st.integers(1, 5), st.just(2)),
        elements=st.integers(-4, 14),
    ),
    sizes,
)
def test_any_intervals_are_brought_into_form(edges: np.ndarray, keys: int) -> None:
    start, stop = torch.from_numpy(edges).unbind(-1)
    runs = Runs.of(start, stop, keys)
    assert_canonical(runs)
    j = torch.arange(keys)[:, None]
    assert torch.equal(runs.dense(), ((start[..., None, :] <= j) & (j < stop[..., None, :])).any(-1))


@given(pairs_of_masks(), st.data())
def test_a_part_of_the_mask_is_cut_from_the_runs(masks: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    mask = masks[0]
    Tq, Tk = mask.shape[-2:]
    runs = Runs.of_mask(mask)
    top, left = data.draw(st.integers(0, Tq)), data.draw(st.integers(0, Tk))
    rows, columns = slice(top, data.draw(st.integers(top, Tq))), slice(left, data.draw(st.integers(left, Tk)))
    assert torch.equal(runs.mask(rows, columns), mask[:, :, rows, columns])
    if Tq and Tk:
        i, j = torch.randint(Tq, (5,)), torch.randint(Tk, (5,))
        assert torch.equal(runs.sees(i, j), mask[:, :, i, j])
        assert torch.equal(runs.take(i).dense(), mask[:, :, i])


@given(
    pairs_of_masks() | st.tuples(masks((1, 2, 7, 150)), st.none()),
    st.integers(1, 4),
    st.integers(1, 60),
)
def test_tiles_touch_every_visible_pair_once_and_know_which_pieces_are_whole(
    masks: tuple[Tensor, Tensor | None], height: int, width: int
) -> None:
    mask = masks[0]
    touched = torch.zeros_like(mask, dtype=torch.int32)
    done = 0
    for rows, pieces in Runs.of_mask(mask).tiles(height, width):
        assert rows.start == done
        done = rows.stop
        assert done - rows.start <= height
        for columns, whole in pieces:
            assert 0 < columns.stop - columns.start <= width
            assert columns.stop <= mask.shape[-1]
            assert whole == bool(mask[:, :, rows, columns].all())
            touched[:, :, rows, columns] += 1
    assert done == mask.shape[-2]
    assert touched.max() <= 1 if touched.numel() else True
    assert not (mask & (touched == 0)).any()


@given(masks((1, 2, 5, 200)))
def test_tiles_skip_every_32_keys_that_no_query_of_the_tile_sees(mask: Tensor) -> None:
    for rows, pieces in Runs.of_mask(mask).tiles(3, 64):
        for columns, _ in pieces:
            for first in range(columns.start // 32 * 32, columns.stop, 32):
                assert mask[:, :, rows, first : first + 32].any()


def test_a_long_causal_window_touches_little_more_than_it_sees() -> None:
    i = torch.arange(4096).view(1, 1, -1, 1)
    runs = Runs.of(i - 255, i + 1, 4096)
    touched = sum(
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, pieces in runs.tiles(128, 512)
        for columns, _ in pieces
    )
    assert touched < 1.6 * int(runs.count().sum())


@pytest.mark.parametrize("R", [1, 3])
def test_many_queries_are_swept_in_parts_with_the_same_result(R: int) -> None:
    start = torch.randint(50, (1, 1, 2**18 // R + 5, R))
    stop = start + torch.randint(20, start.shape)
    several, late = Runs.of(start, stop, 60), slice(2**18 // R - 3, None)
    alone = Runs.of(start[:, :, late], stop[:, :, late], 60)
    assert torch.equal(several.dense()[:, :, late], alone.dense())
