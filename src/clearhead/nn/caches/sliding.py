"""Sliding: a cache of the last tokens, and of the first few where those are kept as sinks."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import Pattern, attention, causal, decode
from clearhead.attend import window as window_of
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import (
    Cache,
    check_alike,
    counted,
    cropped,
    following,
    is_even,
    looks_back,
    real,
    taken,
    without_padding,
)
from clearhead.nn.caches.rows import Rows, Slots
from clearhead.nn.positions.rotary import Rotary, turn


class Sliding(Cache):
    """Keeps the last `window` keys (Mistral, Jiang et al. 2023) and the first `sinks` (StreamingLLM, Xiao et al. 2023).

    So an endless text costs bounded memory. A query sees itself, the window − 1 keys before it, and the sinks; the
    pattern must be `causal()` or `window(w)`.

    Heads that have nothing to say put their weight on the first tokens, and a model falls apart when these are gone.
    Kept as sinks, they stand as if directly before the window: positions are counted inside the cache, p = min(i,
    sinks + window − 1) for the query of token i, so that no distance is longer than those that the model knows. For
    that `position` must be the model's `Rotary`; without one they stay where they were, as a model without positions
    has it. Rotations add: a key that moves is turned back by as much, and to the sinks each query is turned back
    instead, as they are few and the distance to them is each query's own.

    Room for a quarter more than the window lets tokens be dropped many at a time. It can be cropped to before the last
    write, and as far beyond as nothing is missing.

    Args:
        window: how many keys a query sees, itself included, sinks aside.
        sinks: how many first tokens are kept.
        position: by which q and k are turned; only with sinks.

    Raises ClearheadError for a window below 1, a position whose scaling grows, a pattern that looks elsewhere, with
    sinks for a bias, and where it is cropped to what is no longer there.

    >>> import clearhead as ch, torch
    >>> cache = Sliding(8)
    >>> q, k, v = torch.randn(1, 8, 99, 64), torch.randn(1, 2, 99, 64), torch.randn(1, 2, 99, 64)
    >>> out = cache.attend(q, k, v, pattern=ch.window(8))
    >>> torch.allclose(out, ch.attention(q, k, v, pattern=ch.window(8)), atol=1e-6)
    True
    >>> cache.lengths, cache.kept
    (tensor([99]), [7])
    """

    def __init__(self, window: int, sinks: int = 0, position: Rotary | None = None) -> None:
        super().__init__()
        if window < 1 or sinks < 0:
            raise ClearheadError(
                f"Sliding: got a window of {window} and {sinks} sinks; a window counts the query itself, so expected "
                "at least 1, and sinks at least 0."
            )
        if position is not None and position.scaling.grows:
            raise ClearheadError(
                f"Sliding: keys that move are turned by their distance, but {position.scaling!r} turns by the text's "
                "length too; expected a scaling that does not grow."
            )
        self.window, self.sinks, self.position = window, sinks, position if sinks else None
        room = sinks + window + max(window // 4, 16)
        self._k, self._v, self._room = Rows(room), Rows(room), room
        self._kept: list[int] = []

    @property
    def kept(self) -> list[int]:
        """How many keys of each sequence are there: what no later query can see is dropped now and then."""
        return self._kept

    def positions(self, T: int) -> Int[Tensor, "_ T"]:
        """Where the next T tokens will stand: inside the cache where there are sinks and a position to turn by."""
        return super().positions(T) if self.position is None else following(self._after_dropping(T), T)

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Write behind what is there. Where there is no room, what these tokens will not see is dropped before."""
        _, counts = self._next(k, v, new)
        T, fresh = k.shape[2], counted(new, len(k), k.shape[2])
        self._keep(self._after_dropping(T))
        slots = Slots.of(self._kept or [0] * len(k), fresh, T)
        self._k.put(k, slots)
        self._v.put(v, slots)
        self._counts = counts
        self._kept = [n + more for n, more in zip(self._kept or [0] * len(k), fresh, strict=True)]

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """Views of the sinks and of what follows: the window, and perhaps some before it."""
        longest = max(self._kept, default=0)
        return self._k.first(longest), self._v.first(longest)

    def _written_and_attended(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T Dv"],
        new: Int[Tensor, " B"] | None,
        pattern: Pattern,
        options: dict[str, Any],
    ) -> Float[Tensor, "B H T Dv"]:
        """As every cache, within the window; most of a long text is dropped once it is attended to."""
        if not looks_back(pattern):
            raise ClearheadError(f"a sliding cache takes causal() or window(w), and the pattern is {pattern!r}.")
        w = self.window
        if isinstance(pattern, window_of) and pattern.left is not None:
            w = min(w, pattern.left + 1)
        if self.sinks:
            out = self._with_sinks(q, k, v, new, w, options)
        else:
            out = super()._written_and_attended(q, k, v, new, window_of(w), options)
        if max(self._kept, default=0) > self._room:
            self._keep(self._after_dropping(self._room))
        return out

    def _with_sinks(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B K T D"],
        v: Float[Tensor, "B K T Dv"],
        new: Int[Tensor, " B"] | None,
        w: int,
        options: dict[str, Any],
    ) -> Float[Tensor, "B H T Dv"]:
        """Two attentions, to the window and to the sinks before it, weighed by their sums of exp(s)."""
        if options.get("bias") is not None:
            raise ClearheadError("a sliding cache with sinks takes no bias: rows are dropped between them and a query.")
        check_alike(k, v, q)
        T, fresh = q.shape[2], counted(new, q.shape[0], q.shape[2])
        self.write(k, v, new)
        past = torch.tensor(self._kept, dtype=torch.int64) - torch.tensor(fresh, dtype=torch.int64)
        keys, values = self.read()
        sinks = [min(n, self.sinks) for n in self._kept]
        back = (past[:, None] + torch.arange(T) - (self.sinks + w - 1)).clamp(min=0)
        turned = self._back(q, back)
        far = {**options, "sinks": None, "return_lse": True}
        near = {**options, "return_lse": True}
        if T == 1 and not torch.is_grad_enabled():
            lengths = None if is_even(self._kept) else torch.tensor(self._kept)
            out, lse = decode(q, keys, values, lengths=lengths, window=w, **near)
            seen = (past + 1 - w).clamp(0, self.sinks)
            before, lse_before = decode(
                turned, keys[:, :, : self.sinks], values[:, :, : self.sinks], lengths=seen, **far
            )
        else:
            pattern = window_of(w - 1, 0, past) & real(fresh, self._kept)
            out, lse = attention(q, keys, values, pattern=pattern, **near)
            pattern = causal(past - w) & real(fresh, sinks)
            before, lse_before = attention(
                turned, keys[:, :, : self.sinks], values[:, :, : self.sinks], pattern=pattern, **far
            )
        gap = torch.where(lse_before.isneginf(), lse_before, lse_before - lse)
        joined = torch.lerp(out.to(gap.dtype), before.to(gap.dtype), gap.sigmoid()[..., None]).to(q.dtype)
        return joined if min(fresh, default=T) == T else without_padding(joined, fresh)

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Copies these sequences."""
        longest = max(self._kept, default=0)
        self._counts, self._kept = (taken(n, rows) for n in (self._counts, self._kept))
        self._k.take(rows, longest)
        self._v.take(rows, longest)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Forgets by counting; what was dropped is not to be had back."""
        counts = cropped(self._counts, lengths)
        kept = [n - (before - after) for n, before, after in zip(self._kept, self._counts, counts, strict=True)]
        for n, after in zip(kept, counts, strict=True):
            if n < after and n < self.sinks + self.window - 1:
                raise ClearheadError(
                    f"crop: a text of {after} tokens needs the {self.window - 1} before its next, and some were "
                    "dropped already; a sliding cache is cropped to before its last write, not further."
                )
        self._counts, self._kept = counts, kept

    def _clear(self) -> None:
        self._counts, self._kept, self._k, self._v = [], [], Rows(self._room), Rows(self._room)

    @property
    def nbytes(self) -> int:
        """Of sinks, window and the room for more."""
        return self._k.nbytes + self._v.nbytes

    def _after_dropping(self, T: int) -> list[int]:
        """How many keys stay where T more are to come: all that is there if there is room."""
        return [n if n + T <= self._room else min(n, self.sinks + self.window - 1) for n in self._kept]

    def _keep(self, kept: list[int]) -> None:
        """Of each sequence the sinks and the last, so that kept[b] remain; the last are moved, and turned back."""
        if kept == self._kept:
            return
        moved = torch.tensor([before - after for before, after in zip(self._kept, kept, strict=True)])
        at = torch.arange(max(kept)).expand(len(kept), -1)
        at = torch.where(at < self.sinks, at, at + moved[:, None])
        for rows in (self._k, self._v):
            data = rows.first(max(self._kept))
            index = at.clamp(max=data.shape[2] - 1).to(data.device)[:, None, :, None]
            rows.hold(data.gather(2, index.expand(*data.shape[:2], -1, data.shape[3])))
        if self.position is not None and self._k.data is not None:
            last = self._k.data[:, :, self.sinks : max(kept)]
            last.copy_(self._back(last, moved[:, None]))
        self._kept = kept

    def _back(self, x: Float[Tensor, "B N T D"], by: Int[Tensor, "B _"]) -> Float[Tensor, "B N T D"]:
        """Turned back by so many positions."""
        if self.position is None or not bool(by.any()):
            return x
        if x.shape[-1] != self.position.head_width:
            raise ClearheadError(
                f"Sliding: got keys of width {x.shape[-1]}, and a position that turns {self.position.head_width}; "
                "expected the layer's own position. Latent attention's keys can't be moved; take Latent()."
            )
        angles = (part.expand(-1, -1, x.shape[2], -1) for part in self.position.angles(-by.to(x.device)))
        cos, sin = (part / self.position.temperature for part in angles)  # which the first turn brought
        return turn(x, cos, sin, self.position.layout)
