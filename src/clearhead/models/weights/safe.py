"""Safetensors: a header of names, types and places, then the tensors as they lie in memory."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from clearhead.errors import ClearheadError, first_line, in_a_sentence, shortened
from clearhead.models.weights.weights import Stored


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one `.safetensors` file.

    Raises ClearheadError if the file is broken or not whole.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ClearheadError(
            "Reading a .safetensors file needs safetensors; get it with: pip install 'clearhead[hf]'."
        ) from error
    try:
        file: Any = safe_open(path, framework="pt")
        return {
            name: Stored(tuple(file.get_slice(name).get_shape()), partial(_read, path, file, name))
            for name in file.keys()  # noqa: SIM118 - the file is no dict
        }
    except (SafetensorError, OSError) as error:
        raise ClearheadError(
            f"The file '{path}' cannot be read as safetensors ({first_line(error)}): it is broken or not whole; get it "
            "again."
        ) from error


def _read(path: Path, file: Any, name: str) -> Tensor:
    with in_a_sentence(f"The tensor {shortened(name)} of '{path}' cannot be read"):  # of a type that PyTorch lacks
        tensor: Tensor = file.get_tensor(name)
        return tensor
