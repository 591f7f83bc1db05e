"""Static: a cache of a fixed size, which `torch.compile` compiles once."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import Bias, Pattern, attention, causal, dense, window
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import FEW, Cache, check_alike, counted, cropped, looks_back, taken


class Static(Cache):
    """Has room for `length` tokens of each of B sequences from the start; nothing it does hangs on how full it is.

    So a compiled step is compiled once: how much is kept is a tensor, which says where the new tokens go and how far
    each query sees. A compiled step takes `causal()` and `window(w)`, and a bias by distance for a few new tokens.

    Args:
        B: how many sequences.
        K: key/value heads.
        D: width of a key.
        length: how many tokens of each sequence there is room for.
        dtype: of keys and values.
        Dv: width of a value; None is D.
        device: where they lie.

    Raises ClearheadError when it is full, for keys of other shapes, and where a gradient would have to be kept.

    >>> import clearhead as ch, torch
    >>> cache = Static(1, 2, 64, 1024)
    >>> q, k, v = torch.randn(1, 8, 5, 64), torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64)
    >>> cache.attend(q, k, v, pattern=ch.causal()).shape, cache.counts
    (torch.Size([1, 8, 5, 64]), [5])
    """

    def __init__(
        self,
        B: int,
        K: int,
        D: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        *,
        Dv: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.length = length
        rows = length + 1  # the last takes what is padding
        with torch.inference_mode(False):  # what was made in it could not be written to outside of it
            self._k = torch.zeros(B, K, rows, D, dtype=dtype, device=device)
            self._v = torch.zeros(B, K, rows, D if Dv is None else Dv, dtype=dtype, device=device)
            self._lengths = torch.zeros(B, dtype=torch.int64, device=device)

    @property
    def counts(self) -> list[int]:
        """`lengths`, as numbers."""
        counts: list[int] = self._lengths.tolist()
        return counts

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """How many tokens of each sequence have been written."""
        return self._lengths.clone()

    def positions(self, T: int) -> Int[Tensor, "B T"]:
        """Where the next T tokens of each sequence will stand."""
        return self._lengths[:, None] + torch.arange(T, device=self._lengths.device)

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Write behind what is there; what is padding goes to a row of its own, which no query sees."""
        check_alike(k, v)
        if (k.shape[:2], k.shape[3], v.shape[3]) != (self._k.shape[:2], self._k.shape[3], self._v.shape[3]):
            raise ClearheadError(
                f"the cache was made for k {_without_T(self._k)} and v {_without_T(self._v)}, but got "
                f"{tuple(k.shape)} and {tuple(v.shape)}."
            )
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ClearheadError("a static cache keeps no gradient: call under torch.no_grad(), or take Growing().")
        B, _, T, _ = k.shape
        at = self.positions(T)
        if new is None:
            after = self._lengths + T
        else:
            new = self._checked(new, B, T).to(at.device)
            after = self._lengths + new
            at = torch.where(torch.arange(T, device=at.device) < new[:, None], at, self.length)
        self._check_room(after)
        for kept, x in ((self._k, k), (self._v, v)):
            kept.scatter_(2, at[:, None, :, None].expand(x.shape), x.to(kept.dtype))
        self._lengths.copy_(after)

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """Views of what is kept."""
        longest = max(self.counts, default=0)
        return self._k[:, :, :longest], self._v[:, :, :longest]

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
        """As every cache; while `torch.compile` looks, in one call over the whole room."""
        if not torch.compiler.is_compiling():
            return super().attend(q, k, v, new, pattern=pattern, **options)
        if not looks_back(pattern):
            raise ClearheadError(f"a static cache compiles with causal() or window(w), and the pattern is {pattern!r}.")
        T, start = q.shape[2], self.lengths
        bias = options.pop("bias", None)
        if bias is not None:
            options["bias"] = self._by_pair(bias, start, T)
        self.write(k, v, new)
        pattern = window(pattern.left, 0, start) if isinstance(pattern, window) else causal(start)
        out: Tensor = attention(q, self._k[:, :, :-1], self._v[:, :, :-1], pattern=pattern, **options)
        if new is None:
            return out
        padding = torch.arange(T, device=q.device) >= new.to(q.device)[:, None]
        return out.masked_fill(padding[:, None, :, None], 0)

    def _by_pair(self, bias: Bias, start: Int[Tensor, " B"], T: int) -> Float[Tensor, "B H T length"]:
        """A bias by distance, for queries that stand elsewhere than at the end."""
        if isinstance(bias, (Tensor, dense)) or T > FEW:
            raise ClearheadError(
                f"a static cache compiles with a bias by distance and at most {FEW} new tokens; got {T} and {bias!r}. "
                "Write the long text first, outside of the compiled function."
            )
        i = self.positions(T)[:, :, None]
        return bias.at(i, torch.arange(self.length, device=i.device), 0, *bias.weights)[0].transpose(0, 1)

    @torch.inference_mode(False)
    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Copies these sequences; with as many as before, a compiled step goes on as it is."""
        taken(self.counts, rows)
        rows = rows.to(self._lengths.device)
        for name in ("_k", "_v", "_lengths"):
            kept = getattr(self, name)
            these = kept.index_select(0, rows)
            setattr(self, name, kept.copy_(these) if len(these) == len(kept) else these)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Forgets by counting."""
        self._lengths.copy_(torch.tensor(cropped(self.counts, lengths), dtype=torch.int64))

    @property
    def nbytes(self) -> int:
        """Of the whole room, full or not."""
        return self._k.nbytes + self._v.nbytes

    def _clear(self) -> None:
        self._lengths.zero_()

    @staticmethod
    def _checked(new: Int[Tensor, "..."], B: int, T: int) -> Int[Tensor, " B"]:
        """`new`, if it says how many of T tokens are real in each of B sequences."""
        if torch.compiler.is_compiling():  # by operations of the graph, as the numbers are not known yet
            torch._assert_async(((new >= 0) & (new <= T)).all(), f"new: expected 0 to T = {T}, the tokens there are.")
        else:
            counted(new, B, T)
        return new

    def _check_room(self, after: Int[Tensor, " B"]) -> None:
        said = f"the cache has room for {self.length} tokens of each sequence, and is full; make it longer."
        if torch.compiler.is_compiling():
            torch._assert_async((after <= self.length).all(), said)
        elif (after > self.length).any():
            raise ClearheadError(f"{int(after.max())} tokens: {said}")


def _without_T(x: Tensor) -> str:
    B, K, _, D = x.shape
    return f"({B}, {K}, T, {D})"
