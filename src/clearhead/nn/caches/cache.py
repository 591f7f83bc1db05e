"""Cache: the keys and values of the tokens that an attention has seen, so that the next ones need only their own."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import Pattern, Runs, attention, causal, decode, dense, window
from clearhead.attend.heard import listener, one_sequence
from clearhead.errors import ClearheadError
from clearhead.nn.caches.rows import Rows, Slots

FEW = 4
"""Up to so many new tokens, `decode` is faster than `attention`."""


class Cache(ABC):
    """What one layer's attention remembers of B sequences, each as long as it is.

    A batch whose texts are unlike long is padded on the right; `new` says how many tokens of each sequence are real.
    The padding is never attended to, and the next tokens are written over it.

    A call that raises leaves the cache as it was. `copy.copy` gives a cache that goes on independently.

    Raises ClearheadError, in every kind of cache, for a batch of other sequences than those it began with, for keys of
    other heads or another width, for keys and values of unlike length, and for `new` or `lengths` that do not fit.

    >>> import clearhead as ch, torch
    >>> cache = ch.nn.Growing()
    >>> cache.write(torch.randn(2, 4, 5, 16), torch.randn(2, 4, 5, 16), torch.tensor([5, 3]))
    >>> cache.lengths, cache.positions(2)
    (tensor([5, 3]), tensor([[5, 6], [3, 4]]))
    >>> cache.take(torch.tensor([1]))
    >>> [x.shape for x in cache.read()]
    [torch.Size([1, 4, 3, 16]), torch.Size([1, 4, 3, 16])]
    """

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._one_by_one = False

    @property
    def counts(self) -> list[int]:
        """`lengths`, as numbers."""
        return self._counts

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """How many tokens of each sequence have been written; empty before the first write, which says B."""
        return torch.tensor(self.counts, dtype=torch.int64)

    def positions(self, T: int) -> Int[Tensor, "_ T"]:
        """Where the next T tokens of each sequence will stand, `(B or 1, T)`: one row where all are equally long."""
        return following(self.counts, T)

    @abstractmethod
    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Keep the keys and values of the next tokens: all T of each sequence, or the first new[b] of them."""

    @abstractmethod
    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """All that is kept, Tk of the longest sequence; what lies beyond a sequence's own length means nothing."""

    @abstractmethod
    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Go on with these sequences only; one may be named twice, for a beam."""

    @abstractmethod
    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Forget what lies beyond these lengths, such as guesses that were refused."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The memory that it holds, in bytes."""

    @abstractmethod
    def _clear(self) -> None:
        """Be as before the first write."""

    @torch.inference_mode(False)  # what was made in it could not be written to outside of it
    def __copy__(self) -> "Cache":
        other = object.__new__(type(self))
        vars(other).update({name: _copied(value) for name, value in vars(self).items()})
        return other

    @property
    def kept(self) -> list[int]:
        """How many keys of each sequence `read` gives."""
        return self.counts

    def attend(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T Dv"],
        new: Int[Tensor, " B"] | None = None,
        *,
        pattern: Pattern,
        **options: Any,
    ) -> Float[Tensor, "B H T Dv"]:
        """Write the new tokens' k and v, then attend from q to all that is kept.

        Each sequence's queries are the last new[b] of its kept keys; rows beyond them come out 0. `options` are
        bias, scale, softcap, sinks and backend, as of `attention`. On the CPU, where no gradient is recorded and the
        pattern is `causal()` or `window(w)`, a few new tokens are decoded where the keys lie.

        Raises ClearheadError, and keeps none of the new tokens, where one of the arguments does not fit.
        """
        before = list(self.counts)
        try:
            return self._written_and_attended(q, k, v, new, pattern, options)
        except BaseException:  # Ctrl-C too: half a step must not be counted
            self._back_to(before)
            raise

    def _written_and_attended(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T Dv"],
        new: Int[Tensor, " B"] | None,
        pattern: Pattern,
        options: dict[str, Any],
    ) -> Float[Tensor, "B H T Dv"]:
        check_alike(k, v, q)
        T = q.shape[2]
        fresh = counted(new, q.shape[0], T)
        whole, first = not fresh or min(fresh) == T, not any(self.counts)
        self.write(k, v, new)
        out: Tensor
        watched = listener() is not None
        if watched:  # once apart, sequences stay so: each is then watched from its first token to its last
            self._one_by_one = self._one_by_one or not (whole and is_even(self.kept))
        few = T <= FEW and (whole or T == 1) and q.device.type == "cpu" and not torch.is_grad_enabled()
        if watched and self._one_by_one:
            out = self._each_alone(q, (k, v) if first else self.read(), fresh, pattern, options)
        elif few and looks_back(pattern) and not isinstance(options.get("bias"), (Tensor, dense)):
            w = pattern.left + 1 if isinstance(pattern, window) and pattern.left is not None else None
            out = self.decode(q, w, **options)
            out = out if whole else without_padding(out, fresh)
        elif first:
            out = attention(q, k, v, pattern=pattern if whole else pattern & real(fresh, fresh), **options)
        elif whole and is_even(self.kept):
            out = attention(q, *self.read(), pattern=pattern, **options)
        else:
            out = self._each_alone(q, self.read(), fresh, pattern, options)
        return out

    def _back_to(self, counts: list[int]) -> None:
        """Forget what a call that failed has written since these counts."""
        if counts:
            self.crop(torch.tensor(counts))
        else:
            self._clear()

    def decode(self, q: Float[Tensor, "B H T D"], window: int | None, **options: Any) -> Float[Tensor, "B H T Dv"]:
        """Causal attention of each sequence's last T tokens, or within a window, over the keys where they lie."""
        lengths = None if is_even(self.kept) else torch.tensor(self.kept)
        return decode(q, *self.read(), lengths=lengths, window=window, **options)  # type: ignore[no-any-return]

    def _each_alone(
        self,
        q: Float[Tensor, "B H T D"],
        kept: tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]],
        fresh: list[int],
        pattern: Pattern,
        options: dict[str, Any],
    ) -> Float[Tensor, "B H T Dv"]:
        """Attention of sequences that differ in length, each over its own keys."""
        keys, values = kept
        rows, Dv = [], values.shape[3]
        for b, (n, Tk) in enumerate(zip(fresh, self.kept, strict=True)):
            one = (q[b : b + 1, :, :n], keys[b : b + 1, :, :Tk], values[b : b + 1, :, :Tk])
            with one_sequence(b, len(fresh)):
                made = attention(*one, pattern=pattern, **options) if n else q.new_empty(1, q.shape[1], 0, Dv)
            rows.append(F.pad(made, (0, 0, 0, q.shape[2] - n)))
        return torch.cat(rows)

    def _next(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None
    ) -> tuple[Slots, list[int]]:
        """Where the new tokens go, and the counts with them."""
        check_alike(k, v)
        B, _, T, _ = k.shape
        counts, fresh = self._counts or [0] * B, counted(new, B, T)
        if len(counts) != B:
            raise ClearheadError(
                f"the cache holds {len(counts)} sequences, but k {tuple(k.shape)} has B = {B}; "
                "a cache goes on with the sequences it began with, or with those that take(rows) left."
            )
        return Slots.of(counts, fresh, T), [n + more for n, more in zip(counts, fresh, strict=True)]


