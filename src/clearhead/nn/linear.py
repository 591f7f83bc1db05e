"""Linear: x Wᵀ + b, by kernels of our own where they are the faster ones."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.nn import native


class Linear(nn.Linear):
    """out = x Wᵀ + b, as `torch.nn.Linear`, of which it is one.

    A decoder's next token is a single row, which reads each weight for one product: that is bound by memory, while a
    prompt's many rows are bound by multiplying. On the CPU, without gradient, kernels made for the one and the other
    take what they are faster at. All sums are in float32.

    >>> import torch
    >>> Linear(64, 32)(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 32])
    """

    def forward(self, input: Float[Tensor, "*tokens E"]) -> Float[Tensor, "*tokens out"]:
        """Each token by itself."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*tokens E"], weight: Float[Tensor, "out E"], bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "*tokens out"]:
    """x Wᵀ + b."""
    if native.takes_rows(x, weight, bias):
        return native.linear(x, weight, bias)
    return F.linear(x, weight, bias)
