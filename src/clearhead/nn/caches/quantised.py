"""Quantised: a cache of int8, with a scale for each token and head."""

import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import Pattern
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import Cache, check_alike, counted, cropped, taken
from clearhead.nn.caches.rows import Rows


class Quantised(Cache):
    """Keeps each key and value as int8: x̂ = (c + scale · round((x R − c) / scale)) Rᵀ.

    Each row has its scale, max |x R − c| / 127.

    R is a rotation, the same for all, which spreads the few large dimensions of a key over all of them, so that a row's
    scale fits its numbers (QuaRot, Ashkboos et al. 2024; theirs is a Hadamard matrix, here it is the cosine transform,
    which every width has). As q · k = (q R) · (k R), queries are turned instead of the keys that are kept.

    c is the mean of each head's first tokens, turned. It takes out the offset that all keys of a head share, as
    SageAttention does (Zhang et al. 2025): some models add hundreds to a few channels of every key (KIVI, Liu et al.
    2024), and a row's scale would fit those alone.

    Memory: D + Dv + 8 bytes a token and head, about a quarter of float32. Time is not saved: each step makes one
    layer's keys and values numbers again, in float32. A first text is attended to before it is rounded.

    Error, measured on SmolLM2-135M's queries, keys and values for 1,024 tokens of English in float32 (RMS error of the
    layers' outputs over their RMS): 1.0 %. With 400 added to one channel of every key and taken from another: 1.0 %,
    and 29 % if c were left out. An outlier that turns with the position is no offset: with 400 · (cos, sin) of the
    token's angle in two pairs of channels the error is 30 %, so keep such keys in `Growing`.

    >>> import clearhead as ch, torch
    >>> cache = Quantised()
    >>> k, v = torch.randn(1, 2, 100, 64), torch.randn(1, 2, 100, 64)
    >>> cache.write(k, v)
    >>> [bool((mine - x).abs().max() < 0.05) for mine, x in zip(cache.read(), (k, v))]
    [True, True]
    """

    def __init__(self) -> None:
        super().__init__()
        self._turned = _Bytes()
        self._dtype = torch.float32

    @property
    def counts(self) -> list[int]:
        """`lengths`, as numbers."""
        return self._turned.counts

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Turn and round what comes."""
        check_alike(k, v)
        self._turned.write(_turned(k), _turned(v), new)
        self._dtype = k.dtype

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """The numbers that the bytes stand for, turned back."""
        k, v = self._turned.read()
        return _turned_back(k, self._dtype), _turned_back(v, self._dtype)

    def _written_and_attended(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T Dv"],
        new: Int[Tensor, " B"] | None,
        pattern: Pattern,
        options: dict[str, Any],
    ) -> Float[Tensor, "B H T Dv"]:
        """As every cache, all of it turned: only the new tokens' q, k and v and the output are multiplied by R."""
        if not any(self.counts):
            return super()._written_and_attended(q, k, v, new, pattern, options)
        check_alike(k, v, q)
        out = self._turned._written_and_attended(_turned(q), _turned(k), _turned(v), new, pattern, options)
        return _turned_back(out, q.dtype)

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Copies these sequences."""
        self._turned.take(rows)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Forgets by counting."""
        self._turned.crop(lengths)

    def _clear(self) -> None:
        self._turned._clear()

    @property
    def nbytes(self) -> int:
        """Of the bytes, their scales, and the room for more."""
        return self._turned.nbytes


class _Bytes(Cache):
    """Rows of int8, the scale of each, and an offset for each head, which all its rows share."""

    def __init__(self) -> None:
        super().__init__()
        self._rows = [Rows() for _ in range(4)]
        self._offsets: list[Float[Tensor, "1 K 1 _"]] = []

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ClearheadError("a quantised cache keeps no gradient: call under torch.no_grad(), or take Growing().")
        slots, counts = self._next(k, v, new)
        self._rows[0].check(k)
        self._rows[2].check(v)
        if not any(self._counts):
            fresh = counted(new, len(k), k.shape[2])
            self._offsets = [_mean(x, fresh) for x in (k, v)]
        rounded = (part for x, c in zip((k, v), self._offsets, strict=True) for part in _rounded(x - c))
        for rows, x in zip(self._rows, rounded, strict=True):
            rows.put(x, slots)
        self._counts = counts

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        longest = max(self._counts, default=0)
        k, k_scale, v, v_scale = (rows.first(longest) for rows in self._rows)
        return torch.addcmul(self._offsets[0], k, k_scale), torch.addcmul(self._offsets[1], v, v_scale)

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        longest = max(self._counts, default=0)
        self._counts = taken(self._counts, rows)
        for each in self._rows:
            each.take(rows, longest)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        self._counts = cropped(self._counts, lengths)

    def _clear(self) -> None:
        self._counts, self._rows, self._offsets = [], [Rows() for _ in range(4)], []

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for rows in self._rows)


def _mean(x: Float[Tensor, "B K T D"], fresh: list[int]) -> Float[Tensor, "1 K 1 D"]:
    """Of each head's tokens, the first fresh[b] of every sequence; 0 of none."""
    real = torch.arange(x.shape[2], device=x.device) < torch.tensor(fresh, device=x.device)[:, None]
    total = x.masked_fill(~real[:, None, :, None], 0).sum((0, 2), keepdim=True)
    return total / max(sum(fresh), 1)


def _rounded(x: Float[Tensor, "B K T D"]) -> tuple[Int[Tensor, "B K T D"], Float[Tensor, "B K T 1"]]:
    """The nearest of −127 to 127 times each row's scale."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8), scale


def _turned(x: Float[Tensor, "B N T D"]) -> Float[Tensor, "B N T D"]:
    """x R in float32: float16 has no room for the sum of a row's numbers."""
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ rotation(x.shape[-1]).to(x.device, torch.float32)


def _turned_back(x: Float[Tensor, "B N T D"], dtype: torch.dtype) -> Float[Tensor, "B N T D"]:
    """x Rᵀ, where rounding may take it beyond what `dtype` holds its largest number."""
    most = torch.finfo(dtype).max
    with torch.autocast(x.device.type, enabled=False):
        return (x.float() @ rotation(x.shape[-1]).to(x.device, torch.float32).T).clamp(-most, most).to(dtype)


@cache
def rotation(D: int) -> Float[Tensor, "D D"]:
    """R[a, b] = √(2 / D) · cos(π (a + 1/2) b / D), the first column by 1/√2: orthonormal (Ahmed et al. 1974)."""
    a, b = torch.arange(D, dtype=torch.float64)[:, None] + 0.5, torch.arange(D, dtype=torch.float64)
    matrix = (math.pi * a * b / D).cos() * math.sqrt(2 / D)
    matrix[:, 0] /= math.sqrt(2)
    return matrix
