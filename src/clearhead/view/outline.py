"""Outline: who may see whom in a layer, to be drawn around its map, and a word for it where there is one."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.layer import Layer

MOST = 2**20
"""The most ends of runs that a page is given of a layer; a pattern of more is too fine to be drawn as an outline."""


def outlines(layers: Sequence[Layer], batch: int) -> list[dict[str, Any] | None]:
    """For each layer the first layer of the same pattern, whose block has it, and what it is called in words.

    None where nobody knows it: only statistics were kept. `layer` is None where it is too fine to be drawn.
    """
    known: list[tuple[int, Tensor]] = []
    found: list[dict[str, Any] | None] = []
    for number, layer in enumerate(layers):
        if any(step.call is None for step in layer.steps):
            found.append(None)
            continue
        runs = _runs(layer, batch)
        of = next((n for n, other in known if other.shape == runs.shape and torch.equal(other, runs)), None)
        if of is None:
            of = number
            known.append((number, runs))
        _, Tk = layer.lengths
        drawn = runs.numel() <= MOST
        found.append({"layer": of if drawn else None, "says": says(runs, Tk, layer.kind, len(layer.added))})
    return found


def outline(layer: Layer, batch: int) -> bytes:
    """The block "pattern-L": for each query the runs of keys that it may see.

    Little-endian int32: how many patterns there are (1, or H where heads differ), how many runs R a query has at
    most, then `start (heads, R, Tq)` and `stop (heads, R, Tq)` of the runs [start, stop), each as the difference from
    the query before (the first from 0), which is all the same for most patterns, and packs well. A run that a query
    has not is empty: it starts where it stops.

    Raises:
        ClearheadError: only statistics were kept, or it is too fine.
    """
    runs = _runs(layer, batch)
    if runs.numel() > MOST:
        raise ClearheadError(f"{layer.name}: its pattern has {runs.numel():,} ends of runs, too many for an outline.")
    _, heads, _, R = runs.shape
    steps = runs.mT.diff(dim=-1, prepend=runs.new_zeros(2, heads, R, 1))
    return torch.tensor([heads, R]).numpy().astype("<i4").tobytes() + steps.cpu().numpy().astype("<i4").tobytes()


def says(runs: Int[Tensor, "2 heads Tq R"], Tk: int, kind: str, added: int = 0) -> str | None:
    """A short name of the mask, or None if no short name is exact.

    The last `added` of the Tk keys are those of no token.
    """
    if added:
        return _says_beside(runs, Tk - added, kind, added)
    _, heads, Tq, R = runs.shape
    if heads > 1 or R > 1 or Tq == 0:
        return None
    start, stop = runs[0, 0, :, 0].long(), runs[1, 0, :, 0].long()
    if bool((start >= stop).any()):  # padding's own rows, mostly: the others say what it is
        there = start < stop
        if not bool(there.any()):
            return "no token may see any"
        position = torch.arange(Tq, device=start.device)[there]
        start, stop = start[there], stop[there]
    else:
        position = torch.arange(Tq, device=start.device)
    position = position + (Tk - Tq if kind == "self" else 0)
    first, last = int(start.min()), int(stop.max())
    padded = "" if (first, last) == (0, Tk) else ", padding left out"
    if bool((start == first).all() & (stop == last).all()):
        return f"every token may see every other{padded}" if kind == "self" else f"every key may be seen{padded}"
    if kind == "cross":
        return None
    behind, ahead = int((position - start).max()), int((stop - position).max()) - 1
    as_window = torch.equal(start, (position - behind).clamp(min=first)) and torch.equal(
        stop, (position + ahead + 1).clamp(max=last)
    )
    if not as_window:
        return None
    reach = bool((start == first).all())
    if ahead == 0:
        return (
            f"causal: no token sees what comes after it{padded}"
            if reach
            else f"causal, a window of {behind + 1}{padded}"
        )
    return f"a window of {behind} before and {ahead} after{padded}" if ahead > 0 else None


def _says_beside(runs: Int[Tensor, "2 heads Tq R"], T: int, kind: str, added: int) -> str | None:
    """`says` of the first T keys, where all queries see the keys added behind them, or none does."""
    seen = (runs[1].clamp(min=T) - runs[0].clamp(min=T)).sum(-1)
    tokens = runs.clamp(max=T)
    word = says(tokens[..., (tokens[0] < tokens[1]).flatten(0, 1).any(0)], T, kind)
    if word is None or bool((seen == 0).all()):
        return word
    return f"{word}; all may see the added keys" if bool((seen == added).all()) else None


def _runs(layer: Layer, batch: int) -> Int[Tensor, "2 heads Tq R"]:
    """Starts and stops of all queries of the text, through the calls."""
    calls = [step.call for step in layer.steps]
    if any(call is None for call in calls):
        raise ClearheadError(f"{layer.name}: the watch kept statistics only; watch with keep='qk' to see its pattern.")
    pairs = [(call.runs, torch.stack([call.runs.start, call.runs.stop])) for call in calls if call is not None]
    Tk = max(runs.keys for runs, _ in pairs)
    heads = max(sides.shape[2] for _, sides in pairs)
    R = max(sides.shape[-1] for _, sides in pairs)
    wide = []
    for _, sides in pairs:
        own = sides[:, batch % sides.shape[1]].expand(-1, heads, -1, -1)
        wide.append(torch.nn.functional.pad(own, (0, R - own.shape[-1]), value=Tk))
    return torch.cat(wide, 2).int()
