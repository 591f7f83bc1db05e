"""Parts: what one weight of ours is made of in a checkpoint: joined, transposed, interleaved, or of each expert."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Union

import torch
from torch import Tensor

Source = Union[str, "Part", None]
"""What a weight of ours is made of: a weight of theirs by its name, several in a `Part`, or None: zeros, which a
checkpoint does not keep."""


@dataclass(frozen=True)
class Place:
    """Where a weight belongs."""

    n: str = ""
    """Its layer's number."""
    e: int = 0
    """Its expert's number."""
    heads: tuple[int, int] = (1, 1)
    """H and K of its attention."""
    lacking: str = ""
    """How the description's names begin where the checkpoint's do not."""

    def name(self, pattern: str) -> str:
        """The name in the checkpoint."""
        return pattern.replace("{n}", self.n).replace("{e}", str(self.e)).removeprefix(self.lacking)


class Part:
    """One weight of ours, made of `parts` of theirs.

    `apart` gives each of theirs, from ours; `together` is its inverse. Reading, writing, and which shapes a
    checkpoint should have, all follow from these two.
    """

    def __init__(self, *parts: Source) -> None:
        self.parts = parts

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Each of theirs, as a view of ours where it can be one."""
        raise NotImplementedError

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """Ours, out of each of theirs."""
        raise NotImplementedError

    def pieces(self, ours: Tensor, place: Place) -> Iterator[tuple[Source, Tensor, Place]]:
        """Each part, what it is, and where it belongs."""
        for part, piece in zip(self.parts, self.apart(ours, place), strict=True):
            yield part, piece, place


def write(part: Source, ours: Tensor, place: Place) -> Iterator[tuple[str, Tensor]]:
    """What `ours` is in the checkpoint, by name."""
    if isinstance(part, str):
        yield place.name(part), ours
    elif part is not None:
        for below, piece, where in part.pieces(ours, place):
            yield from write(below, piece, where)


def read(part: Source, get: Callable[[str], Tensor], like: Tensor, place: Place) -> Tensor:
    """Ours, from the checkpoint; `like` has its shape and dtype."""
    if isinstance(part, str):
        return get(place.name(part))
    if part is None:
        return torch.zeros_like(like, device="cpu")
    return part.together([read(below, get, piece, where) for below, piece, where in part.pieces(like, place)], place)


class Joined(Part):
    """Equal parts one after the other along `dim`: a feed-forward's gate and up.

    A part that is None is zeros, and is dropped on the way back: Whisper's keys have no bias.
    """

    def __init__(self, *parts: Source, dim: int = 0) -> None:
        super().__init__(*parts)
        self.dim = dim

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Slices of equal size."""
        return list(ours.tensor_split(len(self.parts), self.dim))

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """The slices, joined."""
        return torch.cat(theirs, self.dim)


class Grouped(Joined):
    """The rows of queries, keys and values, for H heads on K key/value heads; or of keys and values alone."""

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Slices in the proportion H : K : K."""
        H, K = place.heads
        shares = [H, K, K][-len(self.parts) :]
        return list(ours.split([ours.shape[self.dim] * share // sum(shares) for share in shares], self.dim))


class Transposed(Part):
    """Rows for columns: GPT-2 keeps its weights as (in, out), and so do GPT-OSS's experts."""

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Ours, transposed."""
        return [ours.mT]

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """Theirs, transposed."""
        return theirs[0].mT.contiguous()


class Leading(Part):
    """With dimensions of one in front: Marian's bias of the logits is (1, V), ViT's class token (1, 1, E)."""

    def __init__(self, part: Source, count: int) -> None:
        super().__init__(part)
        self.count = count

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Ours, with the dimensions in front."""
        return [ours[(None,) * self.count]]

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """Theirs, without them."""
        return theirs[0][(0,) * self.count]


class Interleaved(Part):
    """Rows that they order by (head, q | k | v, D), as GPT-NeoX and BLOOM do, and we by (q | k | v, head, D).

    With `count=2` and `each_row=True`, theirs take turns row by row, as GPT-OSS's gate and up do along `dim`.
    """

    def __init__(self, part: Source, *, count: int = 3, each_row: bool = False, dim: int = 0) -> None:
        super().__init__(part)
        self.count, self.each_row, self.dim = count, each_row, dim

    def apart(self, ours: Tensor, place: Place) -> list[Tensor]:
        """Ours, in their order."""
        return [self._swapped(ours, self.count, self._groups(ours, place))]

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """Theirs, in our order."""
        return self._swapped(theirs[0], self._groups(theirs[0], place), self.count)

    def _groups(self, weight: Tensor, place: Place) -> int:
        return weight.shape[self.dim] // self.count if self.each_row else place.heads[0]

    def _swapped(self, weight: Tensor, first: int, second: int) -> Tensor:
        split: Tensor = weight.unflatten(self.dim, (first, second, -1))
        return split.transpose(self.dim, self.dim + 1).flatten(self.dim, self.dim + 2)


class Each(Part):
    """One of theirs for each expert, `{e}` in its name, stacked along a new first dimension."""

    def together(self, theirs: list[Tensor], place: Place) -> Tensor:
        """All experts', stacked."""
        return torch.stack(theirs)

    def pieces(self, ours: Tensor, place: Place) -> Iterator[tuple[Source, Tensor, Place]]:
        """Each expert's own."""
        for e, piece in enumerate(ours.unbind(0)):
            yield self.parts[0], piece, replace(place, e=e)
