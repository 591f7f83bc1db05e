"""Pool: blocks of keys and values that many sequences share, each counted by how often it is used."""

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.errors import ClearheadError


class Pool:
    """`blocks` blocks of `block` tokens for one layer, in memory as one tensor; made at the first write.

    Keys are `(blocks, K, block, D)`, values `(blocks, K, block, Dv)` (PagedAttention, Kwon et al. 2023); `Paged` says
    which blocks are whose. A block that several sequences use is never written to: who would write to it takes a copy
    first. Raises ClearheadError where it is full, and for keys of other heads or another width.

    >>> pool = Pool(blocks=4, block=16)
    >>> mine = pool.new()
    >>> same = pool.share(mine)
    >>> pool.free, pool.users[mine]
    (3, 2)
    >>> pool.drop(mine), pool.drop(same), pool.free
    (None, None, 4)
    """

    def __init__(self, blocks: int, block: int = 16) -> None:
        if blocks < 1 or block < 1:
            raise ClearheadError(f"Pool: got {blocks} blocks of {block} tokens; expected at least 1 of each.")
        self.block = block
        self.users = [0] * blocks
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self._free = list(range(blocks))[::-1]

    @property
    def free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Of all blocks."""
        return sum(x.nbytes for x in (self.k, self.v) if x is not None)

    def tensors(self) -> tuple[Float[Tensor, "blocks K block D"], Float[Tensor, "blocks K block Dv"]]:
        """The blocks of keys and of values."""
        if self.k is None or self.v is None:
            raise ClearheadError("read: nothing has been written to this pool.")
        return self.k, self.v

    @torch.inference_mode(False)  # what was made in it could not be written to outside of it
    def shape_for(self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"]) -> None:
        """Makes the blocks for such keys and values, or checks that these fit; a pool not in use is made again."""
        unlike = [
            kept
            for kept, x in ((self.k, k), (self.v, v))
            if kept is not None and (kept.shape[1], kept.shape[3]) != (x.shape[1], x.shape[3])
        ]
        used = self.free < len(self.users)
        if unlike and used:
            kept = unlike[0]
            raise ClearheadError(
                f"the pool has K = {kept.shape[1]} heads of width {kept.shape[3]}, but got {tuple(k.shape)} as k and "
                f"{tuple(v.shape)} as v; one pool belongs to one layer."
            )
        if self.k is None or unlike:
            self.k, self.v = (x.new_empty(len(self.users), x.shape[1], self.block, x.shape[3]) for x in (k, v))

    def check_free(self, wanted: int) -> None:
        """Raises where fewer blocks are free."""
        if wanted > self.free:
            raise ClearheadError(
                f"the pool is full: {wanted} more blocks of {self.block} tokens are wanted, and {self.free} of "
                f"{len(self.users)} are free. Make it larger, or drop or crop a cache that uses it."
            )

    def new(self) -> int:
        """A free block, used once from now on."""
        self.check_free(1)
        block = self._free.pop()
        self.users[block] = 1
        return block

    def share(self, block: int) -> int:
        """The block, used once more."""
        self.users[block] += 1
        return block

    def drop(self, block: int) -> None:
        """The block, used once less; free when nobody does."""
        self.users[block] -= 1
        if not self.users[block]:
            self._free.append(block)

    def own(self, block: int) -> int:
        """The block itself where only one sequence uses it; else a copy, which the sequence uses in its place."""
        if self.users[block] == 1:
            return block
        copy = self.new()
        for x in self.tensors():
            x[copy] = x[block]
        self.drop(block)
        return copy
