"""Vectors: q and k of one head, and all else that makes a score of them and a weight of the score."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend.biases import relative
from clearhead.attend.call import Call
from clearhead.attend.scores import Dot
from clearhead.scope.chosen import part_of
from clearhead.scope.columns import ROLES
from clearhead.scope.indexing import indices
from clearhead.scope.layer import Layer
from clearhead.scope.weights import Weights

PAIRS = 2**20
"""A bias that is no table over distance is given pair by pair, for at most so many pairs."""
SHARPEST = 8
"""So many heads stand for the rest where no role is told: of a picture's patches, say."""
STEPS = 32767
"""Each number of a vector is one of so many steps up or down to the vector's largest: 16 bits."""


def vectors(layer: Layer, batch: int, head: int) -> bytes:
    """The block "vectors-LAYER-HEAD": with it a page can make each weight of the head again, step by step.

    s[i, j] = softcap(scale · q_i · k_j) + bias[i, j] where query i may see key j; w[i, j] = exp(s − max_i) · peak_i.

    The block begins with a length (uint32) and so many bytes of JSON, the header:

    - `without`: null, or a sentence that says why the vectors can't be given; then there is nothing else;
    - `queries`, `keys`, `width`: Tq, Tk and D; D = 0 where a model showed its scores alone, which are then `bias`;
    - `scale`, `softcap` (null if there is none), `sink` (the head's own logit in the softmax, or null);
    - `runs`: R, how many runs of keys a query sees at most;
    - `bias`: null, "distance" (Tq + Tk − 1 numbers, that of j − i + Tq − 1 in its place) or "pairs" (Tq × Tk).

    After it, at a multiple of four bytes and little-endian: `max (Tq)` and `peak (Tq)`, each row's highest score and
    its weight, in float32; `starts (Tq, R)` and `stops (Tq, R)`, who sees whom, in int32; the bias in float32; `a (Tq)`
    and `b (Tk)` in float32; q `(Tq, D)` and k `(Tk, D)` in int16, to be multiplied by a_i and b_j. So a number of q_i
    is off by a_i / 2 at most, one of k_j by b_j / 2, and all else is exact.

    Raises:
        ClearheadError: there is no such head, or the watch kept statistics alone.
    """
    indices(head, "head", layer.heads)
    parts = [part_of(step.weights, batch, head) for step in layer.steps]
    without = _without([part.call for part in parts])
    if without is not None:
        return _written({"without": without}, [])
    calls = [part.call for part in parts]
    call, Tk = calls[0], max(part.shape[3] for part in parts)
    q = torch.cat([one.q[0, 0] for one in calls])
    k = max((one.k[0, 0] for one in calls), key=len)
    starts, stops = _runs(calls, Tk)
    form, bias = _bias(calls, Tk)
    header = {
        "without": None,
        "queries": len(q),
        "keys": Tk,
        "width": q.shape[1],
        "scale": call.scale,
        "softcap": call.softcap,
        "sink": None if call.sinks is None else float(call.sinks[0]),
        "runs": starts.shape[1],
        "bias": form,
    }
    rows = [torch.cat([_row(part, name) for part in parts]) for name in ("max_score", "peak")]
    singles = [_bytes(x, "<f4") for x in (*rows, *bias)]
    (a, of_q), (b, of_k) = _stepped(q), _stepped(k)
    runs = [_bytes(x, "<i4") for x in (starts, stops)]
    return _written(header, [*singles[:2], *runs, *singles[2:], a, b, of_q, of_k])


