"""Head: one head of an attention that was seen, as `seen[17, 3]` gives it."""

from dataclasses import dataclass, fields
from typing import SupportsIndex

from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend.statistics import Statistics
from clearhead.scope.indexing import Indices
from clearhead.scope.layer import Layer


@dataclass(frozen=True, eq=False)
class Head:
    """One head of a `Layer`, of which `rows`, `top` and `statistics` speak as the layer's do.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    >>> x = torch.randn(1, 5, 16)
    >>> with ch.watch(layer) as seen:
    ...     _ = layer(x, x, x, need_weights=False)
    >>> seen[0, 1], seen[0, 1].rows([4]).shape
    (Head('MultiheadAttention', 1), torch.Size([1, 5]))
    """

    layer: Layer
    number: int
    """Which of the layer's heads it is, from 0."""

    def __repr__(self) -> str:
        return f"Head({self.layer.name!r}, {self.number})"

    def rows(self, i: Indices, batch: SupportsIndex = 0) -> Float[Tensor, "n Tk"]:
        """Exact weights of the queries i."""
        return self.layer.rows(i, self.number, batch)

    def top(self, k: int, share: float = 1.0) -> tuple[Int[Tensor, "B T n"], Float[Tensor, "B T n"]]:
        """The k heaviest keys of each query and their weights, as `Layer.top`."""
        keys, weights = self.layer.top(k, share)
        return keys[:, self.number], weights[:, self.number]

    @property
    def statistics(self) -> Statistics:
        """Of every query of the sequence, each `(B, 1, queries)`."""
        whole, h = self.layer.statistics, self.number
        return Statistics(**{f.name: getattr(whole, f.name)[:, h : h + 1] for f in fields(Statistics)})

    @property
    def summary(self) -> dict[str, float]:
        """Its line of the head table."""
        return list(self.layer.summary().rows(self.layer.heads))[self.number]
