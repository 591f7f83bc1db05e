"""What a model's mask says: the pattern in it, and the bias in it, in O(T) where that can be."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clearhead.attend.biases import Bias, dense, relative
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import where
from clearhead.errors import ClearheadError


@dataclass(eq=False)
class MaskReader:
    """Reads masks of shape (B or 1, H or 1, Tq, Tk), and remembers the last: every layer is handed the same one."""

    _last: Tensor | None = None
    _key: tuple[object, ...] = ()
    _said: tuple[Pattern | None, Bias | None] = field(default=(None, None))

    def read(self, mask: Tensor, Tq: int, Tk: int) -> tuple[Pattern | None, Bias | None]:
        """The pattern (None: all is visible) and the bias (None: nothing is added) that a mask stands for.

        A boolean mask is a pattern, True = may attend. A float mask hides where it is −inf, as low as a type's
        half range, or 10,000 below the highest of its row, as older models write it: the weight there is 0.
        What it adds elsewhere is a bias, kept as a table where it depends on the distance j − i alone (T5,
        ALiBi), and else as it came.
        """
        key = (mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, mask._version, Tq, Tk)
        if key != self._key:
            # The mask itself is held too: while it lives, nothing else has its address.
            self._last, self._key, self._said = mask, key, _read(mask, Tq, Tk)
        return self._said


def _read(mask: Tensor, Tq: int, Tk: int) -> tuple[Pattern | None, Bias | None]:
    if mask.dim() > 4:
        raise ClearheadError(f"a mask of shape {tuple(mask.shape)}: expected at most (B, H, Tq, Tk).")
    mask = mask[(None,) * (4 - mask.dim())]
    if mask.dtype == torch.bool:
        return (None if bool(mask.all()) else where(mask)), None
    hidden = (mask <= torch.finfo(mask.dtype).min / 2) | (mask <= mask.amax(-1, keepdim=True) - 9_999)
    pattern = where(~hidden) if bool(hidden.any()) else None
    if not bool((mask.masked_fill(hidden, 0) != 0).any()):
        return pattern, None
    return pattern, _by_distance(mask, hidden, Tq, Tk) or dense(mask.masked_fill(hidden, -torch.inf))


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
