"""Pickled: what torch.save wrote, read as weights and nothing else."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from clearhead.errors import ClearheadError, first_line, shortened
from clearhead.models.weights.weights import Stored


def read_pickled(path: Path) -> dict[str, Stored]:
    """The tensors of one `.bin` file: its pickle may hold tensors alone, as any other may run code.

    A file from before PyTorch 1.6 cannot be mapped to memory and is read whole.

    Raises ClearheadError if the file holds anything else, or is broken or not whole.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except UnpicklingError as error:
        raise ClearheadError(
            f"The file '{path}' holds more than weights, which could run any code, or is broken "
            f"({shortened(first_line(error).rstrip('.'), 300)}); it was not opened. Get the model as safetensors."
        ) from error
    except Exception as error:  # a damaged file fails in as many ways as pickle has orders
        raise ClearheadError(
            f"The file '{path}' cannot be read as weights of PyTorch "
            f"({shortened(first_line(error).rstrip('.'), 300)}): it is broken or not whole; get it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_whole(v) for k, v in state.items()):
        raise ClearheadError(
            f"The file '{path}' holds {type(state).__name__} but not of tensors alone; expected a model's state_dict, "
            "names and dense tensors whose numbers are all in the file."
        )
    return {name: Stored(tuple(weight.shape), weight.detach) for name, weight in state.items()}


def _is_whole(weight: Any) -> bool:
    """Whether this is a tensor with each of its numbers in the file: one that repeats a few may fill the memory."""
    if not isinstance(weight, Tensor) or weight.layout is not torch.strided or weight.is_meta or weight.is_quantized:
        return False
    return weight.numel() * weight.itemsize <= weight.untyped_storage().nbytes()
