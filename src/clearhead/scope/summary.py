"""A summary of heads: sums over queries, which add up over texts, steps and machines."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.attend.statistics import Statistics
from clearhead.scope.aims import of_text, read
from clearhead.scope.columns import COLUMNS, COUNTS, STDERR
from clearhead.scope.sampled import effective_context, variance_of_mean
from clearhead.scope.weights import Weights
from clearhead.scope.words import Kinds

MEANS = ("entropy", "entropy_normalised", "peak", "distance", "lse")
SINK = 0.3
"""How much weight on the first token makes it a query's sink: the threshold of Gu et al. 2024."""


@dataclass(eq=False)
class Summary:
    """For every head of one attention: the sum and the number of what each column is the mean of."""

    sums: dict[str, Float[Tensor, " H"]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    max_score: Float[Tensor, " H"] | None = None
    squares: dict[str, Float[Tensor, " H"]] = field(default_factory=dict)
    """The sums of the squares."""
    variances: dict[str, Float[Tensor, " H"]] = field(default_factory=dict)
    """Of the sums that are estimated from a sample of the queries."""

    def _add(self, column: str, values: Float[Tensor, "#H n"], heads: int, queries: int | None = None) -> None:
        """Adds the values of n queries, which stand for so many: n unless given."""
        queries = values.shape[1] if queries is None else queries
        values = values.double()
        each = queries / max(values.shape[1], 1)
        for sums, of_these in ((self.sums, values), (self.squares, values.square())):
            sums[column] = sums.get(column, 0) + (each * of_these.sum(1)).expand(heads)
        self.counts[column] = self.counts.get(column, 0) + queries

    def __iadd__(self, other: "Summary") -> "Summary":
        for name in ("sums", "squares", "counts", "variances"):
            mine = getattr(self, name)
            for column, total in getattr(other, name).items():
                mine[column] = mine.get(column, 0) + total
        if other.max_score is not None:
            mine = other.max_score if self.max_score is None else self.max_score
            self.max_score = torch.maximum(mine, other.max_score)
        return self

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        weights: Weights,
        ids: Int[Tensor, "B Tk"] | None,
        real: Bool[Tensor, "B Tk"] | None,
        kinds: Kinds | None,
        valid: Bool[Tensor, "B Tq"] | None,
    ) -> "Summary":
        """Of one call: the statistics of its valid queries, and the roles where the tokens are known."""
        summary = cls()
        B, H, _, _ = weights.shape
        call = weights.call
        for b, aims in enumerate(read(call.runs, call.past, ids, real, valid, kinds, B)):
            one = of_text(call, b)
            seen = Statistics(**{f.name: getattr(weights.statistics, f.name)[b : b + 1] for f in fields(Statistics)})
            for column in MEANS:
                counted = aims.several if column == "entropy_normalised" else aims.counted
                summary._add(column, _those(counted, getattr(seen, column)[0]), H)
            highest = _those(aims.counted, seen.max_score[0])
            if highest.shape[1]:
                summary += cls(max_score=highest.amax(1))
            queries = int(aims.counted.sum())
            context = effective_context(one, seen, aims.sample)
            variance = queries**2 * variance_of_mean(context, queries)
            summary._add("effective_context", context, H, queries)
            summary._add("sampled", context.new_ones(1, context.shape[1]), H)
            summary += cls(variances={"effective_context": variance})
            for role, (weight, uniform) in aims.weights(one, seen).items():
                summary._add(role, weight, H)
                summary._add(f"{role}_uniform", uniform, H)
                if role == "first_token":
                    summary._add("sink", (weight > SINK).to(weight).masked_fill(weight.isnan(), torch.nan), H)
        return summary

    def queries(self, column: str) -> int:
        """From how many queries a column's number comes."""
        return self.counts.get({"effective_context": "sampled", "max_score": "entropy"}.get(column, column), 0)

    def standard_error(self, column: str) -> Float[Tensor, " H"]:
        """Of each head's mean over queries, as if they were drawn at random from all such; NaN of fewer than two."""
        n, total = self.queries(column), self.sums[column]
        if n < 2:
            return torch.full_like(total, torch.nan)
        mean = total / self.counts[column]
        variance = (self.squares[column] / self.counts[column] - mean.square()).clamp(min=0) * n / (n - 1)
        return (variance / n).sqrt()

    def rows(self, heads: int) -> Iterator[dict[str, float]]:
        """One row a head: the means, NaN where nothing was counted."""
        for h in range(heads):
            row: dict[str, float] = {}
            for column in COLUMNS:
                if column in COUNTS:
                    row[column] = self.counts.get(COUNTS[column], 0)
                elif column in STDERR:
                    of, count = STDERR[column], self.counts.get(STDERR[column], 0)
                    row[column] = float(self.variances[of][h]) ** 0.5 / count if count else float("nan")
                elif column == "max_score":
                    row[column] = float("nan") if self.max_score is None else float(self.max_score[h])
                else:
                    count = self.counts.get(column, 0)
                    row[column] = float(self.sums[column][h]) / count if count else float("nan")
            yield row


def _those(counted: Bool[Tensor, " Tq"], values: Float[Tensor, "H Tq"]) -> Float[Tensor, "H n"]:
    """The values of the queries that count; mostly all do."""
    return values if bool(counted.all()) else values[:, counted]
