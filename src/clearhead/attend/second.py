"""A second pass over the scores by the native kernels, with each row's highest score and its weight known.

Each weight is made again as w[i, j] = exp(s[i, j] − max_score[i]) · peak[i], before any dropout, and never held. The
calls are those that the native backend takes: ask `native.refuses(call)` first.
"""

import ctypes
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import library, native, operators
from clearhead.attend.call import Call
from clearhead.attend.library import NativeCall

LONGEST = 512
"""The longest lists that `top` should keep: beyond it, sorting whole tiles is faster."""


def received(call: Call, max_score: Float[Tensor, "B H Tq"], peak: Float[Tensor, "B H Tq"]) -> Float[Tensor, "B H Tk"]:
    """The column mass Σ_i w[i, j]."""
    B, H, _, _ = call.q.shape
    total = max_score.new_empty(B, H, call.k.shape[2], dtype=torch.float32)
    asked, _kept = _lowered(call, max_score, peak)
    asked.received = total.data_ptr()
    library.loaded().clearhead_received(ctypes.byref(asked))
    return total


def picture(
    call: Call,
    max_score: Float[Tensor, "B H Tq"],
    peak: Float[Tensor, "B H Tq"],
    columns: slice,
    size: tuple[int, int],
) -> Float[Tensor, "B H height width"]:
    """The mean weights of height × width cells over all queries of the call and some columns.

    Query i of Tq lies in row i · height // Tq of the cells, and a column likewise.
    """
    B, H, _, _ = call.q.shape
    cells = max_score.new_empty(B, H, *size, dtype=torch.float32)
    asked, _kept = _lowered(call, max_score, peak)
    asked.map = cells.data_ptr()
    asked.column_start, asked.column_stop = columns.start, columns.stop
    asked.map_rows, asked.map_columns = size
    library.loaded().clearhead_map(ctypes.byref(asked))
    return cells


def top(
    call: Call, max_score: Float[Tensor, "B H Tq"], peak: Float[Tensor, "B H Tq"], k: int
) -> tuple[Int[Tensor, "B H Tq k"], Float[Tensor, "B H Tq k"]]:
    """The k heaviest keys of each query and their weights, heaviest first, the lower key where two weigh the same.

    A query with fewer keys that weigh anything has key −1 and weight 0 in their places.
    """
    B, H, Tq, _ = call.q.shape
    weights = max_score.new_empty(B, H, Tq, k, dtype=torch.float32)
    keys = max_score.new_empty(B, H, Tq, k, dtype=torch.int32)
    asked, _kept = _lowered(call, max_score, peak)
    asked.top_weights, asked.top_keys, asked.top_k = weights.data_ptr(), keys.data_ptr(), k
    library.loaded().clearhead_top(ctypes.byref(asked))
    return keys.long(), weights


def _lowered(call: Call, max_score: Tensor, peak: Tensor) -> tuple[NativeCall, tuple[Tensor | None, ...]]:
    """The call in C with what is known of its rows, and the tensors that it points into, to be kept meanwhile."""
    asked, kept = operators.lowered(*native.arguments(replace(call, dropout=0.0)))
    max_score, peak = (x.float().contiguous() for x in (max_score, peak))
    asked.probe.max_score, asked.probe.peak = max_score.data_ptr(), peak.data_ptr()
    return asked, (*kept, max_score, peak)
