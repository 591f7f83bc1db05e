"""FeedForward: what a transformer does with each token by itself, between its attentions."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn import native
from clearhead.nn.linear import Linear


def quick_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x · sigmoid(1.702 x), a cheap likeness of GELU (Hendrycks & Gimpel 2016); CLIP has it."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "relu": F.relu,
}
"""By name: "gelu" is exact, by the error function; "gelu_tanh" its usual approximation."""


def gated(activation: str, h: Float[Tensor, "*B both"]) -> Float[Tensor, "*B hidden"]:
    """f(gate) ⊙ up, of `h` = [gate; up]."""
    if activation in native.GATES and native.takes(h):
        return native.gate(h, activation)
    gate, up = h.chunk(2, -1)
    return ACTIVATIONS[activation](gate) * up


class FeedForward(nn.Module):
    """out = down(f(up x)), or gated: out = down(f(gate x) ⊙ up x) (Vaswani et al. 2017; Shazeer 2020).

    `up` maps width → hidden. When gated it is both maps in one, width → 2 · hidden, rows of the gate first: with
    "silu" that is SwiGLU, with "gelu" GEGLU. `down` maps hidden → width.

    Raises:
        ClearheadError: for an activation that isn't one of "gelu", "gelu_tanh", "quick_gelu", "silu" and "relu".

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.FeedForward(64, 256, "silu", gated=True, bias=False)
    >>> layer(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])
    """

    def __init__(
        self, width: int, hidden: int, activation: str = "gelu", gated: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            known = ", ".join(map(repr, ACTIVATIONS))
            raise ClearheadError(f"activation: got {activation!r}, expected one of {known}.")
        self.activation = activation
        self.gated = gated
        self.up = Linear(width, 2 * hidden if gated else hidden, bias)
        self.down = Linear(hidden, width, bias)

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Each token by itself."""
        h = self.up(x)
        h = gated(self.activation, h) if self.gated else ACTIVATIONS[self.activation](h)
        out: Tensor = self.down(h)
        return out

    def extra_repr(self) -> str:
        """What the modules below do not say."""
        return f"activation={self.activation!r}, gated={self.gated}"
