"""Rows: a tensor of a row for each token, written in place, with twice the room when it is full."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError


class Slots(NamedTuple):
    """Where new tokens go: to rows start to stop of every sequence, or token t[n] of sequence b[n] to row at[n]."""

    start: int
    stop: int
    tokens: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def of(cls, counts: list[int], fresh: list[int], T: int) -> "Slots":
        """For the first fresh[b] of T new tokens, behind the counts[b] that sequence b has."""
        if not counts:
            return cls(0, T)
        if min(counts) == max(counts) and min(fresh) == T:
            return cls(counts[0], counts[0] + T)
        stop = max(n + more for n, more in zip(counts, fresh, strict=True))
        b, t = (torch.arange(T) < torch.tensor(fresh)[:, None]).nonzero(as_tuple=True)
        return cls(min(counts), stop, (b, t, torch.tensor(counts)[b] + t))


class Rows:
    """`data (B, K, room, D)`: a row for each token of each sequence, one after the other.

    It begins with `room`, which doubles when it is spent. Where memory comes page by page, as on Linux, room that was
    never written to costs none.
    """

    def __init__(self, room: int = 32) -> None:
        self.room = room
        self.data: Tensor | None = None

    def __copy__(self) -> "Rows":
        other = Rows(self.room)
        other.data = None if self.data is None else self.data.clone()
        return other

    def check(self, x: Tensor) -> None:
        """Refuses rows of other heads or another width than those that are there."""
        if self.data is not None and self.data.shape[1::2] != x.shape[1::2]:
            _, K, _, D = self.data.shape
            raise ClearheadError(
                f"the cache has K = {K} heads of width {D}, but got {tuple(x.shape)}; one cache belongs to one layer."
            )

    def put(self, x: Float[Tensor, "B K T D"] | Int[Tensor, "B K T D"], slots: Slots) -> None:
        """Write x to its place."""
        data = self._with_room(x, slots.stop)
        if slots.tokens is None:
            data[:, :, slots.start : slots.stop] = x
        else:
            b, t, at = slots.tokens
            data[b, :, at] = x[b, :, t].to(data.dtype)
        self.data = data

    def reserve(self, like: Float[Tensor, "B K _ D"], n: int) -> Tensor:
        """All rows, of which there are at least n, for rows like these to be written to."""
        self.data = self._with_room(like, n)
        return self.data

    def first(self, n: int) -> Tensor:
        """The first n rows of every sequence, where they lie."""
        if self.data is None:
            raise ClearheadError("read: nothing has been written to this cache.")
        return self.data.narrow(2, 0, n)

    def take(self, sequences: Int[Tensor, " rows"], n: int) -> None:
        """These sequences only, with their first n rows."""
        if self.data is not None:
            self.hold(self.first(n).index_select(0, sequences.to(self.data.device)))

    def hold(self, x: Tensor) -> None:
        """These rows in place of what was there."""
        self.data = self._roomy(x, x.shape[2])

    @property
    def nbytes(self) -> int:
        """What it takes, unused room included."""
        return 0 if self.data is None else self.data.nbytes

    def _with_room(self, x: Tensor, needed: int) -> Tensor:
        data = self.data
        if data is None:
            return self._roomy(x[:, :, :0], needed)
        self.check(x)
        if data.shape[2] < needed:
            return self._roomy(data, needed)
        if _is_fixed(data, x):
            return data.clone()
        return data

    def _roomy(self, data: Tensor, needed: int) -> Tensor:
        """The rows, with room for as many as are needed, and for more."""
        B, K, n, D = data.shape
        wide = data.new_empty(B, K, self.room if needed <= self.room else 1 << needed.bit_length(), D)
        wide.narrow(2, 0, n).copy_(data)
        return wide


def _is_fixed(data: Tensor, x: Tensor) -> bool:
    """Whether the rows must stay as they are: for a gradient, or because they were made in inference mode."""
    if torch.is_grad_enabled():
        return data.requires_grad or x.requires_grad
    return data.is_inference() and not torch.is_inference_mode_enabled()
