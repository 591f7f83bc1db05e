"""Sampled: what takes whole rows to know, from an even sample of a text's queries, O(T) each."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.attend import native, second
from clearhead.attend.call import Call
from clearhead.attend.statistics import Statistics

SAMPLED = 32
"""The most queries of a call that are looked at: the first, the last, and as many evenly between them."""
HELD = 0.9
"""The share of a query's weight that its effective context holds."""
ELEMENTS = 2**20
"""How many weights are made at a time: few enough to stay near the processor, 4 MiB of float32."""


def sample(counted: Bool[Tensor, " Tq"]) -> Int[Tensor, " n"]:
    """The queries to look at, evenly spaced among those that count."""
    rows = counted.nonzero()[:, 0]
    if len(rows) <= SAMPLED:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, SAMPLED).round().long()]


def effective_context(call: Call, seen: Statistics, rows: Int[Tensor, " n"]) -> Float[Tensor, "H n"]:
    """The fewest keys that hold 90 % of the weight of these queries, of a call of one text."""
    if native.refuses(call) is None:
        max_score, peak = (x.index_select(2, rows) for x in (seen.max_score, seen.peak))
        return second.fewest(call.take(rows), max_score, peak, HELD)[0]
    context = torch.zeros(call.q.shape[1], len(rows))
    for some, w in rows_of(call, seen, rows):
        context[:, some] = fewest(w)
    return context


def variance_of_mean(values: Float[Tensor, "H n"], queries: int) -> Float[Tensor, " H"]:
    """How far, squared, the mean of an even sample is from the mean of all `queries`, as one expects.

        (1 − n/N) · Σ_m (x_{m+1} − x_m)² / (2 (n − 1)) / n

    Neighbours are compared, as the queries are sampled in their order (Wolter, Introduction to Variance Estimation,
    2007, ch. 8, v₂). 0 where all are in the sample.
    """
    n = values.shape[1]
    if n == queries:
        return values.new_zeros(len(values), dtype=torch.float64)
    return (1 - n / queries) * values.double().diff(dim=1).square().sum(1) / (2 * (n - 1)) / n


def rows_of(
    call: Call, seen: Statistics, rows: Int[Tensor, " n"]
) -> Iterator[tuple[slice, Float[Tensor, "H m reach"]]]:
    """The weights of these queries, some at a time, over the keys up to the last that one of them sees."""
    if not len(rows):
        return
    call = call.take(rows)
    max_score, peak = seen.max_score.index_select(2, rows), seen.peak.index_select(2, rows)
    last = torch.where(call.runs.start < call.runs.stop, call.runs.stop, 0).amax((0, 1, 3)).tolist()
    step = max(1, ELEMENTS // (call.q.shape[1] * max(*last, 1, 1)))
    for start in range(0, len(rows), step):
        some = slice(start, min(start + step, len(rows)))
        yield some, call.weights(max_score, peak, some, slice(0, max(last[some])))[0]


def fewest(w: Float[Tensor, "H m n"]) -> Float[Tensor, "H m"]:
    """How many of the heaviest keys hold 90 % of a row: all but the lightest, as long as they hold 10 % at most.

    NaN where a weight is.
    """
    if not w.shape[-1]:
        return torch.zeros(w.shape[:-1])
    held = torch.from_numpy(np.sort(w.cpu().numpy(), -1)).cumsum(-1)  # NumPy sorts ten times as fast as PyTorch
    lightest = held <= (1 - HELD) * held[..., -1:] * (1 + 1e-6)  # of equal weights none is lost to rounding
    return (w.shape[-1] - lightest.sum(-1)).float().masked_fill(held[..., -1].isnan(), torch.nan)
