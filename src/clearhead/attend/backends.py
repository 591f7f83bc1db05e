"""The backends, in the order in which "auto" asks them, and the choice of one."""

import warnings
from functools import cache
from types import ModuleType

import torch

from clearhead.attend import library, native, reference, tiled
from clearhead.attend.call import Call
from clearhead.errors import ClearheadError, PerformanceWarning

BACKENDS: dict[str, ModuleType] = {"native": native, "tiled": tiled, "reference": reference}
"""Each is a module with `forward(call, probe)`; `refuses(call)`, the reason why it can't, or None; and
`work(call)`, how many pairs it scores and the most at a time."""


def choose(call: Call, name: str) -> ModuleType:
    """The backend of this name, or the first that can do the call."""
    if name == "auto":
        if not torch.compiler.is_compiling() and library.missing() and native.refuses_built(call) is None:
            _warn_of_missing_core()
        return next(backend for backend in BACKENDS.values() if backend.refuses(call) is None)
    if name not in BACKENDS:
        raise ClearheadError(f"backend: got {name!r}, expected 'auto' or one of {', '.join(map(repr, BACKENDS))}.")
    reason = BACKENDS[name].refuses(call)
    if reason is not None:
        raise ClearheadError(f"backend {name!r} can't do this call: {reason}. backend='auto' takes one that can.")
    return BACKENDS[name]


@cache
def _warn_of_missing_core() -> None:
    """Warns once in a process."""
    warnings.warn(
        f"Attention runs on PyTorch's operations, which is slower: {library.missing()}.",
        PerformanceWarning,
        stacklevel=4,  # the caller of `attention`
    )
