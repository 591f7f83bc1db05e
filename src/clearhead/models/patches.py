"""Patches: a picture cut into squares, each a token, as an encoder of tokens reads it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.positions.absolute import Learned


class Patches(nn.Module):
    """Pixels `(B, C, S, S)` in, tokens `(B, 1 + (S / P)², E)` out: x = [c; W p_1; W p_2; …] + positions.

    Each square p of P × P pixels becomes a token by one matrix; a learned token c stands before them, to gather what
    is said of the whole; each place has a learned vector (Dosovitskiy et al. 2021, eq. 1). The squares are read like a
    page, row after row.

    Args:
        width: of the tokens, E.
        size: pixels of a side of the picture, S.
        patch: pixels of a side of a square, P.
        channels: numbers a pixel, C.
        bias: whether W p has a bias.
        norm: makes a norm of the tokens (CLIP).

    >>> Patches(64, size=224, patch=16)(torch.randn(2, 3, 224, 224)).shape
    torch.Size([2, 197, 64])
    """

    def __init__(
        self,
        width: int,
        *,
        size: int,
        patch: int,
        channels: int = 3,
        bias: bool = True,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ClearheadError(f"Patches: {size} pixels a side do not divide into squares of {patch}; expected so.")
        self.size, self.channels = size, channels
        self.project = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.position = Learned(1 + (size // patch) ** 2, width)
        self.norm = norm(width) if norm is not None else None

    def forward(self, pixels: Float[Tensor, "B C height width"]) -> Float[Tensor, "B T E"]:
        """The picture's tokens, the class token first."""
        if pixels.shape[1:] != (self.channels, self.size, self.size):
            raise ClearheadError(
                f"Patches: got pixels of shape {tuple(pixels.shape)}; expected (B, {self.channels}, {self.size}, "
                f"{self.size}), the size that the model learned its positions for. Scale or crop the picture."
            )
        squares = self.project(pixels.to(self.class_token.dtype)).flatten(2).mT
        x = torch.cat((self.class_token.expand(len(squares), 1, -1), squares), 1)
        x = self.position.add(x, torch.arange(x.shape[1], device=x.device)[None])
        return x if self.norm is None else self.norm(x)
