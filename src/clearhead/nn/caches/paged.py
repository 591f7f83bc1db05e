"""Paged: a cache whose keys and values lie in blocks of a pool, shared where texts begin alike."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import decode
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import Cache, cropped, taken
from clearhead.nn.caches.pool import Pool


class Paged(Cache):
    """PagedAttention (Kwon et al. 2023): token j of a sequence lies in its block j // block, anywhere in the pool.

    So no room is set aside for what may never come: a sequence wastes less than one block. `take` and `fork` share
    blocks, a common prompt is kept once, and a shared block is copied only when one of those who share it writes
    to it. Blocks that nobody uses any more, by `take`, `crop` or the cache's end, are used again. New tokens are
    decoded where the blocks lie; a longer text reads them as a copy, of this layer alone.

    Args:
        pool: the layer's blocks; many caches may use one.

    >>> import clearhead as ch, torch
    >>> pool = Pool(blocks=8, block=4)
    >>> cache = Paged(pool)
    >>> cache.write(torch.randn(1, 2, 10, 64), torch.randn(1, 2, 10, 64))
    >>> cache.take(torch.tensor([0, 0, 0]))
    >>> pool.free  # three sequences in three blocks
    5
    >>> cache.write(torch.randn(3, 2, 1, 64), torch.randn(3, 2, 1, 64))
    >>> pool.free  # the first two shared, and a third of its own for each
    3
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self._tables: list[list[int]] = []
        self._table: Int[Tensor, "B n"] | None = None

    def __del__(self) -> None:
        self._drop(getattr(self, "_tables", []))

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Write to the last block and to new ones; a shared one is copied before."""
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ClearheadError("a paged cache keeps no gradient: call under torch.no_grad(), or take Growing().")
        slots, counts = self._next(k, v, new)
        B, _, T, _ = k.shape
        before = self._counts or [0] * B
        self.pool.shape_for(k, v)
        if not B:
            return
        self._make_room(before, counts)
        table = self._blocks()
        b, t, at = slots.tokens or _everywhere(before, T)
        block, row = table[b, at // self.pool.block], at % self.pool.block
        for kept, x in zip(self.pool.tensors(), (k, v), strict=True):
            kept[block, :, row] = x[b, :, t].to(kept.dtype)
        self._counts = counts

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """Copies, each sequence's blocks one after the other."""
        longest = max(self._counts, default=0)
        k, v = (x[self._blocks()].transpose(1, 2).flatten(2, 3)[:, :, :longest] for x in self.pool.tensors())
        return k, v

    def decode(self, q: Float[Tensor, "B H T D"], window: int | None, **options: Any) -> Float[Tensor, "B H T Dv"]:
        """As every cache; the blocks are read where they lie."""
        k, v = self.pool.tensors()
        return decode(q, k, v, lengths=self.lengths, blocks=self._blocks(), window=window, **options)  # type: ignore[no-any-return]

    def fork(self) -> "Paged":
        """A cache that goes on from here, as `copy.copy` gives it; a block is shared until either writes to it."""
        other = Paged(self.pool)
        other._tables = [[self.pool.share(block) for block in table] for table in self._tables]
        other._counts = list(self._counts)
        return other

    def __copy__(self) -> "Paged":
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Paged":
        return self.fork()

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Shares the blocks of these sequences, and frees those of the others."""
        before, counts = self._tables, taken(self._counts, rows)
        self._tables = [[self.pool.share(block) for block in before[b]] for b in rows.tolist()]
        self._counts = counts
        self._table = None
        self._drop(before)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Frees the blocks beyond these lengths."""
        self._counts = cropped(self._counts, lengths)
        for table, n in zip(self._tables, self._counts, strict=True):
            needed = -(-n // self.pool.block)
            self._drop([table[needed:]])
            del table[needed:]
        self._table = None

    def _clear(self) -> None:
        self._drop(self._tables)
        self._counts, self._tables, self._table = [], [], None

    @property
    def nbytes(self) -> int:
        """Of the blocks that these sequences use, a shared one counted once."""
        used = {block for table in self._tables for block in table}
        return self.pool.nbytes // len(self.pool.users) * len(used)

    def _make_room(self, before: list[int], after: list[int]) -> None:
        """A block for every token that comes, and none of them shared; all of it, or an error and nothing changed."""
        size, tables = self.pool.block, self._tables or [[] for _ in before]
        shared: dict[int, int] = {}  # each block that is to be written to, by how many of these sequences
        for table, n, m in zip(tables, before, after, strict=True):
            if n % size and m > n:
                shared[table[n // size]] = shared.get(table[n // size], 0) + 1
        copies = sum(min(n, self.pool.users[block] - 1) for block, n in shared.items())
        more = [-(-m // size) - len(table) for table, m in zip(tables, after, strict=True)]
        self.pool.check_free(copies + sum(more))
        for table, n, m, new in zip(tables, before, after, more, strict=True):
            if n % size and m > n and self.pool.users[table[n // size]] > 1:
                table[n // size] = self.pool.own(table[n // size])
                self._table = None
            if new:
                table += [self.pool.new() for _ in range(new)]
                self._table = None
        self._tables = tables

    def _blocks(self) -> Int[Tensor, "B n"]:
        """The block table, as a tensor."""
        if self._table is None:
            longest = max(map(len, self._tables), default=0)
            rows = [table + [0] * (longest - len(table)) for table in self._tables]
            self._table = torch.tensor(rows, dtype=torch.int64).view(len(rows), longest)
        return self._table

    def _drop(self, tables: list[list[int]]) -> None:
        for block in (block for table in tables for block in table):
            self.pool.drop(block)


def _everywhere(counts: list[int], T: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of T tokens of each sequence: the sequence, the token, and where it stands."""
    b, t = torch.arange(len(counts)).repeat_interleave(T), torch.arange(T).repeat(len(counts))
    return b, t, torch.tensor(counts)[b] + t
