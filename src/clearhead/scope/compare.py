"""Comparison: what changed between two records, head by head, the largest differences first."""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.alike import js_distance
from clearhead.scope.layer import Layer, Step
from clearhead.scope.record import Record

ROWS = 256
"""On how many queries of a text, evenly spaced, the rows of two heads are compared unless said."""
WEIGHTS_AT_A_TIME = 2**20
"""So many of each record's weights are made at once: 8 MiB in float64."""

NAMES = ("layer", "name", "kind", "head")
COUNTS = ("queries", "sampled")
"""Columns of the head table that count what the others are means of."""
SHARES = ("entropy_normalised", "peak", "sink")
"""Statistics that lie between 0 and 1, as roles do, so that their differences can be set beside each other."""


class Comparison:
    """Two records of one architecture, `a` and `b`: a fine-tune and its base on one text, or one model on two texts.

    Every statistic and role is compared by its mean, as `Record.heads` has it. Where both records keep q and k
    (`keep="qk"`) and read the same tokens, the heads' rows are compared too, query by query, by the
    Jensen–Shannon distance: the square root of the divergence, to base 2, which is 0 where two rows are the same and
    1 where they share no key. Given is its mean over `rows` evenly spaced queries of each text, or over all if
    there are no more. Queries that are padding, or that see no key, are left out.

    Layers are matched by their order, so that a model with a head on top can be compared with one without.

    Raises:
        ClearheadError: other numbers of layers or of heads, or attentions of another kind.

    >>> import clearhead as ch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> def seen(x):
    ...     with ch.watch(layer) as record:
    ...         _ = layer(x)
    ...     return record
    >>> x = torch.randn(1, 5, 16)
    >>> same = Comparison(seen(x), seen(x)).heads(pandas=False)
    >>> [row["js_distance"] for row in same]
    [0.0, 0.0]
    """

    def __init__(self, a: Record, b: Record, *, rows: int = ROWS) -> None:
        if rows < 1:
            raise ClearheadError(f"compare: got rows = {rows}, expected at least 1.")
        _refuse_unlike(a, b)
        self.a, self.b = a, b
        self.without_rows = _why_not_rows(a, b)
        """Why the heads' rows could not be compared; None if they were."""
        self.rows = self.of = 0
        """On how many queries the heads' rows were compared, and how many there were, in one layer."""
        distances = [distance for pair in zip(a.layers, b.layers, strict=True) for distance in self._apart(*pair, rows)]
        both = zip(a.heads(pandas=False), b.heads(pandas=False), distances, strict=True)
        self._heads = [_changes(*one) for one in both]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._heads)} heads in {len(self.a)} layers)"

    def heads(self, by: str | None = None, *, pandas: bool | None = None) -> Any:
        """A table with one row a head, those that differ most first.

        The columns are layer, name, kind, head; `js_distance`, NaN where the rows could not be compared
        (`without_rows` says why); `most` and `change`: of the roles and the other shares the one that changed
        most, and by how much; then for each column of `Record.heads` its `<column>_a`, `<column>_b` and their
        difference, `<column>_change`. NaN is what has no number in one of the two.

        Args:
            by: what to sort by: "js_distance", "change", or a column of `Record.heads`, by the size of its change.
                Unless said, js_distance, or change where there is none.
            pandas: a DataFrame or a list of dicts; a DataFrame unless said, where pandas is installed.
        """
        by = by or self.by
        column = by if by in ("js_distance", "change") else f"{by}_change"
        if column not in self._heads[0]:
            raise ClearheadError(f"compare: got by = {by!r}, expected one of {', '.join(self.columns)}.")
        rows = sorted(self._heads, key=lambda row: _size(row[column]), reverse=True)
        if pandas is None:
            pandas = importlib.util.find_spec("pandas") is not None
        if not pandas:
            return rows
        from pandas import DataFrame  # optional, and slow to import

        return DataFrame(rows)

    @property
    def by(self) -> str:
        """What heads are sorted by unless one says otherwise."""
        return "change" if self.without_rows else "js_distance"

    @property
    def columns(self) -> list[str]:
        """All that heads can be sorted by."""
        changes = (column.removesuffix("_change") for column in self._heads[0] if column.endswith("_change"))
        return ["js_distance", "change", *changes]

    def _apart(self, a: Layer, b: Layer, rows: int) -> list[float]:
        """The mean distance of each head's rows in the two; NaN where they can't be compared."""
        if self.without_rows:
            return [math.nan] * a.heads
        total, self.rows, self.of = torch.zeros(a.heads, dtype=torch.float64), 0, 0
        for n in range(len(a.sequences)):
            one, other = a.sequence(n), b.sequence(n)
            _, Tk = one.lengths
            for batch in range(one.steps[0].shape[0]):
                queries = (_counted(one, batch) & _counted(other, batch)).nonzero()[:, 0]
                sample = queries[torch.linspace(0, len(queries) - 1, min(rows, len(queries))).long()]
                for some in sample.split(max(WEIGHTS_AT_A_TIME // (a.heads * Tk), 1)):
                    total += js_distance(_rows(one, some, batch), _rows(other, some, batch)).sum(1).cpu()
                self.rows += len(sample)
                self.of += len(queries)
        return (total / self.rows).tolist() if self.rows else [math.nan] * a.heads


def _refuse_unlike(a: Record, b: Record) -> None:
    if not a.layers or not b.layers:
        raise ClearheadError("compare: one of the two records saw nothing; run the model in the with block first.")
    if len(a) != len(b):
        raise ClearheadError(
            f"compare: the first has {len(a)} layers, the second {len(b)}; expected two models of one architecture."
        )
    for number, (one, other) in enumerate(zip(a.layers, b.layers, strict=True)):
        if (one.heads, one.kind) != (other.heads, other.kind):
            raise ClearheadError(
                f"compare: layer {number} is a {one.kind}-attention of {one.heads} heads in the first and a "
                f"{other.kind}-attention of {other.heads} in the second; expected two models of one architecture."
            )


def _why_not_rows(a: Record, b: Record) -> str | None:
    """Why no row of one has its like in the other; None if all have."""
    for one, other in zip(a.layers, b.layers, strict=True):
        if [len(steps) for steps in one.sequences] != [len(steps) for steps in other.sequences]:
            return "the two did not read as many texts, in as many steps"
        if not all(map(_same_tokens, one.steps, other.steps)):
            return "the two read different tokens"
    if "statistics" in (a.keep, b.keep):
        return "a watch kept the statistics alone"
    return None


def _same_tokens(a: Step, b: Step) -> bool:
    """Whether both saw as many queries and keys, and, where tokens are known, the same."""
    if (a.shape[0], *a.shape[2:]) != (b.shape[0], *b.shape[2:]):
        return False
    pairs = ((a.ids_q, b.ids_q), (a.ids_k, b.ids_k))
    return all(one is None or other is None or torch.equal(one, other) for one, other in pairs)


def _counted(layer: Layer, batch: int) -> Bool[Tensor, " Tq"]:
    """Which queries are no padding, and see some key in every head."""
    sees = (layer.statistics.visible[batch] > 0).all(0)
    real = layer.steps[-1].real
    if real is not None and layer.kind == "self":
        sees &= real[batch, -len(sees) :]
    return sees.cpu()


def _rows(layer: Layer, i: Int[Tensor, " n"], batch: int) -> Float[Tensor, "H n Tk"]:
    """The rows of the queries i, that sum to 1 in float64 too. What a sink takes of a row is one key more."""
    w = layer.rows(i, batch=batch).double()
    sinks = any(step.call is not None and step.call.sinks is not None for step in layer.steps)
    return torch.cat([w, 1 - w.sum(-1, keepdim=True)], -1).clamp(min=0) if sinks else w / w.sum(-1, keepdim=True)


def _changes(a: Mapping[str, Any], b: Mapping[str, Any], distance: float) -> dict[str, Any]:
    """One head's row of the comparison."""
    columns = [column for column in a if column not in (*NAMES, *COUNTS)]
    change = {column: b[column] - a[column] for column in columns}
    shares = [column for column in columns if f"{column}_uniform" in columns or column in SHARES]
    most = max(shares, key=lambda column: _size(change[column]))
    row = {name: a[name] for name in NAMES}
    row |= {"js_distance": distance, "most": None if math.isnan(change[most]) else most, "change": change[most]}
    for column in columns:
        row |= {f"{column}_a": a[column], f"{column}_b": b[column], f"{column}_change": change[column]}
    return row


def _size(change: float) -> float:
    """By which the largest comes first, and what is no number last."""
    return -1.0 if math.isnan(change) else abs(change)