def positions(cache: Cache | None, T: int, device: torch.device) -> Int[Tensor, "_ T"]:
    """Where the next T tokens stand, `(B or 1, T)`: behind those of a cache; without one, from 0."""
    return torch.arange(T, device=device)[None] if cache is None else cache.positions(T).to(device)


def check_alike(k: Tensor, v: Tensor, q: Tensor | None = None) -> None:
    """Refuses keys and values, and queries, that are not of the same sequences, heads and tokens."""
    if k.dim() != 4 or v.dim() != 4 or k.shape[:3] != v.shape[:3]:
        raise ClearheadError(
            f"got k {tuple(k.shape)} and v {tuple(v.shape)}, expected k (B, K, T, D) and v (B, K, T, Dv) with the "
            "same B, K and T."
        )
    if q is not None and (q.dim() != 4 or (q.shape[0], q.shape[2]) != (k.shape[0], k.shape[2])):
        raise ClearheadError(
            f"got q {tuple(q.shape)} and k {tuple(k.shape)}, expected q (B, H, T, D) and k (B, K, T, D) with the "
            "same B and T: a cache is given the queries of the tokens that it is to write."
        )


def counted(new: Int[Tensor, "..."] | None, B: int, T: int) -> list[int]:
    """How many of T tokens are real in each of B sequences."""
    if new is None:
        return [T] * B
    fresh = whole_numbers("new", new)
    if len(fresh) != B:
        raise ClearheadError(f"new: got {len(fresh)} numbers, expected one for each sequence, (B,) = ({B},).")
    if fresh and not 0 <= min(fresh) <= max(fresh) <= T:
        raise ClearheadError(f"new: got {min(fresh)} to {max(fresh)}, expected 0 to T = {T}, the tokens there are.")
    return fresh


