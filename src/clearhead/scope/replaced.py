"""Functions of PyTorch that others stand in for, and classes that compare a function with PyTorch's own."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import update_wrapper, wraps
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Replacement:
    """A function in place of one of PyTorch's, and equal to it, so that a table with PyTorch's own finds it too."""

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


_replacements: dict[Callable[..., Any], Replacement] = {}
"""By PyTorch's function, in whose place in `torch.nn.functional` they are."""
_lock = threading.Lock()
_in_place = 0
"""In how many blocks PyTorch's own are back in their places."""


@contextmanager
def replaced(*replacements: Replacement) -> Iterator[None]:
    """In this block these stand in `torch.nn.functional`, in all threads. One such block at a time."""
    own = {cls: vars(cls).get("__torch_function__") for cls in _subclasses(Tensor)}
    methods = {cls: method for cls, method in own.items() if isinstance(method, classmethod)}
    for cls, method in methods.items():
        cls.__torch_function__ = classmethod(_with_pytorch_s_own(method.__func__))
    with _lock:
        _replacements.update((one.original, one) for one in replacements)
        if not _in_place:
            _put(replacements)
    try:
        yield
    finally:
        with _lock:
            _put(_replacements)
            _replacements.clear()
        for cls, method in methods.items():
            cls.__torch_function__ = method


def original(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's function, if it is replaced by this one; else this one."""
    return function.original if isinstance(function, Replacement) else function


def replacement(function: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in for this function, if anything does; else this one."""
    return _replacements.get(function, function)


@contextmanager
def pytorch_s_own() -> Iterator[None]:
    """In this block `torch.nn.functional` has PyTorch's own functions, and the replacements take their calls.

    A class that overrides functions compares the one that it is called with by `is`, with that of
    `torch.nn.functional` or with one that was imported from there: here both are the same. In other threads calls go
    to PyTorch's own meanwhile.
    """
    global _in_place
    with _lock:
        _in_place += 1
        _put(_replacements)
    try:
        with _Taking():
            yield
    finally:
        with _lock:
            _in_place -= 1
            if not _in_place:
                _put(_replacements.values())


class _Taking(TorchFunctionMode):
    """Calls what stands in for a function of PyTorch's, where that is in its place."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return replacement(func)(*args, **(kwargs or {}))


def _put(functions: Iterable[Any]) -> None:
    """Sets functions of `torch.nn.functional`, each under its name."""
    for function in functions:
        setattr(F, function.__name__, function)


def _subclasses(cls: Any) -> Iterator[Any]:
    subclasses: list[Any] = type.__subclasses__(cls)
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


def _with_pytorch_s_own(method: Callable[..., Any]) -> Callable[..., Any]:
    """A class's method that is called with PyTorch's own functions, as by callers that imported these by name."""

    @wraps(method)
    def with_own(cls: Any, function: Callable[..., Any], *rest: Any) -> Any:
        if original(function) not in _replacements:
            return method(cls, function, *rest)
        with pytorch_s_own():
            return method(cls, original(function), *rest)

    return with_own
