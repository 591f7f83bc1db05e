"""accelerate(): any model's attention on Clearhead's kernels, and a count of what they took."""

import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from torch import nn

from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope.dispatch import looked_at_by
from clearhead.scope.modules import (
    attentions,
    class_name,
    hosts,
    in_backward,
    listed,
    named_modules,
    refuse_scripted,
)
from clearhead.scope.standin import Outcome, StandIn
from clearhead.scope.taking import why_absent
from clearhead.scope.tally import Tally

M = TypeVar("M", bound=nn.Module)

SEAMS = (
    "What can be taken is scaled_dot_product_attention, called by its full name, nn.MultiheadAttention without its "
    "weights, and the sdpa and eager kernels of Transformers."
)


@overload
def accelerate(model: None = None, *, backend: str = "native") -> "Acceleration": ...
@overload
def accelerate(model: M, *, backend: str = "native") -> M: ...
def accelerate(model: M | None = None, *, backend: str = "native") -> "Acceleration | M":
    """Runs the attention of PyTorch models on Clearhead's kernels: those of a `with` block, or one for good.

    `with ch.accelerate() as run:` takes every attention that runs in the block, in this thread, of any model.
    `model = ch.accelerate(model)` takes every attention of this model from here on, in any thread; the model is
    changed in place, `model.acceleration` is its `Acceleration`, and `model.acceleration.remove()` undoes it.

    Taken is each call that the kernels can take: softmax(scale · q kᵀ + mask) v with its gradients, equal to
    PyTorch's own up to rounding. A query from which −inf or a boolean mask hides every key gives 0, where some of
    PyTorch's kernels give NaN. Where large negative numbers hide every key, the output is PyTorch's, but the
    gradients are the formula's, which PyTorch's fused kernel loses to rounding. Dropout drops other weights than
    PyTorch's would, by chance as it does. Any other call goes to the function that it was meant for, untouched, and
    is counted with the reason.

    What `torch.compile` has compiled runs eagerly meanwhile. A checkpoint's second forward pass must be taken
    too: run the backward pass in the same block.

    Args:
        model: a model to change, or None for a `with` block.
        backend: whose kernels: "native", which is faster than PyTorch's own. Others are there to compare with.

    Raises:
        ClearheadError: for a scripted model, and for one that is accelerated already.

    Warns:
        WatchWarning: if attention ran and nothing was taken; at once, if the kernels are not there.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> with ch.accelerate(backend="tiled") as run:
    ...     _ = layer(torch.randn(1, 5, 16))
    >>> run
    Acceleration(1 attention taken, none passed)
    """
    if model is None:
        return Acceleration(backend)
    if isinstance(vars(model).get("acceleration"), Acceleration):
        raise ClearheadError(
            f"{class_name(model)} is accelerated already. model.acceleration.explain() says what was taken, and "
            "model.acceleration.remove() undoes it."
        )
    refuse_scripted(named_modules(model), "taken", "Accelerate")
    absent = why_absent(backend)
    if absent is not None:
        warnings.warn(
            f"{class_name(model)} is not faster for it: {absent}. Its attention stays PyTorch's own.", WatchWarning, 2
        )
    Acceleration(backend)._install(model)
    return model


class _Here(threading.local):
    """What goes on in this thread."""

    def __init__(self) -> None:
        self.running: list[tuple[Acceleration, nn.Module | None]] = []
        """Blocks, and modules of accelerated models, the innermost last."""
        self.switches: list[AbstractContextManager[None]] = []


_here = _Here()
_lock = threading.Lock()


def accelerated() -> bool:
    """Whether attentions that are called now, in this thread, are taken already."""
    return bool(_here.running)


