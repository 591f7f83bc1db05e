"""Thumbs: of all heads of a layer a small picture each, so that a whole model is seen at once."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.chosen import part_of
from clearhead.scope.layer import Layer
from clearhead.view.payload import STEPS

SIDE = 32
"""A picture has so many rows and columns of cells, or one a token where there are fewer tokens."""
ROWS_AT_A_TIME = 256


def thumbs(layer: Layer, batch: int) -> bytes:
    """The block "thumbs-L": the pictures of a layer's heads, one byte a cell, in the order head, row, column."""
    return pictures(layer, batch).tobytes()


def pictures(layer: Layer, batch: int) -> UInt8[np.ndarray, "H height width"]:
    """The pictures of a layer's heads, one byte a cell.

    With `height = min(Tq, 32)` and `width = min(Tk, 32)`, query i lies in row i · height // Tq and key j in column
    j · width // Tk. A cell holds round(255 · √s): s is the share of its weight that a query of the row puts on the
    column's keys, mean over the row's queries. Shares of a row of cells sum to 1, less what a sink takes, at any
    length; the root lets a thin pattern show beside a heavy one.

    Raises:
        ClearheadError: weights that are no numbers.
    """
    shares = _shares(layer, batch)
    if not bool(shares.isfinite().all()):
        raise ClearheadError(f"{layer.name} has weights that are no numbers (NaN), so there is no picture of it.")
    picture: np.ndarray = _code(shares).cpu().numpy()
    return picture


def _shares(layer: Layer, batch: int) -> Float[Tensor, "H height width"]:
    """s of every cell. One pass over the scores; a text that was read in several calls is taken row by row."""
    Tq, Tk = layer.lengths
    height, width = min(Tq, SIDE), min(Tk, SIDE)
    keys = (torch.arange(Tk) * width // Tk).bincount(minlength=width)
    if len(layer.steps) == 1:
        mean = part_of(layer.weights, batch).map(size=(height, width))[0]
        return mean * keys.to(mean.device)
    shares = torch.zeros(layer.heads, height, width)
    column = torch.arange(Tk) * width // Tk
    for some in torch.arange(Tq).split(ROWS_AT_A_TIME):
        rows = layer.rows(some, batch=batch).float().cpu()
        narrow = rows.new_zeros(*rows.shape[:2], width).index_add_(-1, column, rows)
        shares.index_add_(1, some * height // Tq, narrow)
    return shares / (torch.arange(Tq) * height // Tq).bincount(minlength=height)[:, None]


def _code(shares: Float[Tensor, "H height width"]) -> UInt8[Tensor, "H height width"]:
    return (shares.float().clamp(0, 1).sqrt() * STEPS).round().to(torch.uint8)
