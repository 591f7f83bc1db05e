"""Alike: how alike the heads of a model are, by the Jensen–Shannon distance between their rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend.arguments import count
from clearhead.errors import ClearheadError
from clearhead.scope.chosen import Layered, layers_of_one_text, same_text
from clearhead.scope.clusters import Merge, cut, in_plane, merges
from clearhead.scope.indexing import index
from clearhead.scope.layer import Layer

QUERIES = 128
"""How many queries are compared unless said."""
HEADS, KEYS = 32, 256
"""A tile compares so many heads with as many, over so many keys: 1 MiB, which stays in the processor's cache."""
ROWS_AT_A_TIME = 2**23
"""The most weights that are held at a time, 32 MiB, unless one query's rows are more."""
THRESHOLD = 0.1
"""A distance within which two heads do the same thing, unless said."""


def js_distance(p: Float[Tensor, "*rows Tk"], q: Float[Tensor, "*rows Tk"]) -> Float[Tensor, "*rows"]:
    """The Jensen–Shannon distance between rows of weights: the root of the divergence, in bits; from 0 to 1.

        divergence = ½ Σ p log₂(p / m) + ½ Σ q log₂(q / m),   m = ½ (p + q)

    Its root is a metric (Endres & Schindelin 2003). What a row lacks to 1, as with a sink, counts as one more
    key. float32 rows are compared to within 0.001.

    >>> js_distance(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([1., 0.])
    """
    p, q = _whole(p), _whole(q)
    return _root(_bits(p + p), _bits(q + q), _bits(p + q))


@dataclass(frozen=True, eq=False)
class Alike:
    """How alike heads are: the distances between them, and what follows from these."""

    heads: list[tuple[int, int]]
    """(layer, head) of each line of `distances`."""
    distances: Float[Tensor, "N N"]
    """The mean over queries of the Jensen–Shannon distance: 0 is the same, 1 is no key in common."""
    queries: int
    """How many queries the mean is over."""
    of: int
    """How many there were."""
    baseline: "Alike | None" = None
    """The same of another model on the same text, such as one with random weights."""

    def __repr__(self) -> str:
        return f"Alike({len(self.heads)} heads, over {self.queries} of {self.of} queries)"

    def __str__(self) -> str:
        return self.verdict()

    @property
    def nearest(self) -> Float[Tensor, " N"]:
        """The distance of each head to the one most like it."""
        return self.distances.clone().fill_diagonal_(torch.inf).amin(1)

    def share(self, threshold: float = THRESHOLD) -> float:
        """The share of heads that have another within the threshold."""
        return float((self.nearest <= threshold).double().mean())

    def clusters(self, threshold: float = THRESHOLD) -> list[list[tuple[int, int]]]:
        """The groups of two heads or more whose mean distance is within the threshold, the largest first."""
        groups = cut(len(self.heads), self.tree, threshold)
        return [[self.heads[n] for n in group] for group in groups]

    @cached_property
    def tree(self) -> list[Merge]:
        """How the heads, by their place in `heads`, merge to clusters, the nearest first: average linkage."""
        return merges(self.distances)

    @property
    def order(self) -> list[int]:
        """The heads' places in `heads`, such that those of one cluster stand side by side."""
        return [*self.tree[-1].one, *self.tree[-1].other]

    @cached_property
    def layout(self) -> tuple[Float[Tensor, "N 2"], float]:
        """A point a head in the plane, and the share of the squared distances that they keep."""
        return in_plane(self.distances)

    def verdict(self, threshold: float = THRESHOLD) -> str:
        """Whether heads have collapsed into one another, in a sentence."""
        said = (
            f"{self.share(threshold):.0%} of {len(self.heads)} heads have another within a Jensen–Shannon distance of "
            f"{threshold:g} (mean over {self.queries} of {self.of} queries)"
        )
        if self.baseline is None:
            return f"{said}."
        other = self.baseline
        return f"{said}; of the baseline's {len(other.heads)}, {other.share(threshold):.0%} have."


