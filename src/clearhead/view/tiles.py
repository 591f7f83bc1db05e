"""Tiles: a head's weights as a picture that can be zoomed like a street map, cut into squares of 256 × 256 cells."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch

from clearhead.errors import ClearheadError
from clearhead.scope.chosen import part_of
from clearhead.scope.indexing import indices
from clearhead.scope.layer import Layer

SIDE = 256
"""A tile has so many cells a side, fewer where the text ends."""

Span = tuple[int, int, int]
"""Queries or keys [start, stop), and the cell of the tile that the first of them is in."""


def deepest(queries: int, keys: int) -> int:
    """The zoom at which a cell is one pair: the least Z with 256 · 2^Z ≥ max(Tq, Tk).

    >>> deepest(256, 256), deepest(1, 257), deepest(8192, 8192)
    (0, 1, 5)
    """
    return max(0, (max(queries, keys, 1) - 1) // SIDE).bit_length()


@torch.no_grad()
def tile(layer: Layer, batch: int, head: int, zoom: int, y: int, x: int) -> bytes:
    """The block "tile-L-H-Z-Y-X": part (Y, X) of head H's weights at zoom Z, as float16, cell by cell, row by row.

    A cell at zoom Z is s = 2^(zmax − Z) tokens a side, zmax being `deepest(Tq, Tk)`, whatever Tq and Tk are: cell
    (r, c) of the whole picture covers queries [r · s, (r + 1) · s) and keys [c · s, (c + 1) · s), less where the text
    ends, and is the mean weight of these pairs; a hidden pair weighs 0. So the cells of all tiles and zooms lie on
    one another, zoom 0 is one tile, and the deepest has one pair a cell. The tile holds rows [256 · Y, 256 · (Y + 1))
    and columns [256 · X, 256 · (X + 1)) of these, without those behind the text's end. Queries are counted from the
    first that was seen.

    float16 is within 2^-11 of a weight's size from 6.1e-5 up, and within 3e-8 below.

    Raises:
        ClearheadError: no such tile, no such head, or only statistics were kept.
    """
    indices(head, "head", layer.heads)
    Tq, Tk = layer.lengths
    side = _side(zoom, deepest(Tq, Tk))
    (top, bottom), (left, right) = _within(y, side, Tq), _within(x, side, Tk)
    if side == 0 or top >= bottom or left >= right:
        raise ClearheadError(
            f"{layer.name}: there is no tile ({y}, {x}) at zoom {zoom} of {Tq} queries and {Tk} keys; zoom 0 is one "
            f"tile, and {deepest(Tq, Tk)} is the deepest."
        )
    total = np.zeros((-(-(bottom - top) // side), -(-(right - left) // side)), dtype="f4")
    start = 0
    for step in layer.steps:
        first, last, seen = max(top, start), min(bottom, start + step.shape[2]), min(right, step.shape[3])
        if first < last and left < seen:
            weights = part_of(step.weights, batch, head)
            for a, b, row in _aligned(first, last, top, side):
                for c, d, column in _aligned(left, seen, left, side):
                    size = -(-(b - a) // side), -(-(d - c) // side)
                    means = weights.map(slice(a - start, b - start), slice(c, d), size)[0, 0]
                    pairs = (b - a) * (d - c) / (size[0] * size[1])
                    total[row : row + size[0], column : column + size[1]] += pairs * means.float().cpu().numpy()
        start += step.shape[2]
    return (total / np.outer(_sizes(top, bottom, side), _sizes(left, right, side))).astype("<f2").tobytes()


def worth_saving(layers: Sequence[Layer], clearest: Sequence[tuple[int, int]]) -> Iterator[str]:
    """The names of the tiles of a saved page, the most useful first: the clearest heads ever finer, then all others.

    Of the clearest heads, as (layer, head), the first zoom is left to the caller, who may want it before all else.
    """
    others = [(n, h) for n, layer in enumerate(layers) for h in range(layer.heads) if (n, h) not in clearest]
    yield from _in_turn([_finer(layers[n], n, head) for n, head in clearest])
    yield from (f"tile-{n}-{head}-0-0-0" for n, head in others)
    yield from _in_turn([_finer(layers[n], n, head) for n, head in others])


def _in_turn(names: Sequence[Iterator[str]]) -> Iterator[str]:
    """The first of each, then the second of each, and so on."""
    yield from (name for some in zip_longest(*names) for name in some if name is not None)


def _finer(layer: Layer, number: int, head: int) -> Iterator[str]:
    """The names of a head's tiles below zoom 0, zoom by zoom."""
    Tq, Tk = layer.lengths
    last = deepest(Tq, Tk)
    for zoom in range(1, last + 1):
        width = SIDE * _side(zoom, last)
        for y in range(-(-Tq // width)):
            for x in range(-(-Tk // width)):
                yield f"tile-{number}-{head}-{zoom}-{y}-{x}"


def _side(zoom: int, last: int) -> int:
    """A cell's side in tokens; 0 where there is no such zoom."""
    return 1 << (last - zoom) if 0 <= zoom <= last else 0


def _within(index: int, side: int, length: int) -> tuple[int, int]:
    return min(index * SIDE * side, length), min((index + 1) * SIDE * side, length)


def _aligned(start: int, stop: int, origin: int, side: int) -> Iterator[Span]:
    """[start, stop) in at most three parts: the whole cells, and what of a cell there is before and behind them.

    Cells begin at `origin` and are `side` wide. `Weights.map` shares out a region evenly, which is by cells where
    they are whole.
    """
    before = min(stop, origin + -(-(start - origin) // side) * side)
    behind = max(before, origin + (stop - origin) // side * side)
    for a, b in ((start, before), (before, behind), (behind, stop)):
        if a < b:
            yield a, b, (a - origin) // side


def _sizes(start: int, stop: int, side: int) -> np.ndarray:
    """How many tokens each cell has."""
    return np.diff(np.append(np.arange(start, stop, side), stop)).astype("f4")
