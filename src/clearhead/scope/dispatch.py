"""What a watch switches in the whole process: compilation off, and a look at the kernels of Transformers."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

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


_lookers: list[Looker] = []
_undo = ExitStack()
_lock = threading.Lock()


@contextmanager
def looked_at_by(looker: Looker) -> Iterator[None]:
    """While this lasts, the looker sees each kernel that Transformers chooses, and nothing runs compiled.

    Watches may overlap in any order, in several threads: the first in switches on, the last out switches off.
    """
    with _lock:
        if not _lookers:
            _undo.enter_context(torch.compiler.set_stance("force_eager"))
        _undo.enter_context(_kernels_shown())
        _lookers.append(looker)
    try:
        yield
    finally:
        with _lock:
            _lookers.remove(looker)
            if not _lookers:
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
        for looker in tuple(_lookers):
            if looker.here:
                kernel = looker.look(attn_implementation, kernel)
        return kernel

    get_interface.shows_kernels = True  # type: ignore[attr-defined]
    interface.get_interface = get_interface
    try:
        yield
    finally:
        interface.get_interface = original
