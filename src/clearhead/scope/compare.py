"""Comparison: what changed between two records, head by head, the largest differences first."""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.alike import js_distance
from clearhead.scope.columns import COUNTS, NAMES, STDERR
from clearhead.scope.layer import Layer, Step
from clearhead.scope.moments import student
from clearhead.scope.record import Record
from clearhead.scope.summary import Summary

ROWS = 256
"""On how many queries of a text, evenly spaced, the rows of two heads are compared unless said."""
WEIGHTS_AT_A_TIME = 2**20
"""So many of each record's weights are made at once: 8 MiB in float64."""

SHARES = ("entropy_normalised", "peak")
"""Statistics that lie between 0 and 1, as roles do, so that their differences can be set beside each other. `sink`
is none of them: it counts queries beyond a threshold, so that of a short text one query changes it by much."""
ROUNDING = 1e-5
"""Up to which two numbers are the same, relative to 1 or to their size if that is more."""


class Comparison:
    """Two records of one architecture, `a` and `b`: a fine-tune and its base on one text, or one model on two texts.

    Every statistic and role is compared by its mean, as `Record.heads` has it. Where both records keep q and k
    (`keep="qk"`) and read as many tokens, the heads' rows are compared too, position by position, by the
    Jensen–Shannon distance: the square root of the divergence, to base 2, which is 0 where two rows are the same and
    1 where they share no key. Given is its mean over `rows` evenly spaced queries of each text, or over all if
    there are no more. Queries that are padding, or that see no key, are left out. So a minimal pair, two texts of
    as many tokens that differ in one word, shows which heads the word changes; `differing` counts such tokens.

    A change of a mean has a 95 % confidence interval, Welch's: the queries of both are taken as drawn at random,
    independently. Heads are sorted by the part of the change that is certain, |change| less half the interval, so
    that means of few queries don't come first by chance.

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
        self.differing, self.tokens = _differing(a, b)
        """How many of the tokens compared are different ones in the two, and how many were."""
        tables = iter(zip(a.heads(pandas=False), b.heads(pandas=False), strict=True))
        self._heads = []
        for one, other in zip(a.layers, b.layers, strict=True):
            summaries = one.summary(), other.summary()
            for head, apart in enumerate(self._apart(one, other, rows)):
                self._heads.append(_changes(next(tables), summaries, head, apart))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._heads)} heads in {len(self.a)} layers)"

    def heads(self, by: str | None = None, *, pandas: bool | None = None) -> Any:
        """A table with one row a head, those that differ most first.

        | column | is |
        |---|---|
        | layer, name, kind, head | which head |
        | js_distance, js_distance_stderr | how far its rows differ, and the standard error of that mean; NaN where |
        | | the rows could not be compared (`without_rows` says why) |
        | most | of the roles and the other continuous shares, the one that changed most for certain |
        | change, change_low, change_high | by how much, and the ends of the interval |
        | `<column>_a`, `<column>_b` | the means of each column of `Record.heads` |
        | `<column>_change`, `…_change_low`, `…_change_high` | b − a, and the ends of its interval |
        | `<column>_queries_a`, `<column>_queries_b` | over how many queries these are means |

        NaN is what has no number in one of the two; an interval of fewer than two queries is NaN too. What a uniform
        head scores is known, not measured, and has no interval; nor has `max_score`, which is no mean.

        Args:
            by: what to sort by: "js_distance", "change", or a column of `Record.heads`, by the part of its change
                that is certain. Unless said, js_distance, or change where there is none.
            pandas: a DataFrame or a list of dicts; a DataFrame unless said, where pandas is installed.
        """
        by = by or self.by
        column = by if by in ("js_distance", "change") else f"{by}_change"
        if column not in self._heads[0]:
            raise ClearheadError(f"compare: got by = {by!r}, expected one of {', '.join(self.columns)}.")
        rows = sorted(self._heads, key=lambda row: certain(row, column), reverse=True)
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

    @property
    def unchanged(self) -> bool:
        """Whether every number of every head is the same in the two, up to rounding, and so are the rows compared."""
        return all(
            not row["js_distance"] > ROUNDING
            and all(_same_number(row[f"{column}_a"], row[f"{column}_b"]) for column in self.columns[2:])
            for row in self._heads
        )

    def nothing(self) -> str | None:
        """A sentence where nothing changed; None where something did."""
        return (
            f"Nothing changed: all {len(self._heads)} heads have the same numbers in both." if self.unchanged else None
        )

    def _apart(self, a: Layer, b: Layer, rows: int) -> "list[_Apart]":
        """The mean distance of each head's rows in the two; NaN where they can't be compared."""
        if self.without_rows:
            return [_Apart(math.nan, math.nan)] * a.heads
        total, squares = torch.zeros(2, a.heads, dtype=torch.float64)
        self.rows = self.of = 0
        for n in range(len(a.sequences)):
            one, other = a.sequence(n), b.sequence(n)
            _, Tk = one.lengths
            for batch in range(one.steps[0].shape[0]):
                queries = (_counted(one, batch) & _counted(other, batch)).nonzero()[:, 0]
                sample = queries[torch.linspace(0, len(queries) - 1, min(rows, len(queries))).long()]
                for some in sample.split(max(WEIGHTS_AT_A_TIME // (a.heads * Tk), 1)):
                    distance = js_distance(_rows(one, some, batch), _rows(other, some, batch)).cpu()
                    total += distance.sum(1)
                    squares += distance.square().sum(1)
                self.rows += len(sample)
                self.of += len(queries)
        compared = torch.tensor(float(self.rows))  # of 0 all is NaN, of 1 the error
        mean = total / compared
        error = ((squares / compared - mean.square()).clamp(min=0) / (compared - 1)).sqrt()
        return [_Apart(*one) for one in zip(mean.tolist(), error.tolist(), strict=True)]


class _Apart(NamedTuple):
    """How far a head's rows differ: the mean distance, and its standard error."""

    distance: float
    error: float


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
        if not all(map(_same_size, one.steps, other.steps)):
            return "the two did not read as many tokens"
    if "statistics" in (a.keep, b.keep):
        return "a watch kept the statistics alone"
    return None


