"""Figures: what the page shows of a head, or of all, drawn by matplotlib for a paper or a notebook, with no browser."""

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch

from clearhead.attend.arguments import whole_number
from clearhead.errors import ClearheadError
from clearhead.scope.alike import Alike, alike
from clearhead.scope.chosen import numbered, only_step, part_of
from clearhead.scope.columns import ROLES
from clearhead.scope.compare import Comparison
from clearhead.scope.indexing import index
from clearhead.scope.layer import Layer
from clearhead.scope.record import Record
from clearhead.view import draw, drawings, spelling
from clearhead.view.image import opened, patches
from clearhead.view.terminal import strongest
from clearhead.view.thumbs import pictures

LONGEST = 150
"""So many tokens a side can be read beside one another."""
SIGNS = str.maketrans("-", "−")


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, drawn when it is saved, or shown by a notebook's cell."""

    what: Any

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Writes it as .svg, .png or .pdf, beside and renamed: there is never half a file.

        `force` replaces a file that Clearhead did not write.

        Raises:
            ClearheadError: another ending, no matplotlib (`pip install 'clearhead[figures]'`), or a file that Clearhead
                did not write.
        """
        return draw.put(self.what, path, "save", force=force)

    def _repr_png_(self) -> bytes:
        return draw.rendered(self.what, "png")

    def _repr_svg_(self) -> str:
        return draw.rendered(self.what, "svg").decode()


def figure(
    record: Record, kind: str, layer: SupportsIndex | str | None, head: SupportsIndex | None, **options: Any
) -> Figure:
    """The figure of this kind; see `Seen.figure`."""
    if kind not in KINDS:
        raise ClearheadError(f"figure: got {kind!r}, expected one of {', '.join(KINDS)}.")
    make = KINDS[kind]
    known = list(inspect.signature(make).parameters)[1:]
    given: dict[str, Any] = {name: x for name, x in {"layer": layer, "head": head, **options}.items() if x is not None}
    for name in given:
        if name not in known:
            raise ClearheadError(f"figure({kind!r}): got {name}=, expected some of {', '.join(known)}.")
    for name in given.keys() & {"head", "query", "key", "sequence", "batch"}:
        number = whole_number(given[name])
        if number is None:
            raise ClearheadError(f"figure({kind!r}): got {name}={given[name]!r}, expected a whole number.")
        given[name] = number
    for name in ("layer", "head"):
        if name in known and name not in given:
            raise ClearheadError(f"figure({kind!r}): say which {name}, as in figure({kind!r}, layer=3, head=2).")
    return Figure(make(record, **given))


def _lines(
    record: Record,
    layer: SupportsIndex | str,
    head: int,
    query: int | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
    sequence: int = -1,
    batch: int = 0,
) -> drawings.Lines:
    one = _one(record, layer, sequence)
    head = index(head, "head", one.heads)
    queries, keys = spelling.queries(one, batch), spelling.keys(one, batch)
    down = range(len(queries))[rows or slice(None)]
    across = range(len(keys))[columns or slice(None)]
    if query is not None:
        query = index(query, "query", len(queries))
        if query not in down:
            rows_shown = f"{down.start} to {down.stop - 1}"
            raise ClearheadError(f"figure('head'): query {query} is not among the rows {rows_shown}.")
    if max(len(down), len(across)) > LONGEST or min(len(down), len(across)) == 0:
        raise ClearheadError(
            f"figure('head'): got {len(down)} queries and {len(across)} keys, expected 1 to {LONGEST} of each. "
            "Choose some, as rows=slice(0, 100), columns=slice(0, 100), or draw a map: figure('map', …)."
        )
    if (down.step, across.step) != (1, 1):
        raise ClearheadError(f"figure('head'): rows={rows}, columns={columns} has a step; expected slices without.")
    offset = max(0, len(keys) - len(one.added) - len(queries)) if one.kind == "self" else 0
    weights = one.rows(list(down), head, batch)[:, across.start : across.stop]
    places = range(down.start + offset, down.stop + offset), across
    name = _name(record, layer, head)
    shown = None if query is None else query + offset
    return drawings.Lines(weights, [queries[i] for i in down], [keys[j] for j in across], name, shown, places)


def _map(
    record: Record,
    layer: SupportsIndex | str,
    head: int,
    rows: slice | None = None,
    columns: slice | None = None,
    size: tuple[int, int] = (1024, 1024),
    sequence: int = -1,
    batch: int = 0,
) -> drawings.Map:
    region = record.map(layer, head, rows, columns, size, sequence=sequence, batch=batch)
    one = _one(record, layer, sequence)
    queries, keys = spelling.queries(one, batch), spelling.keys(one, batch)
    return drawings.Map(region, [queries[i] for i in region.rows], [keys[j] for j in region.columns])


def _model(record: Record, by: str | None = None, sequence: int = -1, batch: int = 0) -> drawings.Wall | drawings.Heads:
    if by is None:
        layers = [layer.sequence(sequence) for layer in record.layers]
        return drawings.Wall([pictures(layer, batch) for layer in layers])
    table = record.heads(pandas=False)
    columns = [name for name, value in table[0].items() if not isinstance(value, str | int)] if table else []
    if by not in columns:
        raise ClearheadError(f"figure('model'): got by={by!r}, expected one of {', '.join(columns)}.")
    values = np.full((len(record), 1 + max(row["head"] for row in table)), math.nan)
    for row in table:
        values[row["layer"], row["head"]] = row[by]
    return drawings.Heads(values, by)


def _product(
    record: Record,
    layer: SupportsIndex | str,
    head: int,
    query: int | None = None,
    key: int | None = None,
    sequence: int = -1,
    batch: int = 0,
) -> drawings.Product:
    one = _one(record, layer, sequence)
    weights = only_step(one, "figure('query-key')").weights
    head = index(head, "head", one.heads)
    call = part_of(weights, batch, head).call
    Tk = call.k.shape[2]
    i, j = _telling(one, head, batch, query, key)
    row = call.scores(slice(i, i + 1), slice(0, Tk))[0, 0, 0]
    row = row.masked_fill(~call.runs.take(torch.tensor([i])).mask(slice(0, 1), slice(0, Tk))[0, 0, 0], -math.inf)
    q, k = (x.double().cpu() for x in (call.q[0, 0, i], call.k[0, 0, j]))
    weight, lse = float(one.rows([i], head, batch)[0, j]), float(weights.lse[batch, head, i])
    score = float(row[j])
    parts = []
    if len(q):
        scaled = float(call.score(q[None, None, None], k[None, None, None], *call.score_weights)) * call.scale
        parts = [f"Σ q·k = {scaled / call.scale:.2f}", f"× {call.scale:.4g} = {scaled:.2f}"]
        capped = scaled if call.softcap is None else call.softcap * math.tanh(scaled / call.softcap)
        parts += [] if call.softcap is None else [f"softcap {call.softcap:g} = {capped:.2f}"]
        parts += [] if call.bias is None else [f"+ bias {score - capped:.2f} = {score:.2f}"]
    else:
        parts = [f"score = {score:.2f}"]
    told = f"{',  '.join(parts)};  e^({score:.3f} − {lse:.3f}) = {weight:.1%}".translate(SIGNS)
    texts = spelling.queries(one, batch)[i], spelling.keys(one, batch)[j]
    scores = row.double().cpu().numpy()
    return drawings.Product(q.numpy(), k.numpy(), scores, j, texts, _name(record, layer, head), told)


def _telling(layer: Layer, head: int, batch: int, query: int | None, key: int | None) -> tuple[int, int]:
    """The pair, and what of it is not said: the heaviest that is neither the first token nor the query's own."""
    keys, weights = (x[batch, head] for x in layer.top(3))
    own = torch.arange(len(keys)) + max(0, len(layer.keys(batch)) - len(keys))
    dull = (keys <= 0) | (keys == own[:, None].to(keys.device)) if layer.kind == "self" else keys <= 0
    if query is None:
        query = int(weights.masked_fill(dull, -1).amax(-1).argmax())
    i = index(query, "query", len(keys))
    if key is None:
        best = int(weights[i].masked_fill(dull[i], -1).argmax())
        key = max(0, int(keys[i, best]))
    j = index(key, "key", len(layer.keys(batch)))
    if float(layer.rows([i], head, batch)[0, j]) == 0.0:
        raise ClearheadError(f"figure('query-key'): query {i} puts no weight on key {j}; choose a key that it may see.")
    return i, j


