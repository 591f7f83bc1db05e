"""Runs: for each query, the sorted half-open intervals [start, stop) of keys that it may see."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clearhead.errors import ClearheadError

_MOST = 2**31 - 1
"""Keys are numbered in 32 bits."""
_GRAIN = 32
"""Pieces of a tile begin and end at multiples of so many keys."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What each query may see, as intervals: memory O(T · runs), never T × T.

    `start` and `stop` are `(B or 1, H or 1, Tq, R)`: R runs a query, sorted, disjoint, not touching.
    A query with fewer than R has empty runs `[Tk, Tk)` at the end. `&`, `|` and `~` are interval
    arithmetic. Make one with `Runs.of`, which brings any intervals into this form.

    >>> import torch
    >>> i = torch.arange(4).view(1, 1, 4, 1)
    >>> causal = Runs.of(torch.zeros_like(i), i + 1, keys=4)
    >>> last_two = Runs.of(i - 1, i + 1, keys=4)
    >>> (causal & ~last_two).dense()[0, 0].int().tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    """

    start: Int[Tensor, "B H Tq R"]
    stop: Int[Tensor, "B H Tq R"]
    keys: int

    @classmethod
    def of(cls, start: Int[Tensor, "..."], stop: Int[Tensor, "..."], keys: int) -> "Runs":
        """Any intervals, in any order, overlapping or empty, clipped to the `keys` keys there are."""
        if keys > _MOST:
            raise ClearheadError(f"a pattern of {keys:,} keys: expected at most 2³¹ − 1, as keys have 32-bit numbers.")
        start, stop = torch.broadcast_tensors(start.clamp(0, keys), stop.clamp(0, keys))
        empty = start >= stop
        start = start.masked_fill(empty, keys).int()
        stop = stop.masked_fill(empty, keys).int()
        if start.shape[-1] != 1:
            start, stop = _overlap(start, stop, 1, keys)
        return cls(start, stop, keys)

    @classmethod
    def of_mask(cls, mask: Bool[Tensor, "B H Tq Tk"]) -> "Runs":
        """The runs of True in each row of a boolean mask."""
        keys = mask.shape[-1]
        some = max(1, 2**18 // (keys + 1))
        return cls(*_joined((_edges(rows) for rows in mask.split(some, -2)), keys), keys)

    def __and__(self, other: "Runs") -> "Runs":
        return self._combine(other, need=2)

    def __or__(self, other: "Runs") -> "Runs":
        return self._combine(other, need=1)

    def __invert__(self) -> "Runs":
        edge = self.start[..., :1]
        gaps_start = torch.cat([torch.zeros_like(edge), self.stop], -1)
        gaps_stop = torch.cat([self.start, torch.full_like(edge, self.keys)], -1)
        return Runs.of(gaps_start, gaps_stop, self.keys)

    def _combine(self, other: "Runs", need: int) -> "Runs":
        sides = self.start.shape[:-1], other.start.shape[:-1]
        if any(a != b and 1 not in (a, b) for a, b in zip(*sides, strict=True)):
            raise ClearheadError(
                f"two patterns differ over (B, H, Tq): {tuple(sides[0])} and {tuple(sides[1])}; "
                "expected each to be the same, or 1."
            )
        shape = torch.broadcast_shapes(*sides)
        start = torch.cat([r.start.expand(*shape, -1) for r in (self, other)], -1)
        stop = torch.cat([r.stop.expand(*shape, -1) for r in (self, other)], -1)
        return Runs(*_overlap(start, stop, need, self.keys), self.keys)

    @property
    def queries(self) -> int:
        """Tq."""
        return self.start.shape[-2]

    def take(self, rows: Int[Tensor, " rows"]) -> "Runs":
        """The runs of some of the queries."""
        return Runs(self.start[:, :, rows], self.stop[:, :, rows], self.keys)

    def count(self) -> Int[Tensor, "B H Tq"]:
        """How many keys each query may see."""
        return (self.stop - self.start).sum(-1)

    def mask(self, rows: slice, columns: slice) -> Bool[Tensor, "B H rows columns"]:
        """One tile of the dense mask: True = may attend."""
        n = columns.stop - columns.start
        start, stop = ((side[:, :, rows] - columns.start).clamp(0, n).long() for side in (self.start, self.stop))
        # +1 where a run begins, −1 where it ends: the sum so far is 1 inside a run. Any number of runs costs alike.
        step = torch.ones((), dtype=torch.int8, device=start.device).expand(start.shape)
        edges = torch.zeros(*start.shape[:-1], n + 1, dtype=torch.int8, device=start.device)
        edges = edges.scatter_add(-1, start, step).scatter_add(-1, stop, -step)
        return edges.cumsum(-1, dtype=torch.int8)[..., :n] > 0

    def sees(self, i: Int[Tensor, " pairs"], j: Int[Tensor, " pairs"]) -> Bool[Tensor, "B H pairs"]:
        """Whether query i may see key j, for each pair."""
        return ((self.start[:, :, i] <= j[:, None]) & (j[:, None] < self.stop[:, :, i])).any(-1)

    def dense(self) -> Bool[Tensor, "B H Tq Tk"]:
        """The whole mask. T × T: for the reference and for pictures."""
        return self.mask(slice(0, self.queries), slice(0, self.keys))

    def tiles(self, height: int, width: int) -> Iterator[tuple[slice, list[tuple[slice, bool]]]]:
        """The tiles that hold a visible pair, row of tiles by row of tiles.

        Yields for each `height` queries the pieces of at most `width` keys that any of them may see, in
        any batch or head, and whether the piece is whole: seen by all of them, so that it needs no mask.
        A piece that is not whole may hold keys that none of them sees.
        """
        if self.start.numel() == 0:  # no queries, or none in an empty batch
            yield slice(0, self.queries), []
            return
        # The last row stands in for those beyond the end: it changes neither a union nor an intersection.
        rows = torch.arange(-(-self.queries // height) * height, device=self.start.device)
        rows = rows.clamp(max=self.queries - 1).view(-1, height)
        start = self.start[:, :, rows].permute(2, 0, 1, 3, 4).flatten(1)
        stop = self.stop[:, :, rows].permute(2, 0, 1, 3, 4).flatten(1)
        sharers = height * self.start.shape[0] * self.start.shape[1]
        # Rounded out, so that keys seen here and there don't make a piece each.
        near = torch.where(start < stop, start // _GRAIN * _GRAIN, self.keys)
        far = (-(-stop // _GRAIN) * _GRAIN).clamp(max=self.keys)
        seen_by_any = _listed(*_overlap(near, far, 1, self.keys))
        seen_by_all = _listed(*_overlap(start, stop, sharers, self.keys))
        for tile, (some, every) in enumerate(zip(seen_by_any, seen_by_all, strict=True)):
            pieces = [
                (slice(a, min(a + width, stop)), any(p <= a and min(a + width, stop) <= q for p, q in every))
                for start, stop in some
                for a in range(start, stop, width)
            ]
            yield slice(tile * height, min((tile + 1) * height, self.queries)), pieces


def _overlap(
    start: Int[Tensor, "... R"], stop: Int[Tensor, "... R"], need: int, keys: int
) -> tuple[Int[Tensor, "... S"], Int[Tensor, "... S"]]:
    """Where at least `need` of a row's intervals overlap: 1 is their union, R their intersection.

    The rows are swept some at a time, so that what the sweep needs besides stays small.
    """
    some = max(1, 2**18 // start.shape[-1])
    parts = zip(start.split(some, -2), stop.split(some, -2), strict=True)
    return _joined((_sweep(*part, need, keys) for part in parts), keys)


def _edges(mask: Bool[Tensor, "B H Tq Tk"]) -> tuple[Int[Tensor, "B H Tq R"], Int[Tensor, "B H Tq R"]]:
    """Where the runs of True begin and end in each row of a mask."""
    keys = mask.shape[-1]
    if torch.compiler.is_compiling():  # which can't know how many edges there are
        edge = torch.nn.functional.pad(mask.to(torch.int8), (1, 1)).diff(dim=-1)
        position = torch.arange(keys + 1, device=mask.device, dtype=torch.int32)
        width = _most(edge == 1)
        return _pack(position, edge == 1, keys, width), _pack(position, edge == -1, keys, width)
    changes = torch.cat([mask[..., :1], mask[..., 1:] != mask[..., :-1], mask[..., -1:]], -1).flatten(0, -2)
    row, position = changes.nonzero().unbind(-1)  # a beginning, an end, a beginning, …
    count = row.bincount(minlength=len(changes))
    width = max(1, int(count.max()) // 2 if len(count) else 0)
    nth = torch.arange(len(row), device=mask.device) - (count.cumsum(0) - count)[row]
    sides = position.new_full((len(changes), width, 2), keys, dtype=torch.int32)
    sides.view(len(changes), 2 * width)[row, nth] = position.int()
    start, stop = sides.view(*mask.shape[:-1], width, 2).unbind(-1)
    return start, stop


def _joined(parts: Iterator[tuple[Tensor, Tensor]], keys: int) -> tuple[Tensor, Tensor]:
    """The starts and stops of some rows under those of others, as wide as the widest."""
    sides = list(zip(*parts, strict=True))
    width = max(start.shape[-1] for start in sides[0])
    grown = ([torch.nn.functional.pad(t, (0, width - t.shape[-1]), value=keys) for t in side] for side in sides)
    start, stop = (torch.cat(side, -2) for side in grown)
    return start, stop


def _sweep(
    start: Int[Tensor, "... R"], stop: Int[Tensor, "... R"], need: int, keys: int
) -> tuple[Int[Tensor, "... S"], Int[Tensor, "... S"]]:
    """A sweep along the keys, counting the intervals that are open.

    An opening and a closing at the same key go by their last bit: openings first for a union, so that
    touching runs join; closings first for an intersection, so that touching runs do not meet.
    """
    opening_bit = int(need > 1)
    if keys > _MOST // 2:  # twice a key's number would not fit
        start, stop = start.long(), stop.long()
    events = torch.cat([2 * start + opening_bit, 2 * stop + (1 - opening_bit)], -1).sort(-1).values
    opens = (events & 1) == opening_bit
    depth = (opens.int() * 2 - 1).cumsum(-1, dtype=torch.int32)
    position = events >> 1
    begins = opens & (depth == need) & (position < keys)
    ends = ~opens & (depth == need - 1)
    width = _most(begins)
    return _pack(position, begins, keys, width).int(), _pack(position, ends, keys, width).int()


def _pack(position: Int[Tensor, "... E"], chosen: Bool[Tensor, "... E"], keys: int, width: int) -> Tensor:
    """The chosen positions of each row at its front, `keys` behind them."""
    return torch.where(chosen, position, keys).sort(-1).values[..., :width]


def _most(chosen: Bool[Tensor, "... E"]) -> int:
    """The most runs that a row has; at most half of its events when the tensors hold no data to look at."""
    if torch.compiler.is_compiling() or chosen.numel() == 0:
        return max(1, chosen.shape[-1] // 2)
    return max(1, int(chosen.sum(-1).max()))


def _listed(start: Int[Tensor, "N R"], stop: Int[Tensor, "N R"]) -> list[list[tuple[int, int]]]:
    """As Python numbers, the empty runs left out."""
    return [
        [(a, b) for a, b in zip(starts, stops, strict=True) if a < b]
        for starts, stops in zip(start.tolist(), stop.tolist(), strict=True)
    ]


def runs_of_ids(ids: Int[Tensor, " Tk"], of_queries: Int[Tensor, " Tq"]) -> tuple[Tensor, Tensor]:
    """For each query, the runs of the keys with its id, `(Tq, R)`."""
    Tk = len(ids)
    names, code = ids.unique(return_inverse=True)
    _, lengths = code.unique_consecutive(return_counts=True)
    stop = lengths.cumsum(0)
    start = stop - lengths
    owner, order = code[start].sort(stable=True)
    nth = torch.arange(len(owner), device=ids.device) - torch.searchsorted(owner, owner)
    most = int(nth.max()) + 1 if len(nth) else 1
    table = torch.full((2, len(names) + 1, most), Tk, device=ids.device, dtype=torch.int64)  # the last has no keys
    table[0, owner, nth] = start[order]
    table[1, owner, nth] = stop[order]
    at = torch.searchsorted(names, of_queries.to(ids.dtype))
    known = torch.cat([names, names[-1:]])[at] == of_queries if Tk else at < 0
    at = at.masked_fill(~known, len(names))
    return table[0, at], table[1, at]
