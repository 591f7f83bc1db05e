"""A summary of heads: sums over queries, which add up over texts, steps and machines."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.scope.roles import ROLES, Text
from clearhead.scope.weights import Weights

MEANS = ("entropy", "entropy_normalised", "peak", "distance", "lse")
COLUMNS = (
    *("queries", "entropy", "entropy_normalised", "peak", "distance", "max_score", "lse"),
    *(column for role in ROLES for column in (role, f"{role}_uniform")),
)
"""The columns of the head table that a summary gives, in their order."""


@dataclass(eq=False)
class Summary:
    """For every head of one attention: the sum and the number of what each column is the mean of."""

    sums: dict[str, Float[Tensor, " H"]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    max_score: Float[Tensor, " H"] | None = None

    def _add(self, column: str, values: Float[Tensor, "H n"]) -> None:
        total = values.sum(1, dtype=torch.float64)
        self.sums[column] = self.sums.get(column, 0) + total
        self.counts[column] = self.counts.get(column, 0) + values.shape[1]

    def __iadd__(self, other: "Summary") -> "Summary":
        for column, total in other.sums.items():
            self.sums[column] = self.sums.get(column, 0) + total
            self.counts[column] = self.counts.get(column, 0) + other.counts[column]
        if other.max_score is not None:
            mine = other.max_score if self.max_score is None else self.max_score
            self.max_score = torch.maximum(mine, other.max_score)
        return self

    @classmethod
    def of(
        cls,
        weights: Weights,
        ids: Int[Tensor, "B Tk"] | None,
        real: Bool[Tensor, "B Tk"] | None,
        delimiters: set[int] | None,
        valid: Bool[Tensor, "B Tq"] | None,
    ) -> "Summary":
        """Of one call: the statistics of its valid queries, and the roles where the tokens are known."""
        summary = cls()
        B, H, Tq, Tk = weights.shape
        seen = weights.statistics
        for b in range(B):
            visible = seen.visible[b]
            counted = (visible > 0).all(0)  # a query that may see nothing says nothing of its head
            if valid is not None:
                counted &= valid[b]
            for column in MEANS:
                rows = counted & (visible > 1).all(0) if column == "entropy_normalised" else counted
                summary._add(column, getattr(seen, column)[b][:, rows])
            highest = seen.max_score[b][:, counted]
            if highest.shape[1]:
                summary += cls(max_score=highest.amax(1))
            if ids is not None:
                text = _text(weights, ids[b], None if real is None else real[b], delimiters, b)
                summary._add_roles(weights, text, counted, b)
        return summary

    def _add_roles(self, weights: Weights, text: Text, counted: Bool[Tensor, " Tq"], b: int) -> None:
        H = weights.shape[1]
        visible = weights.statistics.visible[b].double()
        for role, targets in ROLES.items():
            on_targets = visible.new_zeros(H, len(counted))
            targets_seen = torch.zeros_like(on_targets)
            for i, j in targets(text):
                row = i - text.past
                keep = counted[row] & text.real[j]
                row, j = row[keep], j[keep]
                on_targets.index_add_(1, row, weights.at(row, j, b).double())
                targets_seen.index_add_(1, row, text.runs.sees(row, j)[0].expand(H, -1).double())
            # Heads of one layer may see different keys; a query counts where every head sees a target.
            with_target = (targets_seen > 0).all(0)
            self._add(role, on_targets[:, with_target])
            self._add(f"{role}_uniform", (targets_seen / visible.clamp(min=1))[:, with_target])

    def rows(self, heads: int) -> Iterator[dict[str, float]]:
        """One row a head: the means, NaN where nothing was counted."""
        for h in range(heads):
            row: dict[str, float] = {}
            for column in COLUMNS:
                if column == "queries":
                    row[column] = self.counts.get("entropy", 0)
                elif column == "max_score":
                    row[column] = float("nan") if self.max_score is None else float(self.max_score[h])
                else:
                    count = self.counts.get(column, 0)
                    row[column] = float(self.sums[column][h]) / count if count else float("nan")
            yield row


def _text(weights: Weights, ids: Tensor, real: Tensor | None, delimiters: set[int] | None, b: int) -> Text:
    real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
    marks = None
    if delimiters is not None:
        marks = torch.isin(ids, torch.tensor(sorted(delimiters), device=ids.device, dtype=ids.dtype)) & real
    runs = weights.call.runs
    one = runs if runs.start.shape[0] == 1 else type(runs)(runs.start[b : b + 1], runs.stop[b : b + 1], runs.keys)
    return Text(ids, real, marks, weights.call.past, one)