@torch.no_grad()
def alike(
    record: Layered,
    queries: SupportsIndex = QUERIES,
    *,
    layers: Iterable[SupportsIndex | str] | None = None,
    against: Layered | None = None,
    sequence: SupportsIndex = -1,
    batch: SupportsIndex = 0,
) -> Alike:
    """How alike all heads of all layers are: the mean over queries of `js_distance` between their rows.

    Every pair of heads is compared, on a sample of evenly spaced queries, on all if the text has no more.
    Queries that are padding, or that in some head see nothing, are left out. Rows are made a few at a time and
    compared tile by tile: memory is some tens of MB, time is queries × heads² × keys.

    Args:
        queries: how many queries to compare at most.
        layers: the layers to compare, by number or name; all unless said. They must have read the same text.
        against: the record of a baseline that read the same text, such as `randomised(model)`.
        sequence, batch: the text, if the model read several.
    """
    most = count("alike: queries", queries)
    layers = None if layers is None else list(layers)  # read twice, if there is a baseline
    chosen = layers_of_one_text(record, layers, sequence, "alike")
    heads = [(number, head) for number, layer in chosen.items() for head in range(layer.heads)]
    if len(heads) < 2:
        raise ClearheadError(f"alike: got {len(heads)} head, expected two or more to compare.")
    there = _queries(list(chosen.values()), batch)
    if len(there) == 0:
        raise ClearheadError("alike: no query of this text sees a key in every head, so there is nothing to compare.")
    n = min(most, len(there))
    middles = (2 * torch.arange(n) + 1) * len(there) // (2 * n)
    total = torch.zeros(len(heads), len(heads), dtype=torch.float64)
    for rows in _rows(list(chosen.values()), there[middles], batch):
        broken = rows.sum(1).isfinite().logical_not().nonzero()
        if len(broken):
            layer, head = heads[int(broken[0])]
            raise ClearheadError(f"alike: layer {layer}, head {head} has weights that are no numbers (NaN).")
        total += _apart(rows).cpu()
    baseline = None
    if against is not None:
        other = layers_of_one_text(against, layers, sequence, "alike")
        if not same_text(next(iter(chosen.values())), next(iter(other.values()))):
            raise ClearheadError("alike: the baseline read another text; run it on the same inputs.")
        baseline = alike(against, most, layers=layers, sequence=sequence, batch=batch)
    return Alike(heads, (total / n).float(), n, len(there), baseline)


def _queries(layers: list[Layer], batch: SupportsIndex) -> Int[Tensor, " n"]:
    """The queries that are no padding and see some key in every head."""
    last = layers[0].steps[-1]
    b = index(batch, "batch", last.shape[0])
    counted = torch.stack([(layer.statistics.visible[b] > 0).all(0) for layer in layers]).all(0)
    if last.real is not None and layers[0].kind == "self":
        counted &= last.real[b, -len(counted) :]
    return counted.nonzero()[:, 0].cpu()


def _rows(layers: list[Layer], queries: Int[Tensor, " n"], batch: SupportsIndex) -> Iterator[Float[Tensor, "N Tk"]]:
    """For each query the rows of all heads, each row summing to 1."""
    heads, Tk = sum(layer.heads for layer in layers), layers[0].lengths[1]
    for some in queries.split(max(1, ROWS_AT_A_TIME // (heads * Tk))):
        rows = [layer.rows(some, batch=batch) for layer in layers]
        for n in range(len(some)):
            yield _whole(torch.cat([of_layer[:, n] for of_layer in rows]))


def _apart(rows: Float[Tensor, "N n"]) -> Float[Tensor, "N N"]:
    """The distance between each two of some rows, by tiles of heads × heads × keys."""
    N, tiny = len(rows), torch.finfo(rows.dtype).tiny
    together = rows.new_zeros(N, N, dtype=torch.float64)
    for tile in rows[:, rows.amax(0) > tiny].split(KEYS, 1):  # of a causal row what comes after is hidden
        for a in range(0, N, HEADS):
            for b in range(a, N, HEADS):
                p, q = tile[a : a + HEADS, None], tile[None, b : b + HEADS]
                together[a : a + HEADS, b : b + HEADS] += _bits(p + q)
    together = together.triu() + together.triu(1).T
    alone = together.diagonal()
    return _root(alone, alone[:, None], together)


def _whole(rows: Float[Tensor, "*rows Tk"]) -> Float[Tensor, "*rows Tk+1"]:
    """With one more key, for what the rows lack to 1; and no weight quite 0, so that its logarithm is a number."""
    rest = 1 - rows.sum(-1, keepdim=True)
    rest = rest.where(rest > ROUNDING, 0)
    return torch.cat([rows, rest], -1).clamp_(min=torch.finfo(rows.dtype).tiny)


ROUNDING = 1e-5
"""What rows of float32 may lack to 1."""


def _bits(s: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows"]:
    """Σ s log₂ s."""
    return s.log2().mul_(s).sum(-1)


def _root(pp: Float[Tensor, "..."], qq: Float[Tensor, "..."], pq: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The distance, from the bits of p + p, q + q and p + q. Of the same row they cancel to 0, whatever it sums to."""
    return (pp / 4 + qq / 4 - pq / 2).clamp(0, 1).sqrt()
