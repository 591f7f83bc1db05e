"""Our kernels in place of a watched model's own, and why some of its attentions are left to it."""

import torch
from torch import Tensor

from clearhead.scope.accelerate import accelerated
from clearhead.scope.interface import Asked
from clearhead.scope.seams import CHECKPOINT, DROPS, LEFT, NOTHING, ON_META, UNASKED, Seams
from clearhead.scope.standin import StandIn
from clearhead.scope.taking import may_see_nothing


class Beneath(StandIn):
    """Our kernels in place of a watched model's own, where nothing but rounding will differ."""

    def __init__(self, seams: Seams) -> None:
        self._seams = seams

    @property
    def here(self) -> bool:
        """Whether the model is running now, in this thread, and no one else stands in."""
        return self._seams.running.here and not accelerated()

    def batch(self, q: Tensor) -> int:
        """How many texts there are in queries (B · H, Tq, D)."""
        return self._seams.batch(q)

    def prepared(self, asked: Asked) -> Asked | str:
        """The attention, without keys that stand for no token; or why it is the model's own to compute."""
        if not self._seams.is_chosen:
            return UNASKED
        if asked.q.is_meta:
            return ON_META
        asked = self._seams.cut(asked)
        self._seams.expect(asked)
        if self._seams.kernels == "model":
            return LEFT
        if asked.dropout > 0:
            return DROPS
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return CHECKPOINT
        return NOTHING if may_see_nothing(asked) else asked
