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
from clearhead.attend.runs import Runs

TILE = 64
"""Lists of keys that `held` is to tell apart begin at a multiple of it: kernels/walk.h, KEYS."""
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


def toward(
    call: Call, max_score: Float[Tensor, "B H Tq"], peak: Float[Tensor, "B H Tq"], j: Int[Tensor, "roles B Tq"]
) -> Float[Tensor, "roles B H Tq"]:
    """w[i, j[i]], of a key named for each query: O(D) each. Whether the query sees it is not asked.

    For calls without a bias.
    """
    targets = j.int().contiguous()
    weights = max_score.new_empty(len(j), *max_score.shape, dtype=torch.float32)
    asked, _kept = _lowered(call, max_score, peak)
    asked.targets, asked.toward, asked.roles = targets.data_ptr(), weights.data_ptr(), len(j)
    library.loaded().clearhead_toward(ctypes.byref(asked))
    return weights


def held(
    call: Call,
    max_score: Float[Tensor, "B H Tq"],
    peak: Float[Tensor, "B H Tq"],
    order: Int[Tensor, " Tq"],
    keys: Int[Tensor, "roles n"],
    runs: Runs,
) -> Float[Tensor, "roles B H Tq"]:
    """Σ_j w[i, j] over some keys j of each query i: row r of the runs says which of `keys`, one role's after another's.

    They are those of query `order[r]`. For calls without a bias, which would hang on where a key stands; n is a
    multiple of `TILE`. Queries with the same keys should be neighbours.
    """
    order, keys = order.int(), keys.int()
    total = max_score.new_empty(len(keys), *max_score.shape, dtype=torch.float32)
    asked, _kept = _lowered(replace(call, runs=runs), max_score, peak)
    asked.Tk, asked.roles, asked.held = keys.numel(), len(keys), total.data_ptr()
    asked.order, asked.named = order.data_ptr(), keys.data_ptr()
    library.loaded().clearhead_held(ctypes.byref(asked))
    return total


def fewest(
    call: Call,
    max_score: Float[Tensor, "B H Tq"],
    peak: Float[Tensor, "B H Tq"],
    share: float,
) -> Float[Tensor, "B H Tq"]:
    """The fewest keys that hold a share of each row's weight; NaN where a weight is.

    Each thread holds whole rows, O(Tk), so pass a sample of the queries.
    """
    few = max_score.new_empty(max_score.shape, dtype=torch.float32)
    asked, _kept = _lowered(call, max_score, peak)
    asked.fewest, asked.share = few.data_ptr(), share
    library.loaded().clearhead_fewest(ctypes.byref(asked))
    return few


def _lowered(call: Call, max_score: Tensor, peak: Tensor) -> tuple[NativeCall, tuple[Tensor | None, ...]]:
    """The call in C with what is known of its rows, and the tensors that it points into, to be kept meanwhile."""
    asked, kept = operators.lowered(*native.arguments(replace(call, dropout=0.0)))
    max_score, peak = (x.float().contiguous() for x in (max_score, peak))
    asked.probe.max_score, asked.probe.peak = max_score.data_ptr(), peak.data_ptr()
    return asked, (*kept, max_score, peak)