def taken(counts: list[int], rows: Int[Tensor, "..."]) -> list[int]:
    """The counts of these sequences."""
    chosen = whole_numbers("take", rows)
    if any(not 0 <= b < len(counts) for b in chosen):
        raise ClearheadError(
            f"take: got sequences {chosen}, expected numbers from 0 to {len(counts) - 1}, as the cache holds "
            f"{len(counts)}."
            if counts
            else f"take: got sequences {chosen}, but the cache holds none yet; write to it first."
        )
    return [counts[b] for b in chosen]


def cropped(counts: list[int], lengths: Int[Tensor, "..."]) -> list[int]:
    """The counts, none beyond `lengths`."""
    most = whole_numbers("crop", lengths)
    if len(most) != len(counts) or any(n < 0 for n in most):
        raise ClearheadError(
            f"crop: got lengths {most}, expected one for each of the {len(counts)} sequences, at least 0."
        )
    return [min(n, m) for n, m in zip(counts, most, strict=True)]


def whole_numbers(name: str, given: Int[Tensor, "..."]) -> list[int]:
    """The numbers of a tensor of one dimension; `name` is that of the argument, for the sentence."""
    if not isinstance(given, Tensor):
        raise ClearheadError(f"{name}: got {type(given).__name__}, expected a tensor of whole numbers, as of int64.")
    if given.dim() != 1 or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ClearheadError(
            f"{name}: got {given.dtype} of shape {tuple(given.shape)}, expected whole numbers of shape (B,), one for "
            "each sequence."
        )
    numbers: list[int] = given.tolist()
    return numbers


def is_even(counts: list[int]) -> bool:
    """Whether all sequences are equally long."""
    return len(counts) < 2 or min(counts) == max(counts)


def looks_back(pattern: Pattern) -> bool:
    """Whether a query sees all keys up to itself, or the last w: what `decode` can do."""
    if isinstance(pattern, window):
        return pattern.right == 0 and pattern.align == "end"
    return isinstance(pattern, causal) and pattern.align == "end"


def following(counts: list[int], T: int) -> Int[Tensor, "_ T"]:
    """The T positions after each of these; one row where they are equal."""
    if is_even(counts):
        start = counts[0] if counts else 0
        return torch.arange(start, start + T)[None]
    return torch.tensor(counts)[:, None] + torch.arange(T)


def without_padding(out: Float[Tensor, "B H T Dv"], fresh: list[int]) -> Float[Tensor, "B H T Dv"]:
    """The rows of each sequence's first fresh[b] tokens; 0 for the others."""
    padding = torch.arange(out.shape[2]) >= torch.tensor(fresh)[:, None]
    return out.masked_fill(padding.to(out.device)[:, None, :, None], 0)


def _copied(value: Any) -> Any:
    """A part of a cache, with its tensors in memory of their own."""
    if isinstance(value, list):
        return [_copied(each) for each in value]
    if isinstance(value, Tensor):
        return value.clone()
    return copy.copy(value) if isinstance(value, (Rows, Cache)) else value


@dataclass(frozen=True, eq=False)
class real(Pattern):
    """A batch padded on the right: the first fresh[b] queries see the first kept[b] keys; the padding sees nothing."""

    fresh: list[int]
    kept: list[int]

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        fresh, kept = (torch.tensor(n, device=device).view(-1, 1, 1, 1) for n in (self.fresh, self.kept))
        stop = torch.where(torch.arange(Tq, device=device).view(1, 1, Tq, 1) < fresh, kept, 0)
        return Runs.of(torch.zeros_like(stop), stop, Tk)
