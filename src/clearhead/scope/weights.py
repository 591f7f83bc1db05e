"""One attention's weights, never held: made again from q, k and lse for the rows and tiles asked for."""

from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import backends, native, reference, second
from clearhead.attend.api import checked
from clearhead.attend.biases import Bias
from clearhead.attend.call import Call
from clearhead.attend.pattern import Pattern
from clearhead.attend.scores import Score
from clearhead.attend.statistics import Statistics
from clearhead.errors import ClearheadError
from clearhead.scope.aims import of_text
from clearhead.scope.indexing import Indices, index, indices

LARGEST = 2**26
"""The most weights that `weights()` makes without `force`: 256 MiB of float32."""
PAIRS_AT_A_TIME = 8192


class Weights:
    """The weights w[i, j] = exp(s[i, j] − lse[i]) of one attention, looked at without holding T × T of them.

    Takes the arguments of `attention()` but v, which the weights do not depend on. Holds q, k and, for every
    head and query, lse and the statistics, made in one pass. `rows` and `toward` recompute just what they
    name; `received`, `top` and `map` each take one more pass over the scores, by the native kernels where
    they take the call and `backend` does not say otherwise.

    >>> import clearhead as ch, torch
    >>> q, k = torch.randn(1, 4, 100, 16), torch.randn(1, 2, 100, 16)
    >>> weights = ch.Weights(q, k, pattern=ch.causal())
    >>> weights.rows([5, 9], head=2).shape
    torch.Size([2, 100])
    >>> weights.map(size=(10, 10)).shape
    torch.Size([1, 4, 10, 10])
    """

    statistics: Statistics
    """Of every head and query, `(B, H, Tq)` each."""

    @torch.no_grad()
    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        *,
        pattern: Pattern | None = None,
        bias: Bias | Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        score: str | Score = "scaled",
        backend: str = "auto",
    ) -> None:
        v = k[..., :0]
        call = checked(q, k, v, pattern=pattern, bias=bias, scale=scale, softcap=softcap, sinks=sinks, score=score)
        self._hold(call, backends.choose(call, backend).forward(call, True)[2], backend in ("auto", "native"))
        if backend == "reference":  # a pass is then one tile, the whole: the plain definitions, to compare with
            self._tile = (max(self.shape[2], 1), max(self.shape[3], 1))

    @classmethod
    def made(cls, call: Call, statistics: Statistics) -> "Weights":
        """Of a call whose statistics are known already."""
        weights = cls.__new__(cls)
        weights._hold(call, statistics)
        return weights

    def _hold(self, call: Call, statistics: Statistics, kernels: bool = True) -> None:
        self.call = call
        self.statistics = statistics
        self._kernels = kernels and native.refuses(call) is None
        self._tile = call.score.tile

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, Tq, Tk)."""
        return (*self.call.q.shape[:3], self.call.k.shape[2])

    @property
    def lse(self) -> Float[Tensor, "B H Tq"]:
        """log Σ_j exp s[i, j]."""
        return self.statistics.lse

    def __repr__(self) -> str:
        B, H, Tq, Tk = self.shape
        return f"Weights(B={B}, H={H}, Tq={Tq}, Tk={Tk})"

    @torch.no_grad()
    def rows(self, i: Indices, head: SupportsIndex | None = None, batch: SupportsIndex = 0) -> Tensor:
        """Exact weights of the queries i: `(len(i), Tk)` for one head, `(H, len(i), Tk)` for all."""
        B, H, Tq, Tk = self.shape
        i = indices(i, "query i", Tq)
        if head is not None:
            head = index(head, "head", H)
        b = index(batch, "batch", B)
        w = reference.softmax(of_text(self.call, b).take(i.to(self.call.q.device)))[1][0]
        return w if head is None else w[head]

    def weights(self, head: SupportsIndex | None = None, batch: SupportsIndex = 0, *, force: bool = False) -> Tensor:
        """The whole matrix, `(Tq, Tk)` for one head, `(H, Tq, Tk)` for all; refused beyond a size."""
        _, H, Tq, Tk = self.shape
        if H * Tq * Tk > LARGEST and not force:
            raise ClearheadError(
                f"weights: H = {H}, Tq = {Tq}, Tk = {Tk} make {H * Tq * Tk:,} weights, more than {LARGEST:,}. "
                "Ask for rows(i), top(k) or map(size=…), or say force=True."
            )
        return self.rows(range(Tq), head, batch)

    @torch.no_grad()
    def at(
        self, i: Int[Tensor, " pairs"], j: Int[Tensor, " pairs"], batch: SupportsIndex = 0
    ) -> Float[Tensor, "H pairs"]:
        """w[i, j] of single pairs: O(D) each, no pass over anything. A hidden pair's weight is 0."""
        b = index(batch, "batch", self.shape[0])
        some = range(0, max(len(i), 1), PAIRS_AT_A_TIME)
        parts = [self._at(i[a : a + PAIRS_AT_A_TIME], j[a : a + PAIRS_AT_A_TIME], b) for a in some]
        return torch.cat(parts, -1)

    def _at(self, i: Tensor, j: Tensor, batch: int) -> Tensor:
        call = self.call
        # Each pair is a batch of its own, with one query and one key.
        q = call.q[batch, :, i].transpose(0, 1)[:, :, None].to(call.dtype)
        k = call.k[batch, :, j].transpose(0, 1)[:, :, None].to(call.dtype)
        s = call.content(q, k, *call.score_weights)[..., 0, 0].T
        if call.bias is not None:
            bias = call.bias.at(i, j, call.past, *call.bias_weights)
            s = s + bias[batch % bias.shape[0]].to(s.dtype)
        sees = call.runs.sees(i, j)
        top, peak = self.statistics.max_score[batch, :, i], self.statistics.peak[batch, :, i]
        w = torch.exp(s - top.masked_fill(top == -torch.inf, 0)) * peak
        return w.masked_fill(~sees[batch % sees.shape[0]], 0)

    def toward(self, targets: Int[Tensor, "*B Tq"]) -> Float[Tensor, "B H Tq"]:
        """The weight that each query puts on a key named for it: w[i, targets[i]]; 0 where the target is −1.

        O(T · D): no pass over the scores. `targets` is `(Tq,)` or `(B, Tq)`. Most roles of heads are defined
        by it; see `clearhead.scope.roles`.
        """
        B, H, Tq, Tk = self.shape
        if targets.shape not in ((Tq,), (B, Tq)):
            raise ClearheadError(
                f"toward: got targets of shape {tuple(targets.shape)}, expected one key a query, (Tq,) = ({Tq},) "
                f"or (B, Tq) = ({B}, {Tq})."
            )
        indices(targets.clamp(min=0), "target", Tk)
        i = torch.arange(Tq, device=self.call.q.device)
        w = torch.stack([self.at(i, row.clamp(min=0), b) for b, row in enumerate(targets.expand(B, Tq))])
        return w.masked_fill((targets < 0).expand(B, Tq)[:, None], 0)

    @torch.no_grad()
    def received(self) -> Float[Tensor, "B H Tk"]:
        """The column mass Σ_i w[i, j]: how much each key is looked at. One pass over the scores."""
        call, seen = self.call, self.statistics
        if self._kernels:
            return second.received(call, seen.max_score, seen.peak)
        total = self.lse.new_zeros(*self.shape[:2], self.shape[3])
        for rows, pieces in call.runs.tiles(*self._tile):
            for columns, _ in pieces:
                total[:, :, columns] += call.weights(seen.max_score, seen.peak, rows, columns).sum(-2)
        return total

    @torch.no_grad()
    def top(self, k: int, share: float = 1.0) -> tuple[Int[Tensor, "B H Tq n"], Float[Tensor, "B H Tq n"]]:
        """The k heaviest keys of each query and their weights, heaviest first.

        With `share`, only as many of them as are needed to hold that share of the row's weight. Where a
        query has fewer the key is −1 and the weight 0. One pass over the scores.
        """
        if k < 1 or not 0 < share <= 1:
            raise ClearheadError(f"top: got k = {k}, share = {share}; expected k at least 1, 0 < share ≤ 1.")
        n = min(k, self.shape[3])
        if self._kernels and n <= second.LONGEST:
            keys, best = second.top(self.call, self.statistics.max_score, self.statistics.peak, n)
        else:
            keys, best = self._heaviest(n)
        before = best.cumsum(-1) - best
        needed = (before < share * self._total()[..., None]) & (best > 0)
        return keys.masked_fill(~needed, -1), best.masked_fill(~needed, 0)

    def _heaviest(self, n: int) -> tuple[Int[Tensor, "B H Tq n"], Float[Tensor, "B H Tq n"]]:
        """The n heaviest keys and their weights, tile by tile."""
        call, seen = self.call, self.statistics
        keys, weights = [], []
        for rows, pieces in call.runs.tiles(*self._tile):
            shape = (*self.shape[:2], rows.stop - rows.start)
            best = self.lse.new_zeros(*shape, n)
            best_keys = torch.full((*shape, n), -1, device=best.device)
            for columns, _ in pieces:
                w = call.weights(seen.max_score, seen.peak, rows, columns)
                all_keys = torch.cat([best_keys, call.columns(columns).expand(w.shape)], -1)
                best, at = torch.cat([best, w], -1).topk(n, -1)
                best_keys = all_keys.gather(-1, at)
            keys.append(best_keys)
            weights.append(best)
        return torch.cat(keys, 2), torch.cat(weights, 2)

    def _total(self) -> Float[Tensor, "B H Tq"]:
        """The weight that all the keys of a row hold: 1, or less where a sink takes its part."""
        if self.call.sinks is None:
            return torch.ones_like(self.lse)
        return -torch.expm1(self.call.sinks[:, None].to(self.lse.dtype) - self.lse)

    @torch.no_grad()
    def map(
        self,
        rows: slice | None = None,
        columns: slice | None = None,
        size: tuple[int, int] = (64, 64),
    ) -> Float[Tensor, "B H height width"]:
        """The weights of a region, pooled to a picture of `size`: each cell is the mean of its pairs' weights.

        `rows` and `columns` are the region, all of it unless said. A region smaller than the picture is shown
        one cell a pair. One pass over the region's scores; nothing larger than a tile and the picture is held.
        """
        _, _, Tq, Tk = self.shape
        top, bottom, down = (rows or slice(None)).indices(Tq)
        left, right, across = (columns or slice(None)).indices(Tk)
        if (down, across) != (1, 1):
            raise ClearheadError(f"map: the region rows={rows}, columns={columns} has a step; expected slices without.")
        if bottom <= top or right <= left or min(size) < 1:
            raise ClearheadError(
                f"map: the region rows={rows}, columns={columns} of Tq = {Tq}, Tk = {Tk}, at size {size}, is empty."
            )
        height, width = min(size[0], bottom - top), min(size[1], right - left)
        device = self.call.q.device
        region = self.call.take(torch.arange(top, bottom, device=device))
        max_score, peak = (x[:, :, top:bottom] for x in (self.statistics.max_score, self.statistics.peak))
        if self._kernels:
            return second.picture(region, max_score, peak, slice(left, right), (height, width))
        row_cell = torch.arange(bottom - top, device=device) * height // (bottom - top)
        column_cell = torch.arange(right - left, device=device) * width // (right - left)
        picture = peak.new_zeros(*self.shape[:2], height, width)
        for part, pieces in region.runs.tiles(*self._tile):
            for piece, _ in pieces:
                a, b = max(piece.start, left), min(piece.stop, right)
                if a < b:
                    w = region.weights(max_score, peak, part, slice(a, b))
                    narrow = w.new_zeros(*w.shape[:-1], width)
                    narrow.index_add_(-1, column_cell[a - left : b - left], w)
                    picture.index_add_(-2, row_cell[part], narrow)
        area = row_cell.bincount(minlength=height)[:, None] * column_cell.bincount(minlength=width)
        return picture / area
