"""Arguments whose class overrides PyTorch's functions by a `__torch_function__`, as masks may."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import _get_overloaded_args


def overriding(arguments: Iterable[Any]) -> list[Any]:
    """The arguments whose class may compute something else than PyTorch's function.

    `Tensor`'s own `__torch_function__`, which subclasses inherit, changes nothing but the type of the result.
    """
    arguments = tuple(arguments)
    return _get_overloaded_args(arguments) if any(map(overrides, arguments)) else []


def overrides(argument: Any) -> bool:
    """Whether the argument's class has a `__torch_function__` other than Tensor's, and it is not disabled."""
    handler = getattr(type(argument), "__torch_function__", None)
    if handler is None or getattr(handler, "__func__", None) is _OF_TENSOR:
        return False
    return bool(_get_overloaded_args((argument,)))


def called_by(
    arguments: list[Any], function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What the overriding arguments make of a call of the function, in PyTorch's order."""
    for argument in arguments:
        result = argument.__torch_function__(function, types, args, kwargs)
        if result is not NotImplemented:
            return result
    name = getattr(function, "__name__", repr(function))
    raise TypeError(f"no implementation of {name} for {', '.join(type(x).__name__ for x in arguments)}")


_OF_TENSOR = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]  # a classmethod
