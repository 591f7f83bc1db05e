"""Norms: each token's vector brought to one size, so that deep stacks train."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.nn import native


class LayerNorm(nn.Module):
    """out = (x − mean) / √(variance + eps) · weight + bias, over the last dimension (Ba et al. 2016).

    Without `bias` there is a weight alone. Sums are in float32 whatever the type of x.

    >>> import clearhead as ch, torch
    >>> norm = ch.nn.LayerNorm(64)
    >>> norm(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])
    """

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Each vector by itself."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """What the constructor was told."""
        return f"{len(self.weight)}, eps={self.eps}, bias={self.bias is not None}"


class RMSNorm(nn.Module):
    """out = x / √(mean(x²) + eps) · (offset + weight), over the last dimension (Zhang & Sennrich 2019).

    T5, Llama and those after it have it, with no `offset`. Gemma's is 1, so that a weight of 0 changes nothing.
    Computed in float32 and rounded once at the end, which is more exact in bfloat16 than Llama's own order, where
    the weight is multiplied after rounding.

    >>> import clearhead as ch, torch
    >>> norm = ch.nn.RMSNorm(4)
    >>> norm(torch.tensor([[3.0, -3.0, 3.0, 3.0]]))
    tensor([[ 1.0000, -1.0000,  1.0000,  1.0000]], grad_fn=...)
    """

    def __init__(self, width: int, eps: float = 1e-6, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Each vector by itself."""
        if native.takes(x, self.weight):
            return native.rms_norm(x, self.weight, self.eps, self.offset)
        shape = self.weight.shape
        if self.offset == 0:
            return F.rms_norm(x, shape, self.weight.to(x.dtype), self.eps)
        wide = torch.promote_types(x.dtype, torch.float32)  # in which 1 + a small weight loses nothing
        return F.rms_norm(x.to(wide), shape, self.offset + self.weight.to(wide), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        """What the constructor was told."""
        return f"{len(self.weight)}, eps={self.eps}, offset={self.offset}"
