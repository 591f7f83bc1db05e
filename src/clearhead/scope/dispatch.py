"""What is switched in the whole process: compilation off, and a look at the functions and kernels that attend."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import update_wrapper
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

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
    original = getattr(interface, "get_interface", None)
    if interface is None or original is None or hasattr(original, "shows_kernels"):
        yield
        return

    def get_interface(self: Any, attn_implementation: str | None, default: Kernel) -> Kernel:
        kernel: Kernel = original(self, attn_implementation, default)
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
        interface.get_interface = original


@contextmanager
def _functions_replaced() -> Iterator[None]:
    """Replaces, once, what PyTorch's modules and other models call to attend, and switches off its fast path.

    A mode would see more, as who imported the function by name, but costs a microsecond at every operation of
    the model: a tenth of a small model's time at decode.
    """
    sdpa, multi_head, fast = (
        F.scaled_dot_product_attention,
        F.multi_head_attention_forward,
        torch.backends.mha.get_fastpath_enabled(),
    )
    if isinstance(sdpa, Replacement):
        yield
        return
    from torch.nn.attention.bias import CausalBias  # imports Dynamo, which takes seconds

    def scaled_dot_product_attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = (query, key, value, *args, *kwargs.values())
        if has_torch_function(arguments):  # a mode or a class of one of them, which call this function in turn
            # Nested tensors compare with PyTorch's own function by `is`, other classes with F's.
            function = sdpa if is_nested(arguments) else replaced_sdpa
            return handle_torch_function(function, arguments, query, key, value, *args, **kwargs)
        taker = _taker()
        if taker is None:
            return sdpa(query, key, value, *args, **kwargs)
        return taker.attend(sdpa, query, key, value, *args, **kwargs)

    def multi_head_attention_forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        taker = None if has_torch_function((query, key, value)) else _taker()
        if taker is not None and (args[12] if len(args) > 12 else kwargs.get("need_weights", True)):
            taker.give_weights()
        return multi_head(query, key, value, *args, **kwargs)

    def of_causal_bias(cls: Any, function: Callable[..., Any], *rest: Any) -> Any:
        """Called with PyTorch's function by whoever imported that by its name; it compares by `is` with F's."""
        return own_of_causal_bias(cls, replaced_sdpa if function is sdpa else function, *rest)

    replaced_sdpa = Replacement(sdpa, scaled_dot_product_attention)
    causal_bias: Any = CausalBias
    own_of_causal_bias = causal_bias.__torch_function__.__func__
    causal_bias.__torch_function__ = classmethod(of_causal_bias)
    F.scaled_dot_product_attention = replaced_sdpa
    F.multi_head_attention_forward = Replacement(multi_head, multi_head_attention_forward)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.multi_head_attention_forward = sdpa, multi_head
        causal_bias.__torch_function__ = classmethod(own_of_causal_bias)
        torch.backends.mha.set_fastpath_enabled(fast)


def is_nested(arguments: Iterable[Any]) -> bool:
    """Whether one of the arguments is a nested tensor."""
    return any(isinstance(x, Tensor) and x.is_nested for x in arguments)


class Replacement:
    """A function in place of one of PyTorch's, and equal to it.

    A class with a `__torch_function__` compares the function that it is called with with those of PyTorch, or looks
    it up in a table: both find this one.
    """

    def __init__(self, original: Callable[..., Any], function: Callable[..., Any]) -> None:
        update_wrapper(self, original)
        self.original = original
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function in its place gives."""
        return self._function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return other is self or other == self.original

    def __hash__(self) -> int:
        return hash(self.original)


def original(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's function, if it is replaced by this one; else this one."""
    return function.original if isinstance(function, Replacement) else function


def _taker() -> Taker | None:
    return next((taker for taker in tuple(_takers) if taker.here), None)
