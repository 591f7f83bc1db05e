"""Roles: what a head looks for, as the keys that are each query's targets, which the text alone decides.

A head's score for a role is the mean, over the queries that have a visible target, of the weight it puts on
their targets; beside it stands what a uniform head would score: the mean of (visible targets) / (visible
keys) over the same queries.

| role | target of query i | first given in |
|---|---|---|
| previous_token | i − 1 | Vig & Belinkov 2019; Clark et al. 2019 |
| next_token | i + 1 | Clark et al. 2019 |
| first_token | the first token: a sink, if strong | Xiao et al. 2023 |
| self_token | i | Clark et al. 2019 |
| duplicate_token | every earlier token that is the same as i's | Wang et al. 2022 (IOI) |
| induction | the token after every earlier same token (+1) | Elhage et al. 2021 |
| delimiter | the nearest other delimiter that i may see | Clark et al. 2019 |
| induction_before | the token *before* every earlier same token (−1) | Olsson et al. 2022 |
| special_tokens | every special token: [CLS], [SEP], <s> … | Clark et al. 2019 |
| punctuation | every token that is punctuation | Clark et al. 2019 |

The two inductions are two papers' words for one behaviour: Olsson et al.'s prefix-matching score averages the
weight on "the tokens which preceded the same token in earlier repeats"; most software since, and our
`induction`, means the one that came after it, which is what the head copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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
    past: int
    runs: Runs
    """Who may see whom, of this text alone: (1, H or 1, Tq, R)."""
    delimiter: Bool[Tensor, " Tk"] | None = None
    """Which tokens end or part something (. , ; [SEP] …), or None where nobody can say."""
    special_tokens: Bool[Tensor, " Tk"] | None = None
    """Which tokens are no text at all ([CLS], [SEP], <s> …), or None where nobody can say."""
    punctuation: Bool[Tensor, " Tk"] | None = None
    """Which tokens are punctuation and nothing else, or None where nobody can say."""

    @property
    def positions(self) -> Int[Tensor, " Tq"]:
        """The queries' positions among the keys."""
        return torch.arange(self.past, len(self.ids), device=self.ids.device)

    @cached_property
    def numbers(self) -> Int[Tensor, " Tk"]:
        """The tokens, numbered from 0 on."""
        numbers: Tensor = self.ids.unique(return_inverse=True)[1]
        return numbers


@dataclass(frozen=True, eq=False)
class Repeats:
    """For each query the keys of its group before position `high`, such as those by an earlier copy of its token.

    `keys` are listed group by group, those of one group in the order of the text, so that the targets of any
    query that it may see are a few runs of the list: as few as the runs of keys that it may see.
    """

    keys: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]
    group: Int[Tensor, " Tq"]
    high: Int[Tensor, " Tq"]

    def seen(self, visible: Runs) -> Runs:
        """The targets that each query may see, as runs of `keys`."""
        size = visible.keys + 1
        place = self.groups * size + self.keys  # ascending
        base, high = (self.group * size)[:, None], self.high[:, None]
        start, stop = (
            torch.searchsorted(place, base + torch.minimum(side, high)) for side in (visible.start, visible.stop)
        )
        return Runs.of(start, stop, len(self.keys))


def _repeats(text: Text, after: int, high: Int[Tensor, " Tq"]) -> Repeats:
    """The keys below `high` that lie `after` tokens behind a token that is the same as the query's."""
    j = torch.arange(len(text.ids), device=text.ids.device)
    j = j[(j - after >= 0) & (j - after < len(j))]
    j = j[text.real[j - after] & text.real[j]]
    groups = text.numbers[j - after]
    order = groups.argsort(stable=True)
    return Repeats(j[order], groups[order], text.numbers[text.positions], high)


def duplicate_token(text: Text) -> Repeats:
    """j < i with the same token."""
    return _repeats(text, 0, text.positions)


def induction(text: Text) -> Repeats:
    """j − 1 < i − 1 with the same token at j − 1 as at i: what followed it the last times."""
    return _repeats(text, 1, text.positions)  # of "the the", the second is not its own successor's target


def induction_before(text: Text) -> Repeats:
    """The same token at j + 1 < i as at i: Olsson et al.'s words."""
    return _repeats(text, -1, (text.positions - 1).clamp(min=0))


def special_tokens(text: Text) -> Repeats:
    """Every special token."""
    return _marked(text, text.special_tokens)


def punctuation(text: Text) -> Repeats:
    """Every token that is punctuation."""
    return _marked(text, text.punctuation)


def _marked(text: Text, mask: Bool[Tensor, " Tk"] | None) -> Repeats:
    """The keys of a mask, one group of all queries, wherever they stand."""
    keys = (torch.zeros_like(text.real) if mask is None else mask & text.real).nonzero()[:, 0]
    group = torch.zeros_like(text.positions)
    return Repeats(keys, torch.zeros_like(keys), group, torch.full_like(group, len(text.ids)))


def previous_token(text: Text) -> Int[Tensor, " Tq"]:
    """j = i − 1."""
    return text.positions - 1


def next_token(text: Text) -> Int[Tensor, " Tq"]:
    """j = i + 1."""
    i = text.positions
    return torch.where(i + 1 < len(text.ids), i + 1, -1)


def first_token(text: Text) -> Int[Tensor, " Tq"]:
    """j is the first token that is no padding; it is no target of its own."""
    start = text.real.int().argmax()
    return torch.where(text.positions > start, start, -1)


def self_token(text: Text) -> Int[Tensor, " Tq"]:
    """j = i."""
    return text.positions


def delimiter(text: Text) -> Int[Tensor, " Tq"]:
    """j ≠ i is the nearest delimiter that i may see, before it if two are as near."""
    i = text.positions
    if text.delimiter is None or not bool(text.delimiter.any()):
        return torch.full_like(i, -1)
    marks = text.delimiter.nonzero()[:, 0]
    at = torch.searchsorted(marks, i)
    following = torch.searchsorted(marks, i, right=True)
    before, after = marks[(at - 1).clamp(min=0)], marks[following.clamp(max=len(marks) - 1)]

    def seen(j: Tensor, exists: Tensor) -> Tensor:
        return exists & text.runs.sees(i - text.past, j)[0].any(0)

    has_before, has_after = seen(before, at > 0), seen(after, following < len(marks))
    ahead = has_after & (~has_before | (after - i < i - before))
    return torch.where(ahead, after, before).masked_fill(~has_before & ~has_after, -1)


SINGLE: dict[str, Callable[[Text], Int[Tensor, " Tq"]]] = {
    "previous_token": previous_token,
    "next_token": next_token,
    "first_token": first_token,
    "self_token": self_token,
    "delimiter": delimiter,
}
"""The roles of which a query has one target, −1 for none."""
REPEATED: dict[str, Callable[[Text], Repeats]] = {
    "duplicate_token": duplicate_token,
    "induction": induction,
    "induction_before": induction_before,
}
"""The roles whose targets stand by earlier copies of the query's token."""
MARKED: dict[str, Callable[[Text], Repeats]] = {"special_tokens": special_tokens, "punctuation": punctuation}
"""The roles whose targets are the same for all queries."""