def _roles(record: Record, layer: SupportsIndex | str, head: int) -> drawings.Roles:
    one = numbered(record, layer, "figure")[1]
    head = index(head, "head", one.heads)
    row = list(one.summary().rows(one.heads))[head]
    scores = [(role, row[role], row[f"{role}_uniform"]) for role in ROLES if math.isfinite(row[role])]
    if not scores:
        raise ClearheadError(f"figure('roles'): {one.name} has no role that this text gives a chance.")
    return drawings.Roles(scores, _name(record, layer, head))


def _similarity(record: Record, sequence: int = -1, batch: int = 0) -> Alike:
    return alike(record, sequence=sequence, batch=batch)


def _report(record: Record, sequence: int = -1, batch: int = 0) -> drawings.Report:
    best = [(role, row[0]) for role in ROLES if (row := strongest(record.heads(pandas=False), role, 1))]
    if not best:
        raise ClearheadError("figure('report'): this text gives no head a role to play, so there is nothing to report.")
    lines = [
        drawings.Best(role, f"{row['layer']}·{row['head']}", row[role], row[f"{role}_uniform"]) for role, row in best
    ]
    return drawings.Report(lines, alike(record, sequence=sequence, batch=batch))


def _patches(
    record: Record,
    layer: SupportsIndex | str,
    head: int,
    image: object = None,
    query: int | None = None,
    sequence: int = -1,
    batch: int = 0,
) -> drawings.Patches:
    if image is None:
        raise ClearheadError("figure('patches'): give image=, the picture that the model read, as page() takes it.")
    one = _one(record, layer, sequence)
    head = index(head, "head", one.heads)
    picture = opened(image)
    rows, columns, first = patches(one.lengths[1] - len(one.added), picture.width / picture.height)
    if query is None:
        query = 0 if first else rows // 2 * columns + columns // 2  # as the page has it
    query = index(query, "query", one.lengths[0])
    weights = one.rows([query], head, batch)[0, first : first + rows * columns].reshape(rows, columns)
    cell = divmod(query - first, columns) if query >= first else None
    return drawings.Patches(np.asarray(picture), weights.double().cpu().numpy(), cell, _name(record, layer, head))


