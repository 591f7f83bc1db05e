"""A budget: whether what a watch is to keep fits into so much memory, asked before anything is computed."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.byte_sizes import in_words
from clearhead.scope.interface import Asked

NUMBERS = 7
"""How many numbers of each query and head the statistics take; the visible keys are the same for all heads."""


@dataclass(frozen=True)
class Kept:
    """What is kept of one attention."""

    B: int
    H: int
    K: int
    Tq: int
    Tk: int
    D: int
    Dv: int
    dtype: torch.dtype
    tensors: bool
    """Whether q and k are kept in memory."""
    values: bool
    """Whether v is too."""
    known: int = 0
    """How many of the keys were kept before, with an earlier step of the same sequence."""

    @staticmethod
    def of(asked: Asked, tensors: bool, values: bool) -> "Kept":
        """Of an attention that is to be computed."""
        (B, H, Tq, D), (Bk, K, Tk, Dv) = asked.q.shape, asked.v.shape
        return Kept(max(B, Bk), H, K, Tq, Tk, D, Dv, asked.q.dtype, tensors, tensors and values)

    @staticmethod
    def of_scores(scores: Tensor, tensors: bool) -> "Kept":
        """Of scores that are there in full, which stand in the place of q."""
        B, H, Tq, Tk = scores.shape
        return Kept(B, H, 0, Tq, Tk, Tk, 0, scores.dtype, tensors, False)

    @property
    def bytes(self) -> int:
        """How much memory that takes."""
        of_statistics = NUMBERS * self.B * self.H * self.Tq * (8 if self.dtype == torch.float64 else 4)
        q, k, v = self.H * self.Tq * self.D, self.K * (self.Tk - self.known) * self.D, self.K * self.Tk * self.Dv
        numbers = (q + k if self.tensors else 0) + (v if self.values else 0)
        return of_statistics + self.B * numbers * self.dtype.itemsize

    def __str__(self) -> str:
        shape = (self.B, self.H, self.K, self.Tq, self.Tk, self.D)
        return f"(B, H, K, Tq, Tk, D) = {shape} in {str(self.dtype).removeprefix('torch.')}"


@dataclass
class Budget:
    """So many bytes for what a watch keeps. What the model itself needs is not counted."""

    memory: int
    used: int = field(default=0, init=False)

    def expect(self, one: Kept, attentions: int) -> None:
        """Raises if so many attentions of this kind will not fit."""
        if attentions * one.bytes <= self.memory:
            return
        several = f"the {attentions} attentions" if attentions > 1 else "one attention"
        raise ClearheadError(
            f"memory: what is kept of {several} with {one} would take {in_words(attentions * one.bytes)}, more than "
            f"{in_words(self.memory)}. {self._what_fits(one, attentions)}"
        )

    def take(self, one: Kept) -> None:
        """Counts one that is kept; raises if it is one too many, as a step of a long generation."""
        if self.used + one.bytes > self.memory:
            raise ClearheadError(
                f"memory: with one more attention, {one}, what is kept would take {in_words(self.used + one.bytes)}, "
                f"more than {in_words(self.memory)}. Give it more, or watch a shorter text or fewer layers."
            )
        self.used += one.bytes

    def _what_fits(self, one: Kept, attentions: int) -> str:
        bare = replace(one, tensors=False, values=False)
        small = replace(one, dtype=torch.bfloat16)
        few = self.memory // one.bytes
        ways = [
            (few > 0, f"layers=range({few}), the first {few} of them" if few > 1 else "layers=0, one of them"),
            (one.tensors and one.values and self._holds(replace(one, values=False), attentions), "values=False"),
            (one.tensors and one.dtype.itemsize > 2 and self._holds(small, attentions), "the model in bfloat16"),
            (one.tensors and self._holds(bare, attentions), "keep='statistics'"),
            (one.tensors and self._holds(bare, attentions), "store=PATH, which puts q and k on disk"),
        ]
        fitting = [way for fits, way in ways if fits]
        return f"What would fit: {'; '.join(fitting)}." if fitting else "Nothing of it would fit; a shorter text might."

    def _holds(self, one: Kept, attentions: int) -> bool:
        return attentions * one.bytes <= self.memory
