"""Which sequence of a layer a call goes on with, and what becomes of the queries of tokens that were refused since."""

import warnings
from dataclasses import fields, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from clearhead.attend.biases import dense
from clearhead.attend.call import Call
from clearhead.attend.runs import Runs
from clearhead.attend.statistics import Statistics
from clearhead.errors import WatchWarning
from clearhead.scope.layer import Layer, Step
from clearhead.scope.masks import low_rows
from clearhead.scope.sighting import Sighting
from clearhead.scope.tokens import is_same, marks


def continued(layer: Layer, call: Call, sighting: Sighting) -> list[Step]:
    """The sequence that a call goes on with; an empty list, which is a new one, if it goes on with none.

    It is the one whose newest key is the last of those that the call finds in its cache, whichever texts were read in
    between. A batch of beams may come in another order. A batch that texts have left goes on as a new sequence, with a
    row for each text that stays.

    Where the cache was cut inside the last call of a sequence, the tokens beyond were refused, as drafts of assisted
    decoding are: they are no part of the text, and their queries are dropped. A cache that was cut back to where the
    last call began goes on with another text, whose calls are a sequence of their own.
    """
    back = call.past if layer.kind == "self" else call.k.shape[2] - len(sighting.added)
    if back <= 0:
        return []
    latest_first = layer.sequences[::-1]
    sequences = sorted(latest_first, key=lambda sequence: sequence[-1].row != sighting.row)
    for sequence in sequences:
        if _follows(layer, sequence[-1], call, back, sighting):
            return sequence
    for sequence in sequences if layer.kind == "self" else ():
        if _follows_cut(sequence[-1], call, back, sighting):
            _cut(layer, sequence, back)
            return sequence
    return []


def _follows(layer: Layer, last: Step, call: Call, back: int, sighting: Sighting) -> bool:
    """Whether the key before a call's queries is the newest of a step, in each row."""
    newest, known = call.k[:, None, :, back - 1 : back], last.newest
    if known.shape != newest[:, 0].shape:  # texts have left the batch or joined it, so its rows are other texts
        return False
    if layer.kind == "cross" and last.tokens != back:
        return False
    if bool((newest == known).flatten(2).all(-1).any(1).all()):
        return True
    # A cache that rounds its keys hands out others than it was given.
    alike = (len(known), last.shape[3], last.row) == (len(call.k), back, sighting.row)
    return layer.kind == "self" and alike and is_same(last.cache, sighting.cache)


def _follows_cut(last: Step, call: Call, back: int, sighting: Sighting) -> bool:
    """Whether the key before a call's queries is an earlier one of a step's, in the cache that both were given."""
    past = last.shape[3] - last.shape[2]
    if not past < back < last.shape[3] or not is_same(last.cache, sighting.cache):
        return False
    before, known = marks(call.k[:, 0, back - 1 : back]), last.marks[:, back - 1 - past : back - past]
    return before.shape == known.shape and torch.equal(before, known)


def _cut(layer: Layer, sequence: list[Step], Tk: int) -> None:
    """Leaves the last step of a sequence with its first queries, those of the first Tk tokens."""
    step = sequence[-1]
    B, H, Tq, _ = step.shape
    n = Tq - (step.shape[3] - Tk)
    if step.call is None:
        warnings.warn(
            f"{layer.name}: {Tq - n} of {Tq} queries were of tokens that the model took back, as it does with refused "
            "drafts, but with keep='statistics' they stay counted. Watch with keep='qk' to leave them out.",
            WatchWarning,
            stacklevel=2,
        )
        return
    call = step.call.take(torch.arange(n, device=step.call.queries.device))
    weights = call.bias_weights
    if isinstance(call.bias, dense):
        weights = tuple(_corner(x, n, Tk) for x in weights)
    runs = Runs(call.runs.start.clamp(max=Tk), call.runs.stop.clamp(max=Tk), Tk)
    assert step.keys is not None
    step.keys.crop(Tk)
    sequence[-1] = replace(
        step,
        statistics=Statistics(**{f.name: getattr(step.statistics, f.name)[:, :, :n] for f in fields(Statistics)}),
        shape=(B, H, n, Tk),
        ids_q=None if step.ids_q is None else step.ids_q[:, :n],
        ids_k=None if step.ids_k is None else step.ids_k[:, :Tk],
        real=None if step.real is None else step.real[:, :Tk],
        valid=None if step.valid is None else step.valid[:, :n],
        newest=step.keys.whole[:, :, -1:].clone(),
        marks=step.marks[:, :n],
        values=None if step.values is None else step.values[:, :, :Tk],
        summary=None,
        call=replace(call, runs=runs, bias_weights=weights),
    )


def _corner(x: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns of a tensor (…, Tq or 1, Tk or 1)."""
    return x[..., : rows if x.shape[-2] > 1 else 1, : columns if x.shape[-1] > 1 else 1]


def real_queries(sighting: Sighting, call: Call) -> Bool[Tensor, "B Tq"] | None:
    """Which queries are no padding; None if that is not known.

    Where nothing else says so, as under a mask of four dimensions, padding is a query to whose scores a mask adds
    what hides keys from other queries. One that sees no key needs no such word.
    """
    low = low_rows(call.bias) if sighting.valid is None else None
    return sighting.valid if low is None else (~low).any(1).expand(len(call.q), call.q.shape[2])


def real_keys(
    sighting: Sighting, call: Call, before: Step | None, queries: Bool[Tensor, "B Tq"] | None
) -> Bool[Tensor, "B Tk"] | None:
    """Which keys are no padding, as far as it is known: those of this call's queries, after the earlier ones.

    Where nothing else says so, as under a mask of four dimensions, padding is what no query of its text sees, of
    those that are `real_queries`.
    """
    Tk, valid = call.k.shape[2] - len(sighting.added), sighting.valid
    if sighting.kind == "cross":
        return None
    if valid is not None and valid.shape[1] == Tk:
        return valid
    known = None if before is None else before.real
    if valid is None and known is None:
        return _seen(call.runs, Tk, queries) if call.q.shape[2] == Tk else None
    B, missing = len(call.q), Tk - call.q.shape[2]
    if valid is None:
        valid = torch.ones(B, call.q.shape[2], dtype=torch.bool, device=call.q.device)
    if known is None or known.shape != (B, missing):
        known = valid.new_ones(B, missing)
    return torch.cat([known, valid], 1)


def _seen(runs: Runs, Tk: int, queries: Bool[Tensor, "B Tq"] | None) -> Bool[Tensor, "B Tk"] | None:
    """Which of the first Tk keys some of these queries see, in some head; None if all are seen."""
    start, stop = runs.start, runs.stop
    if queries is not None:
        start, stop = (side.masked_fill(~queries[:, None, :, None], 0) for side in (start, stop))
    edges = torch.zeros(len(start), runs.keys + 1, dtype=torch.int64, device=start.device)
    for side, step in ((start, 1), (stop, -1)):
        at = side.reshape(len(side), -1).long()
        edges.scatter_add_(1, at, torch.full_like(at, step))
    seen = edges.cumsum(1)[:, :Tk] > 0
    return None if bool(seen.all()) else seen