def _compare(record: Record, other: Record | None = None, by: str | None = None, top: int = 20) -> drawings.Compared:
    if other is None:
        raise ClearheadError("figure('compare'): give other=, the record of the run to compare this one with.")
    return compared(Comparison(record, other), by, top)


def compared(comparison: Comparison, by: str | None, top: int) -> drawings.Compared:
    """What changed between two runs: the size of each head's change, and from what to what in the `top` of them."""
    if top < 1:
        raise ClearheadError(f"figure('compare'): got top={top}, expected how many heads to list, 1 or more.")
    by = by or comparison.by
    rows = comparison.heads(by, pandas=False)
    column = by if by in ("js_distance", "change") else f"{by}_change"
    sizes = np.full((1 + max(row["layer"] for row in rows), 1 + max(row["head"] for row in rows)), math.nan)
    listed: list[drawings.Change] = []
    for row in rows:
        sizes[row["layer"], row["head"]] = abs(row[column])
        changed = row["most"] if by in ("js_distance", "change") else by
        if changed is not None and math.isfinite(row[column]) and len(listed) < top:
            name = f"{row['layer']}·{row['head']}"
            listed.append(drawings.Change(name, changed, row[f"{changed}_a"], row[f"{changed}_b"]))
    return drawings.Compared(sizes, by, listed)


def _one(record: Record, layer: SupportsIndex | str, sequence: int) -> Layer:
    return numbered(record, layer, "figure")[1].sequence(sequence)


def _name(record: Record, layer: SupportsIndex | str, head: int) -> str:
    number, whole = numbered(record, layer, "figure")
    return f"layer {number}, head {head} ({whole.name})"


KINDS: dict[str, Callable[..., Any]] = {
    "head": _lines,
    "map": _map,
    "model": _model,
    "query-key": _product,
    "roles": _roles,
    "report": _report,
    "similarity": _similarity,
    "patches": _patches,
    "compare": _compare,
}
"""What there are figures of."""
