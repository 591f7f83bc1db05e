"""Absolute positions: a vector for each place, added to the token that stands there."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.positions.position import Position, in_float64


class Sinusoidal(Position):
    """Sines and cosines of falling frequency, added to the tokens (Vaswani et al. 2017, § 3.5).

    p[t, 2n] = sin(t · θ_n) and p[t, 2n + 1] = cos(t · θ_n), with θ_n = base^(−2n / width). `layout="halves"` puts all
    sines before all cosines, as Marian does. Nothing is learned and no place is the last; but a model has never
    seen the sums that places beyond its training make. Raises ClearheadError for an odd width or an unknown layout.

    >>> Sinusoidal(4).add(torch.zeros(1, 2, 4), torch.tensor([[0, 1]]))
    tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
             [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, width: int, base: float = 10_000.0, *, layout: Literal["pairs", "halves"] = "pairs") -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ClearheadError(f"Sinusoidal: got width {width}; expected an even one, a sine and a cosine each.")
        if layout not in ("pairs", "halves"):
            raise ClearheadError(f"Sinusoidal: got layout {layout!r}; expected 'pairs' or 'halves'.")
        self.width, self.base, self.layout = width, base, layout

    def add(self, x: Float[Tensor, "B T E"], at: Int[Tensor, "_ T"]) -> Float[Tensor, "B T E"]:
        """x + p[at]; the angles are float64, so that no place is too far."""
        at = in_float64(at.to(x.device))
        n = torch.arange(0, self.width, 2, dtype=torch.float64, device=at.device)
        angles = at[..., None] * self.base ** (-n / self.width)
        if self.layout == "halves":
            places = torch.cat((angles.sin(), angles.cos()), -1)
        else:
            places = torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
        return x + places.to(x)

    def extra_repr(self) -> str:
        """Width and base."""
        return f"{self.width}, base={self.base:g}, layout={self.layout!r}"


class Learned(Position):
    """A learned vector for each of `length` places, added to the tokens (Gehring et al. 2017; BERT, GPT-2).

    x + table[at + offset]; `table (length, width)`. With an offset the first rows stand for no place, such as the two
    of RoBERTa and OPT. There is nothing beyond the table's end: a token there is an error.

    >>> Learned(512, 64).add(torch.zeros(2, 3, 64), torch.arange(3)[None]).shape
    torch.Size([2, 3, 64])
    """

    def __init__(self, length: int, width: int, offset: int = 0) -> None:
        super().__init__()
        if not 0 <= offset < length:
            raise ClearheadError(
                f"Learned: got offset {offset} for a table of {length} rows; expected a row beyond it."
            )
        self.table = nn.Parameter(torch.randn(length, width) * 0.02)
        self.offset = offset

    def add(self, x: Float[Tensor, "B T E"], at: Int[Tensor, "_ T"]) -> Float[Tensor, "B T E"]:
        """x + table[at + offset]."""
        last = len(self.table) - self.offset - 1
        known = not torch.compiler.is_compiling() and not at.is_meta and at.numel()
        if known and int(at.max()) > last:
            raise ClearheadError(
                f"Learned: got a token at position {int(at.max())}, counted from 0; expected none beyond {last}, "
                "the last in the table. Give a shorter text, or a longer table and train it."
            )
        return x + self.table[at.to(self.table.device) + self.offset]

    def extra_repr(self) -> str:
        """The table's shape."""
        return ", ".join(map(str, (*self.table.shape, *([f"offset={self.offset}"] if self.offset else []))))
