"""What is switched in the whole process: compilation off, and a look at the functions and kernels that attend."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from clearhead.attend.overrides import called_by, overriding
from clearhead.scope.replaced import Replacement, original, pytorch_s_own, replaced, replacement

Kernel = Callable[..., Any]
"""An attention function of Transformers: (module, q, k, v, mask, ...) to (B, Tq, H, Dv) and weights."""


@runtime_checkable
class Looker(Protocol):
    """One who looks at the kernels of a model."""

    @property
    def here(self) -> bool:
        """Whether the model is running now, in this thread."""

    def look(self, implementation: str | None, kernel: Kernel) -> Kernel:
        """This kernel, looked at."""


@runtime_checkable
class Taker(Looker, Protocol):
    """One who computes in place of the kernels, and of PyTorch's functions."""

    def attend(self, own: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """In place of PyTorch's own `scaled_dot_product_attention`, with the same arguments."""

    def give_weights(self) -> None:
        """Is told that nn.MultiheadAttention was asked for its weights, which it makes by itself."""


_takers: list[Taker] = []
_lookers: list[Looker] = []
_undo = ExitStack()
_lock = threading.Lock()


@contextmanager
def looked_at_by(looker: Looker) -> Iterator[None]:
    """While this lasts, the looker sees each kernel that Transformers chooses, and nothing runs compiled.

    Those who look may overlap in any order, in several threads: the first in switches on, the last out switches
    off. A taker stands next to the kernel, within all who only look, so that what it computes is seen.
    """
    takes = isinstance(looker, Taker)
    those: list[Any] = _takers if takes else _lookers
    with _lock:
        if not (_takers or _lookers):
            _undo.enter_context(torch.compiler.set_stance("force_eager"))
        _undo.enter_context(_kernels_shown())
        if takes:
            _undo.enter_context(_functions_replaced())
        those.append(looker)
    try:
        yield
    finally:
        with _lock:
            those.remove(looker)
            if not (_takers or _lookers):
                _undo.close()


@contextmanager
def _kernels_shown() -> Iterator[None]:
    """Replaces `AttentionInterface.get_interface`, once, if Transformers is there and has it."""
    interface = getattr(sys.modules.get("transformers.modeling_utils"), "AttentionInterface", None)
    own = getattr(interface, "get_interface", None)
    if interface is None or own is None or hasattr(own, "shows_kernels"):
        yield
        return

    def get_interface(self: Any, attn_implementation: str | None, default: Kernel) -> Kernel:
        kernel: Kernel = own(self, attn_implementation, default)
        taker = _taker()
        kernel = kernel if taker is None else taker.look(attn_implementation, kernel)
        for looker in dict.fromkeys(_lookers):  # once, if it is here in two threads
            if looker.here:
                kernel = looker.look(attn_implementation, kernel)
        return kernel

    get_interface.shows_kernels = True  # type: ignore[attr-defined]
    interface.get_interface = get_interface
    try:
        yield
    finally:
        interface.get_interface = own


@contextmanager
def _functions_replaced() -> Iterator[None]:
    """Replaces, once, what PyTorch's modules and other models call to attend, and switches off its fast path.

    A mode would see more, as who imported the function by name, but costs a microsecond at every operation of
    the model: a tenth of a small model's time at decode.
    """
    sdpa, multi_head = original(F.scaled_dot_product_attention), original(F.multi_head_attention_forward)
    if replacement(sdpa) is not sdpa:
        yield
        return

    def scaled_dot_product_attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = (query, key, value, *args, *kwargs.values())
        if has_torch_function(arguments):  # a mode or a class of one of them, which call this function in turn
            overridden = [] if torch._C._len_torch_function_stack() else overriding(arguments)
            if not overridden:
                return handle_torch_function(sdpa, arguments, query, key, value, *args, **kwargs)
            with pytorch_s_own():
                return called_by(overridden, sdpa, tuple(map(type, overridden)), (query, key, value, *args), kwargs)
        taker = _taker()
        if taker is None:
            return sdpa(query, key, value, *args, **kwargs)
        return taker.attend(sdpa, query, key, value, *args, **kwargs)

    def multi_head_attention_forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        taker = None if has_torch_function((query, key, value)) else _taker()
        if taker is not None and (args[12] if len(args) > 12 else kwargs.get("need_weights", True)):
            taker.give_weights()
        return multi_head(query, key, value, *args, **kwargs)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with replaced(
            Replacement(sdpa, scaled_dot_product_attention), Replacement(multi_head, multi_head_attention_forward)
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _taker() -> Taker | None:
    return next((taker for taker in tuple(_takers) if taker.here), None)