def clearest(heads: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """The (layer, head) that plays each role most, each once; those with the highest peaks where no role is told.

    >>> clearest([{"layer": 0, "head": n, "induction": n / 9, "self_token": math.nan} for n in range(9)])
    [(0, 8)]
    """
    strongest = {}
    for role in (role for role in ROLES if heads and role in heads[0]):
        playing = [row for row in heads if math.isfinite(row[role])]
        if playing:
            row = max(playing, key=lambda row: row[role])
            strongest[row["layer"], row["head"]] = role
    if not strongest:
        sharpest = sorted((row for row in heads if math.isfinite(row["peak"])), key=lambda row: -row["peak"])
        return [(row["layer"], row["head"]) for row in sharpest[:SHARPEST]]
    return list(strongest)


def _without(calls: Sequence[Call]) -> str | None:
    """Why a page can't make the scores again, if it can't."""
    first = calls[0]
    if not isinstance(first.score, Dot):
        kind = type(first.score).__name__
        return f"The scores of this layer are no dot products of a query and a key, but made by {kind}."
    if any((x.scale, x.softcap) != (first.scale, first.softcap) for x in calls):
        return "The calls of this layer had different scales, so that no one sum holds for all of its queries."
    pairs = sum(x.q.shape[2] for x in calls) * max(x.k.shape[2] for x in calls)
    if not _of_distance(calls) and first.bias is not None and pairs > PAIRS:
        return (
            f"This layer adds a bias of its own to each of {pairs:,} pairs, more than the {PAIRS:,} that are given to "
            "a page. Ask Python: rows(i) has the weights."
        )
    return None


def _of_distance(calls: Sequence[Call]) -> bool:
    """Whether what is added to a score hangs on the distance alone, and one table holds for all queries."""
    return len(calls) == 1 and isinstance(calls[0].bias, relative)


def _bias(calls: Sequence[Call], Tk: int) -> tuple[str | None, list[Float[Tensor, "..."]]]:
    """In which form the bias is given, and its numbers."""
    first = calls[0]
    if first.bias is None:
        return None, []
    if _of_distance(calls):
        Tq = first.q.shape[2]
        apart = torch.arange(1 - Tq, Tk, device=first.q.device)
        # Asked for row 0 alone: a key before the first is as far from it as the first is from a later row.
        return "distance", [first.bias.at(torch.zeros_like(apart), apart, first.past, *first.bias_weights)[0, 0]]
    rows = []
    for call in calls:
        i, j = call.queries[:, None], torch.arange(call.k.shape[2], device=call.q.device)[None]
        assert call.bias is not None
        added = call.bias.at(i, j, call.past, *call.bias_weights)[0, 0].expand(len(i), j.shape[1])
        rows.append(torch.nn.functional.pad(added, (0, Tk - added.shape[1])))
    return "pairs", [torch.cat(rows)]


def _runs(calls: Sequence[Call], Tk: int) -> tuple[Int[Tensor, "Tq R"], Int[Tensor, "Tq R"]]:
    """The runs of all queries; the empty ones at a row's end are [Tk, Tk)."""
    width = max(call.runs.start.shape[-1] for call in calls)
    sides = []
    for name in ("start", "stop"):
        rows = [getattr(call.runs, name)[0, 0] for call in calls]
        sides.append(torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1]), value=Tk) for x in rows]))
    starts, stops = sides
    return starts, stops


def _row(part: Weights, name: str) -> Float[Tensor, " Tq"]:
    values: Tensor = getattr(part.statistics, name)[0, 0]
    return values


def _stepped(x: Float[Tensor, "T D"]) -> tuple[bytes, bytes]:
    """Each vector's step, NaN for one that is not finite, and its numbers in steps."""
    largest = x.double().abs().amax(-1) if x.shape[1] else x.new_zeros(len(x)).double()
    step = (largest / STEPS).float()
    steps = (x.double() / step.double().clamp(min=1e-300)[:, None]).round().clamp(-STEPS, STEPS)
    broken = ~step.isfinite()
    return _bytes(step.masked_fill(broken, math.nan), "<f4"), _bytes(steps.masked_fill(broken[:, None], 0), "<i2")


def _bytes(x: Tensor, kind: str) -> bytes:
    numbers = x.detach().cpu()
    return (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy().astype(np.dtype(kind)).tobytes()


def _written(header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 4)
    return len(told).to_bytes(4, "little") + told + b"".join(parts)
