"""Arguments of calls and layers: numbers, flags and tensors of the right kind, or an error that names the argument."""

import operator
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from clearhead.errors import ClearheadError


def whole_number(x: object) -> int | None:
    """x as an int, if it is a single whole number of Python, NumPy or PyTorch; a bool is none.

    >>> whole_number(torch.tensor(3)), whole_number(True), whole_number(2.0)
    (3, None, None)
    """
    if isinstance(x, bool) or (isinstance(x, Tensor) and (x.dtype == torch.bool or x.dim() > 0)):
        return None
    try:
        return operator.index(x)  # type: ignore[arg-type]
    except TypeError:
        return None


def count(name: str, x: object, least: int = 1) -> int:
    """x as an int; raises ClearheadError unless it is a whole number, `least` or more.

    >>> count("num_heads", 8.0)
    Traceback (most recent call last):
    clearhead.errors.ClearheadError: num_heads: got 8.0, expected a whole number, 1 or more.
    """
    number = whole_number(x)
    if number is None or number < least:
        raise ClearheadError(f"{name}: got {x!r}, expected a whole number, {least} or more.")
    return number


def flag(name: str, x: object) -> bool:
    """x as a bool; raises ClearheadError unless it is True or False, as Python or NumPy has them."""
    if not isinstance(x, bool | np.bool_):
        raise ClearheadError(f"{name}: got {x!r}, expected True or False.")
    return bool(x)


def probability(name: str, x: object) -> float:
    """x as a float; raises ClearheadError unless it is at least 0 and below 1."""
    if not (isinstance(x, Real) and 0 <= float(x) < 1):
        raise ClearheadError(f"{name}: got {x!r}, expected a probability, at least 0 and below 1.")
    return float(x)


def check_tensor(name: str, x: object, shape: str) -> None:
    """Raises ClearheadError unless x is a tensor; `shape` is the one that is expected, for the message."""
    if not isinstance(x, Tensor):
        hint = f" torch.from_numpy({name}) makes one." if isinstance(x, np.ndarray) else ""
        raise ClearheadError(f"{name}: got {type(x).__name__}, expected a tensor {shape}.{hint}")


def check_strided(name: str, x: Tensor) -> None:
    """Raises ClearheadError for nested and sparse tensors, which have no strides."""
    if x.is_nested:
        raise ClearheadError(
            f"{name} is a nested tensor, which is not supported. Pad its sequences and pass pattern=padding(lengths), "
            "or join them and pass pattern=documents(ids)."
        )
    if x.layout is not torch.strided:
        raise ClearheadError(
            f"{name} has the layout {x.layout}; expected a strided tensor, as {name}.to_dense() gives."
        )


def is_whole(x: object, dims: int) -> bool:
    """Whether x is a tensor of whole numbers with this number of dimensions."""
    if not isinstance(x, Tensor):
        return False
    return x.dim() == dims and not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def described(x: object) -> str:
    """What an argument is, for a message: a tensor's type and shape, or the name of another object's class."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
