"""Roles: what a head looks for, as pairs (query, key) that the text alone decides.

A head's score for a role is the mean, over the queries that have a visible target, of the weight it puts on
their targets; beside it stands what a uniform head would score: the mean of (visible targets) / (visible
keys) over the same queries.

| role | target of query i | first given in |
|---|---|---|
| previous_token | i − 1 | Vig & Belinkov 2019; Clark et al. 2019 |
| first_token | the first token: a sink, if strong | Xiao et al. 2023 |
| self_token | i | Clark et al. 2019 |
| duplicate_token | every earlier token that is the same as i's | Wang et al. 2022 (IOI) |
| induction | the token after every earlier same token (+1) | Elhage et al. 2021 |
| delimiter | the nearest other delimiter that i may see | Clark et al. 2019 |
| induction_before | the token *before* every earlier same token (−1) | Olsson et al. 2022 |

The two inductions are two papers' words for one behaviour: Olsson et al.'s prefix-matching score averages the
weight on "the tokens which preceded the same token in earlier repeats"; most software since, and our
`induction`, means the one that came after it, which is what the head copies.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clearhead.attend.runs import Runs


@dataclass(frozen=True, eq=False)
class Text:
    """One text as a self-attention sees it: Tk tokens, of which the last Tq (from `past` on) are queries."""

    ids: Int[Tensor, " Tk"]
    real: Bool[Tensor, " Tk"]
    """Which tokens are no padding."""
    delimiter: Bool[Tensor, " Tk"] | None
    """Which tokens end or part something (. , ; [SEP] …), or None where nobody can say."""
    past: int
    runs: Runs
    """Who may see whom, of this text alone: (1, H or 1, Tq, R)."""

    @property
    def positions(self) -> Int[Tensor, " Tq"]:
        """The queries' positions among the keys."""
        return torch.arange(self.past, len(self.ids), device=self.ids.device)


Pairs = Iterator[tuple[Tensor, Tensor]]
"""Positions (i, j), query at i, its target at j, each pair once: some at a time, for repeats can be many."""

PAIRS_AT_A_TIME = 2**16


def previous_token(text: Text) -> Pairs:
    """j = i − 1."""
    i = text.positions[text.positions > 0]
    yield i, i - 1


def first_token(text: Text) -> Pairs:
    """j is the first token that is no padding; it is no target of its own."""
    start = int(text.real.int().argmax())
    i = text.positions[text.positions > start]
    yield i, torch.full_like(i, start)


def self_token(text: Text) -> Pairs:
    """j = i."""
    yield text.positions, text.positions


def duplicate_token(text: Text) -> Pairs:
    """j < i with the same token."""
    ids = text.ids.masked_fill(~text.real, -1)
    order = ids.argsort(stable=True)  # same tokens side by side, in the order of the text
    token = ids[order]
    most = int(token.unique_consecutive(return_counts=True)[1].max()) if len(ids) else 0
    lags = max(1, PAIRS_AT_A_TIME // max(len(ids), 1))
    for start in range(1, most, lags):
        later, earlier = [], []
        for lag in range(start, min(start + lags, most)):
            same = token[lag:] == token[:-lag]
            later.append(order[lag:][same])
            earlier.append(order[:-lag][same])
        i, j = torch.cat(later), torch.cat(earlier)
        ours = (i >= text.past) & text.real[i]
        yield i[ours], j[ours]


def induction(text: Text) -> Pairs:
    """j − 1 < i − 1 with the same token at j − 1 as at i: what followed it the last times."""
    for i, earlier in duplicate_token(text):
        after = earlier + 1 < i  # of "the the", the second is not its own successor's target
        yield i[after], earlier[after] + 1


def induction_before(text: Text) -> Pairs:
    """The same token at j + 1 as at i: Olsson et al.'s words."""
    for i, earlier in duplicate_token(text):
        yield i[earlier > 0], earlier[earlier > 0] - 1


def delimiter(text: Text) -> Pairs:
    """j ≠ i is the nearest delimiter that i may see, before it if two are as near."""
    if text.delimiter is None or not bool(text.delimiter.any()):
        return
    marks = text.delimiter.nonzero()[:, 0]
    i = text.positions
    at = torch.searchsorted(marks, i)
    following = torch.searchsorted(marks, i, right=True)
    before, after = marks[(at - 1).clamp(min=0)], marks[following.clamp(max=len(marks) - 1)]

    def seen(j: Tensor, exists: Tensor) -> Tensor:
        return exists & text.runs.sees(i - text.past, j)[0].any(0)

    has_before, has_after = seen(before, at > 0), seen(after, following < len(marks))
    ahead = has_after & (~has_before | (after - i < i - before))
    found = has_before | has_after
    yield i[found], torch.where(ahead, after, before)[found]


ROLES: dict[str, Callable[[Text], Pairs]] = {
    "previous_token": previous_token,
    "first_token": first_token,
    "self_token": self_token,
    "duplicate_token": duplicate_token,
    "induction": induction,
    "delimiter": delimiter,
    "induction_before": induction_before,
}