@dataclass(eq=False, repr=False)
class Acceleration(Tally, StandIn):
    """What was taken and what was passed on, counted in the forward pass."""

    _names: dict[nn.Module, str] = field(default_factory=dict)
    _attentions: dict[nn.Module, str] = field(default_factory=dict)
    """Those of the modules that look like attentions."""
    _ran: set[nn.Module] = field(default_factory=set)
    _asked: set[nn.Module] = field(default_factory=set)
    """Those inside which an attention was called that may be taken."""
    _hooks: list[Any] = field(default_factory=list)
    _warned: bool = False

    @property
    def unseen(self) -> list[str]:
        """Modules of an accelerated model that look like attentions and ran, but asked for none that can be taken."""
        return [name for module, name in self._attentions.items() if module in self._ran - self._asked]

    def explain(self) -> str:
        """In sentences: which layers ran on the kernels, which on the model's own, and why."""
        if not (self.taken or self.passed or self.unseen):
            return f"No attention ran that can be taken. {SEAMS}"
        said = super().explain().splitlines()
        if self.unseen:
            said.append(f"Some ran where they can't be taken: {listed(self.unseen)}. {SEAMS}")
        return "\n".join(said)

    # A with block

    def __enter__(self) -> "Acceleration":
        self._begin(None)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._end()
        if error is None and not self.taken:
            warnings.warn(f"Nothing was accelerated. {self.explain()}", WatchWarning, 2)

    # A model for good

    def _install(self, model: nn.Module) -> None:
        self._names = named_modules(model)
        looking_so = attentions(model)
        self._attentions = {module: name for module, name in self._names.items() if name in looking_so}
        for module in hosts(model):
            self._hooks += [
                module.register_forward_pre_hook(self._before),
                module.register_forward_hook(self._after, always_call=True),
            ]
        vars(model)["acceleration"] = self

    def remove(self) -> None:
        """Undoes `accelerate(model)`."""
        for hook in self._hooks:
            hook.remove()
        for module in self._names:
            if vars(module).get("acceleration") is self:
                del vars(module)["acceleration"]
        self._hooks, self._names = [], {}

    def _before(self, module: nn.Module, _: Any) -> None:
        self._ran.add(module)
        self._begin(module)

    def _after(self, module: nn.Module, *_: Any) -> None:
        running = _here.running
        if running and running[-1] == (self, module):
            self._end()
            if not (self.taken or self._warned or self.here) and (self.passed or self.unseen):
                self._warned = True
                warnings.warn(f"Nothing of {self._names[module]} was accelerated. {self.explain()}", WatchWarning, 2)

    # While it runs

    def _begin(self, module: nn.Module | None) -> None:
        if not self.here:
            switches = looked_at_by(self)
            try:
                switches.__enter__()
            except RuntimeError as error:  # of PyTorch, which lets nobody switch compilation off from within
                raise ClearheadError(
                    "An accelerated model was compiled, and inside what is compiled no attention can be taken. "
                    "Accelerate what torch.compile returns, or run the model in `with clearhead.accelerate():`."
                ) from error
            _here.switches.append(switches)
        _here.running.append((self, module))

    def _end(self) -> None:
        _here.running.pop()
        if not self.here:
            _here.switches.pop().__exit__(None, None, None)

    @property
    def here(self) -> bool:
        """Whether attentions that are called now, in this thread, are to be taken by this one."""
        running = _here.running
        return bool(running) and running[-1][0] is self

    def count(self, outcome: Outcome, module: nn.Module | None) -> None:
        """Notes where a call went."""
        host = None
        if self._names:
            inside = [one for by, one in _here.running if by is self and one is not None]
            host = next((one for one in reversed(inside) if one in self._attentions), inside[-1])
            self._asked.add(host)
        if in_backward():  # a checkpoint computes again what was counted
            return
        layer = _stranger(module) if host is None else self._names[host]
        with _lock:
            self.note(layer, outcome if isinstance(outcome, str) else None)


def _stranger(module: nn.Module | None) -> str:
    """What a layer is called where no model was given: by its class, and Transformers' number of the layer."""
    if module is None:
        return "scaled_dot_product_attention"
    number = getattr(module, "layer_idx", None)
    return class_name(module) + ("" if number is None else f" {number}")
