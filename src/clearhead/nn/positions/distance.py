"""Positions as biases: what a score loses or gains by how far the key is from the query."""

import torch
from torch import nn

from clearhead.attend import Bias, alibi, relative
from clearhead.attend.biases import t5_bucket
from clearhead.errors import ClearheadError
from clearhead.nn.positions.position import Position


class Alibi(Position):
    """ALiBi: s[i, j] −= slope_h · |j − i|, with slopes from 2^(−8/H) down to 2^(−8) (Press et al. 2022).

    The slopes `(H,)` are fixed, as the paper advises, unless `learned`. Far keys only weigh less and less, so that
    texts beyond the training length are read as if they were of that length.

    >>> Alibi(8).slopes[:3].tolist()
    [0.5, 0.25, 0.125]
    """

    def __init__(self, heads: int, *, learned: bool = False) -> None:
        super().__init__()
        with torch.device("cpu"):  # no checkpoint has them: they must be there even where weights wait to be loaded
            slopes = alibi(heads).weights[0].flatten()
        self.slopes = nn.Parameter(slopes) if learned else slopes  # no buffer: it would be cast with the weights

    def bias(self) -> Bias:
        """−slope_h · |j − i|."""
        return alibi(self.slopes)

    def extra_repr(self) -> str:
        """How many heads."""
        return f"{len(self.slopes)}"


class T5(Position):
    """T5's buckets of distances, each with a learned bias a head (Raffel et al. 2020, § 2.1).

    s[i, j] += table[bucket(j − i), h]; `table (buckets, H)`. Half of a side's buckets are one distance each, the others
    widen as logarithms do up to `max_distance`; all beyond share the last, so that longer texts can be read. An
    encoder looks to both sides (`bidirectional`), a decoder back. Raises ClearheadError for too few buckets.

    >>> T5(4).bias().table.shape
    torch.Size([4, 257])
    """

    bucket: torch.Tensor

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 128, *, bidirectional: bool = True) -> None:
        super().__init__()
        exact = buckets // (4 if bidirectional else 2)
        if not 1 <= exact < max_distance:
            raise ClearheadError(
                f"T5: {buckets} buckets make {exact} exact distances to a side, and max_distance is {max_distance}; "
                "expected at least 1 exact distance, and max_distance beyond them."
            )
        self.table = nn.Parameter(torch.randn(buckets, heads) * 0.02)
        self.max_distance, self.bidirectional = max_distance, bidirectional
        with torch.device("cpu"):
            distance = torch.arange(-max_distance, max_distance + 1)
            self.register_buffer("bucket", t5_bucket(distance, buckets, bidirectional, max_distance), persistent=False)

    def bias(self) -> relative:
        """The table over buckets, spread over distances."""
        return relative(self.table[self.bucket].T)

    def extra_repr(self) -> str:
        """What it was made with."""
        buckets, heads = self.table.shape
        return f"{heads}, {buckets}, {self.max_distance}, bidirectional={self.bidirectional}"


class Relative(Position):
    """A learned bias for each distance and head: s[i, j] += table[h, clip(j − i)] (after Shaw et al. 2018).

    `table (H, 2 · distance + 1)`, from −distance to distance; all that is farther takes the value at that end.
    One head's table may serve all: `heads=1`. Raises ClearheadError for fewer than 1 head or distance.

    >>> Relative(4, 16).bias().table.shape
    torch.Size([4, 33])
    """

    def __init__(self, heads: int, distance: int) -> None:
        super().__init__()
        if heads < 1 or distance < 1:
            raise ClearheadError(f"Relative: got {heads} heads and distance {distance}; expected at least 1 of each.")
        self.table = nn.Parameter(torch.zeros(heads, 2 * distance + 1))

    def bias(self) -> relative:
        """The table."""
        return relative(self.table)

    def extra_repr(self) -> str:
        """Heads and distance."""
        return f"{len(self.table)}, {self.table.shape[1] // 2}"