def _same_size(a: Step, b: Step) -> bool:
    """Whether both saw as many texts, queries and keys."""
    return (a.shape[0], *a.shape[2:]) == (b.shape[0], *b.shape[2:])


def _differing(a: Record, b: Record) -> tuple[int, int]:
    """At how many positions the two read different tokens, and of how many; as far as the tokens are known."""
    differing = tokens = 0
    for one, other in zip(a.layers[0].sequences, b.layers[0].sequences, strict=False):
        x, y = one[-1].ids_k, other[-1].ids_k
        if x is not None and y is not None and x.shape == y.shape:
            differing += int((x != y).sum())
            tokens += x.numel()
    return differing, tokens


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


def _changes(
    tables: tuple[Mapping[str, Any], Mapping[str, Any]], summaries: tuple[Summary, Summary], head: int, apart: _Apart
) -> dict[str, Any]:
    """One head's row of the comparison, from its rows of the two tables."""
    (a, b), (of_a, of_b) = tables, summaries
    columns = [column for column in a if column not in (*NAMES, *COUNTS, *STDERR)]
    changes: dict[str, Any] = {}
    for column in columns:
        change = b[column] - a[column]
        changes |= {f"{column}_a": a[column], f"{column}_b": b[column], f"{column}_change": change}
        if column != "max_score" and not column.endswith("_uniform"):
            half = _half(column, head, of_a, of_b)
            changes |= {f"{column}_change_low": change - half, f"{column}_change_high": change + half}
        changes |= {f"{column}_queries_{end}": of.queries(column) for end, of in (("a", of_a), ("b", of_b))}
    shares = [column for column in columns if f"{column}_uniform" in columns or column in SHARES]
    most = max(shares, key=lambda column: certain(changes, f"{column}_change"))
    known = not math.isnan(changes[f"{most}_change"])
    return {
        **{name: a[name] for name in NAMES},
        "js_distance": apart.distance,
        "js_distance_stderr": apart.error,
        "most": most if known else None,
        **{f"change{end}": changes[f"{most}_change{end}"] for end in ("", "_low", "_high")},
        **changes,
    }


def _half(column: str, head: int, a: Summary, b: Summary) -> float:
    """Half the 95 % confidence interval of the difference of two means, by Welch; NaN of fewer than two queries."""
    ns = [summary.queries(column) for summary in (a, b)]
    if min(ns) < 2:
        return math.nan
    variances = [float(summary.standard_error(column)[head]) ** 2 for summary in (a, b)]
    both = sum(variances)
    if not both > 0:  # 0, or NaN
        return both
    freedom = both**2 / sum(variance**2 / (n - 1) for variance, n in zip(variances, ns, strict=True))
    return student(max(int(freedom), 1)) * math.sqrt(both)


def certain(row: Mapping[str, Any], column: str) -> tuple[int, float]:
    """By which the largest change comes first: its size, less half its interval where it has one.

    Behind all others is what has no interval for having too few queries, and at the end what is no number.
    """
    change = row[column]
    if math.isnan(change):
        return 0, 0.0
    half = (row.get(f"{column}_high", change) - row.get(f"{column}_low", change)) / 2
    return (1, abs(change)) if math.isnan(half) else (2, abs(change) - half)


def _same_number(a: float, b: float) -> bool:
    return abs(a - b) <= ROUNDING * max(1.0, abs(a)) or (math.isnan(a) and math.isnan(b))
