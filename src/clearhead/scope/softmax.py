"""What a softmax is taken over that a model computes itself: which axes are texts, heads, queries and keys."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.scope.modules import Frame

LARGEST = 2**28
"""The most scores that a band is laid out to: 1 GiB of float32."""
PRODUCTS = frozenset(
    {torch.matmul, torch.bmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
)
"""The functions that may multiply weights with values."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A softmax in a module that is not named an attention: one of attention if a product follows."""

    name: str
    """The module's."""
    weights: Tensor
    scores: Float[Tensor, "B H Tq Tk"]


def with_four_axes(scores: Tensor, frame: Frame) -> Float[Tensor, "B H Tq Tk"] | None:
    """The scores of an attention as (B, H, Tq, Tk); None if they are of no shape that an attention has.

    They may come so, as (B · H, Tq, Tk) (XGLM, fairseq), as (B, Tq, Tk) of one head, or as Longformer's band
    (B, T, H, 2w + 1), whose column c is the key i + c − w.
    """
    if frame.sequence is None:
        return None
    (B, T), H = frame.sequence, frame.heads
    band = getattr(frame.module, "one_sided_attn_window_size", None)
    if isinstance(band, int):
        fits = scores.shape == (B, T, H, 2 * band + 1) and B * T * T * (H or 1) <= LARGEST
        return _laid_out(scores, band) if fits else None
    if scores.ndim == 3 and scores.shape[1] == T:
        if H and len(scores) == B * H:
            return scores.reshape(B, H, T, scores.shape[2])
        return scores[:, None] if len(scores) == B and H in (None, 1) else None
    whole = scores.ndim == 4 and len(scores) == B and scores.shape[2] == T and H in (None, scores.shape[1])
    return scores if whole else None


def is_product_with(args: tuple[object, ...], weights: Tensor) -> bool:
    """Whether one of the arguments of a product is these weights, reshaped or cast perhaps."""
    given = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
    n, Tk = weights.numel(), weights.shape[-1]
    return any(isinstance(x, Tensor) and x.numel() == n and Tk in x.shape[-2:] for x in given)


def _laid_out(scores: Float[Tensor, "B T H n"], band: int) -> Float[Tensor, "B H T T"]:
    """A band at the keys that it stands for, −inf elsewhere."""
    B, T, H, n = scores.shape
    i, c = torch.arange(T, device=scores.device), torch.arange(n, device=scores.device)
    key = i[:, None] + c - band
    inside = (key >= 0) & (key < T)
    whole = scores.new_full((B, H, T, T), -torch.inf)
    rows = i[:, None].expand(T, n)[inside]
    whole[:, :, rows, key[inside]] = scores.transpose(1, 2)[:, :, inside]
    return whole
