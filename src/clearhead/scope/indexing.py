"""Indices of layers, heads, queries and keys: whole numbers of Python, NumPy or PyTorch, lists of them, slices."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from clearhead.attend.arguments import whole_number
from clearhead.errors import ClearheadError

Indices = SupportsIndex | slice | Sequence[SupportsIndex] | Tensor
"""One of them, or several."""


def indices(i: Indices, what: str, size: int) -> Int[Tensor, " n"]:
    """These indices from 0 to size − 1, negative ones counted from the end.

    >>> indices([0, -1], "query", 5), indices(slice(1, 3), "query", 5)
    (tensor([0, 4]), tensor([1, 2]))
    """
    if isinstance(i, slice):
        return torch.tensor(range(size)[i], dtype=torch.int64)
    listed: Any = i
    if isinstance(i, list | tuple):
        numbers = [whole_number(x) for x in i]
        if None in numbers:
            raise ClearheadError(f"{what}: got {i[numbers.index(None)]!r}, expected whole numbers.")
        listed = torch.tensor(numbers, dtype=torch.int64)
    found = torch.as_tensor(listed)
    if found.numel() and (found.is_floating_point() or found.dtype == torch.bool):
        raise ClearheadError(f"{what}: got {found.dtype}, expected whole numbers.")
    found = found.long().reshape(-1)
    wrong = found[(found < -size) | (found >= size)]
    if len(wrong):
        raise ClearheadError(f"{what}: got {int(wrong[0])}, but there are {size}, counted from 0.")
    return found % max(size, 1)


def index(i: SupportsIndex, what: str, size: int) -> int:
    """The one index from 0 to size − 1 that i is; a list, a slice or a bool is none.

    >>> index(torch.tensor(-1), "head", 5)
    4
    """
    number = whole_number(i)
    if number is None:
        raise ClearheadError(f"{what}: got {i!r}, expected one whole number.")
    return int(indices(number, what, size)[0])
