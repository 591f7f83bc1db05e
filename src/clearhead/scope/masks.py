"""What a model's mask says: the pattern in it, and the bias in it, in O(T) where that can be."""

import weakref
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from clearhead.attend.biases import Bias, dense, relative
from clearhead.attend.fingerprint import fingerprint
from clearhead.attend.pattern import Pattern
from clearhead.attend.runs import Runs
from clearhead.errors import ClearheadError

Said = tuple[Pattern | None, Bias | None]

HIDES = 9_900
"""How far below the highest of its row a number hides: older models write −10,000, which is −9,984 in bfloat16."""


@dataclass(frozen=True, eq=False)
class masked(Pattern):
    """What a mask showed, as the runs that were read from it."""

    known: Runs

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return Runs(self.known.start.to(device), self.known.stop.to(device), self.known.keys)

    def __repr__(self) -> str:
        B, H, Tq, _ = self.known.start.shape
        return f"masked({B}, {H}, {Tq}, {self.known.keys})"


@dataclass(eq=False)
class MaskReader:
    """Reads masks of shape (B or 1, H or 1, Tq, Tk), and remembers them while they live.

    A model hands one mask to all its layers, or two in turn, so that each is read once.
    """

    _remembered: dict[tuple[object, ...], "_Remembered"] = field(default_factory=dict)

    def read(self, mask: Tensor, Tq: int, Tk: int) -> Said:
        """The pattern (None: all is visible) and the bias (None: nothing is added) that a mask stands for.

        A boolean mask is a pattern, True = may attend. A float mask hides where it is −inf, and where it is more
        than `HIDES` below the highest of its row: the weight there is 0. A row that is low throughout, as that of
        a padding token, hides nothing: it gives what PyTorch gives, in every dtype.

        What the mask adds elsewhere is a bias. It is kept in O(T) where it is the same for all that a query may see,
        as one column, and where it depends on the distance j − i alone (T5, ALiBi), as a table; else, and where it is
        learned, as it came.
        """
        learned = mask.requires_grad and torch.is_grad_enabled()
        key = (mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, learned, Tq, Tk)
        known = self._remembered.get(key)
        if known is None or not known.is_of(mask):
            known = self._remembered[key] = _Remembered(mask, _read(mask, learned, Tq, Tk))
            known.owner = weakref.ref(_owner(mask), lambda _: self._remembered.pop(key, None))
        return (known.said[0], dense(mask)) if learned else known.said


class _Remembered:
    """What one mask said. While the owner of its memory lives, nothing else has its address."""

    owner: "weakref.ref[Tensor]"

    def __init__(self, mask: Tensor, said: Said) -> None:
        self.said = said
        self._fingerprint = fingerprint(mask)

    def is_of(self, mask: Tensor) -> bool:
        """Whether this is the same mask, unchanged."""
        return self.owner() is _owner(mask) and self._fingerprint == fingerprint(mask)


def _owner(mask: Tensor) -> Tensor:
    """The tensor whose memory the mask shows: layers may be handed a view of their own."""
    return mask if mask._base is None else mask._base


@torch.inference_mode(False)  # what is remembered may be used in training too
@torch.no_grad()
def _read(mask: Tensor, learned: bool, Tq: int, Tk: int) -> Said:
    if mask.dim() > 4:
        raise ClearheadError(f"a mask of shape {tuple(mask.shape)}: expected at most (B, H, Tq, Tk).")
    mask = mask[(None,) * (4 - mask.dim())]
    if mask.dtype == torch.bool:
        return (None if bool(mask.all()) else _pattern(mask, Tq, Tk)), None
    highest = mask.amax(-1, keepdim=True)
    # Strictly below: in a row of −1e9 the difference rounds to the highest itself.
    hidden = (mask == -torch.inf) | (mask < highest - HIDES)
    hides = bool(hidden.any())
    pattern = _pattern(~hidden, Tq, Tk) if hides else None
    if learned:
        return pattern, None
    if bool(((mask == highest) | hidden).all()):
        column = highest.masked_fill(highest == -torch.inf, 0)
        return pattern, dense(column) if bool(column.any()) else None
    table = _by_distance(mask, hidden, Tq, Tk) if hides else _toeplitz(mask, Tq, Tk)
    return pattern, table or dense(mask.masked_fill(hidden, -torch.inf))


def low_rows(bias: Bias | None) -> Bool[Tensor, "#B #H #Tq"] | None:
    """Queries to all of whose scores a mask adds what hides keys from others, as to those of padding; None if none."""
    if not isinstance(bias, dense):
        return None
    low = bias.weights[0].amax(-1) < -HIDES
    return low if bool(low.any()) else None


def _pattern(visible: Tensor, Tq: int, Tk: int) -> masked:
    return masked(Runs.of_mask(visible.expand(-1, -1, Tq, Tk)))


def _toeplitz(mask: Tensor, Tq: int, Tk: int) -> relative | None:
    """The table over distance that a mask makes which hides nothing, if it makes one."""
    if mask.shape[-2:] != (Tq, Tk) or not torch.equal(mask[..., 1:, 1:], mask[..., :-1, :-1]):
        return None
    tables = torch.cat([mask[..., :, 0].flip(-1), mask[..., 0, 1:]], -1)
    return relative(tables[0], zero=Tk - 1) if bool((tables == tables[:1]).all()) else None


def _by_distance(mask: Tensor, hidden: Tensor, Tq: int, Tk: int) -> relative | None:
    """The table over distance that the visible entries of a mask make, if they make one."""
    if mask.shape[-2:] != (Tq, Tk):
        return None
    distances = Tq + Tk - 1
    entry = (torch.arange(Tk) - torch.arange(Tq)[:, None] + Tq - 1).to(mask.device).expand(mask.shape[0], -1, -1)
    tables = []
    for head in range(mask.shape[1]):
        seen = ~hidden[:, head]
        at, values = entry[seen], mask[:, head][seen]
        table = mask.new_zeros(distances).index_put((at,), values)
        if not torch.equal(table[at], values):
            return None
        tables.append(table)
    # relative() counts distance from the query's position, Tk − Tq + row.
    return relative(torch.stack(tables), zero=Tk - 1)
