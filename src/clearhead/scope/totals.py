"""Totals: what documents said of every attention of a model, in a form that adds up exactly."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearhead.scope.columns import COLUMNS, COUNTS, RANGES, STDERR, head_row
from clearhead.scope.moments import BITS, Moments
from clearhead.scope.summary import Summary


@dataclass(frozen=True, eq=False)
class Tally:
    """What documents said of one attention."""

    order: int
    """Its place among the model's attentions, as in `Layer`."""
    kind: str
    max_score: Sequence[float]
    """The largest score of each head, −inf where none was seen."""
    columns: Mapping[str, Moments]

    @staticmethod
    def of(order: int, kind: str, heads: int, summary: Summary) -> "Tally":
        """Of one document. Raises ValueError or OverflowError for a sum that is not finite."""
        top = [-math.inf] * heads if summary.max_score is None else summary.max_score.tolist()
        if any(math.isnan(score) for score in top):
            raise ValueError("a score is NaN")
        columns = {column: Moments.of(sums.tolist(), summary.counts[column]) for column, sums in summary.sums.items()}
        for of, variances in summary.variances.items():
            columns[f"{of}_stderr"] = Moments.of(variances.tolist(), summary.counts[of])
        return Tally(order, kind, top, columns)

    def __add__(self, other: "Tally") -> "Tally":
        top = [max(a, b) for a, b in zip(self.max_score, other.max_score, strict=True)]
        return Tally(self.order, self.kind, top, united(self.columns, other.columns))

    def rows(self) -> Iterator[dict[str, float]]:
        """One row a head: the columns of the head table, and beside each mean the ends of its interval."""
        order = {column: n for n, column in enumerate(COLUMNS)}
        columns = sorted({*COLUMNS, *self.columns}, key=lambda column: (order.get(column, len(order)), column))
        none = Moments.none(len(self.max_score))
        means = {c: list(self.columns.get(c, none).intervals(*RANGES.get(c, ()))) for c in columns}
        for head, score in enumerate(self.max_score):
            row: dict[str, float] = {}
            for column in columns:
                if column in COUNTS:
                    row[column] = self.columns.get(COUNTS[column], none).n
                elif column in STDERR:
                    variances = self.columns.get(column, none)
                    of_sum = math.sqrt(math.ldexp(variances.s[head], -BITS))
                    row[column] = of_sum / variances.n if variances.n else math.nan
                elif column == "max_score":
                    row[column] = score if score > -math.inf else math.nan
                else:
                    mean, low, high = means[column][head]
                    row |= {column: mean, f"{column}_low": low, f"{column}_high": high}
            yield row


@dataclass(frozen=True, eq=False)
class Totals:
    """What documents said of every attention, by the name of its module."""

    documents: int = 0
    tokens: int = 0
    layers: Mapping[str, Tally] = field(default_factory=dict)

    def __add__(self, other: "Totals") -> "Totals":
        layers = united(self.layers, other.layers)
        return Totals(self.documents + other.documents, self.tokens + other.tokens, layers)

    def rows(self) -> list[dict[str, Any]]:
        """The table of heads, in the order of the model's attentions."""
        # A module that attends several times has a layer for each, "name", "name#2", ...
        layers = sorted(self.layers.items(), key=lambda item: (item[1].order, len(item[0]), item[0]))
        return [
            head_row(number, head, tally.kind, name, row)
            for number, (name, tally) in enumerate(layers)
            for head, row in enumerate(tally.rows())
        ]

    def as_json(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        layers = {
            name: {
                "order": tally.order,
                "kind": tally.kind,
                "max_score": list(tally.max_score),
                "columns": {column: list(vars(moments).values()) for column, moments in tally.columns.items()},
            }
            for name, tally in self.layers.items()
        }
        return {"documents": self.documents, "tokens": self.tokens, "layers": layers}

    @staticmethod
    def of_json(told: Mapping[str, Any]) -> "Totals":
        """What `as_json` gave."""
        layers = {
            name: Tally(
                tally["order"],
                tally["kind"],
                [float(score) for score in tally["max_score"]],
                {
                    column: Moments.of_json(values, len(tally["max_score"]))
                    for column, values in tally["columns"].items()
                },
            )
            for name, tally in told["layers"].items()
        }
        return Totals(told["documents"], told["tokens"], layers)


def united(some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of both, and where both have one, their sum."""
    return {**some, **{name: some[name] + one if name in some else one for name, one in others.items()}}
