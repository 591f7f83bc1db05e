"""Checks of the tokens that the drop-in layers are called with."""

import torch
from torch import Tensor

from clearhead.attend.arguments import check_strided, check_tensor
from clearhead.errors import ClearheadError


def check_tokens(name: str, x: object) -> None:
    """Raises ClearheadError unless x is a strided tensor of floats."""
    check_tensor(name, x, "of floats")
    assert isinstance(x, Tensor)
    check_strided(name, x)
    if not x.is_floating_point():
        raise ClearheadError(f"{name} is {x.dtype}; expected floats. Tokens' numbers become vectors by an embedding.")


def check_types(dtype: torch.dtype, **tokens: Tensor) -> None:
    """Raises ClearheadError unless all have the weights' type, which autocast would give them."""
    for name, x in tokens.items():
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ClearheadError(
                f"{name} is {x.dtype} and the layer's weights are {dtype}; bring them to one type, "
                f"with {name}.to({dtype}) or layer.to({x.dtype})."
            )
