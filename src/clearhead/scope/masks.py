"""What a model's mask says: the pattern in it, and the bias in it, in O(T) where that can be."""

import weakref
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clearhead.attend.biases import Bias, dense, relative
from clearhead.attend.fingerprint import fingerprint
from clearhead.attend.pattern import Pattern
from clearhead.attend.runs import Runs
from clearhead.errors import ClearheadError

Said = tuple[Pattern | None, Bias | None]


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

        A boolean mask is a pattern, True = may attend. A float mask hides where it is −inf, as low as a type's
        half range, or 10,000 below the highest of its row, as older models write it: the weight there is 0.
        What it adds elsewhere is a bias, kept as a table where it depends on the distance j − i alone (T5,
        ALiBi), and else as it came; as it came too where it is learned.
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
    hidden = (mask <= torch.finfo(mask.dtype).min / 2) | (mask <= mask.amax(-1, keepdim=True) - 9_999)
    hides = bool(hidden.any())
    pattern = _pattern(~hidden, Tq, Tk) if hides else None
    if learned or not bool((mask.masked_fill(hidden, 0) if hides else mask).any()):
        return pattern, None
    table = _by_distance(mask, hidden, Tq, Tk) if hides else _toeplitz(mask, Tq, Tk)
    return pattern, table or dense(mask.masked_fill(hidden, -torch.inf))


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
