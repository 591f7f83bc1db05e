"""What the kernels of Transformers' AttentionInterface do with their arguments before they attend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KNOWN = ("sdpa", "eager", "clearhead", None)
"""The implementations whose arguments are read here. None is what a module that stands alone has: eager."""


@dataclass(eq=False, slots=True)
class Asked:
    """One attention that is to be computed: softmax(softcap(scale · q kᵀ) + mask + bias) v.

    Its fields are those of `Sighting`, with the position bias apart from the mask; nothing was checked yet.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    bias: Tensor | None = None
    causal: bool = False
    """Query i may see keys 0 to i, and no more; never together with a mask."""
    scale: float = 1.0
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0

    @property
    def whole_mask(self) -> Tensor | None:
        """The mask, the bias and the causality in one."""
        mask = self.mask
        if self.bias is None:
            return mask
        if self.causal:
            mask = torch.ones(self.q.shape[2], self.k.shape[2], dtype=torch.bool, device=self.q.device).tril()
        if mask is None:
            return self.bias
        return self.bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else self.bias + mask


def read(
    implementation: str | None,
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> Asked:
    """The attention that the kernel of an implementation is asked for.

    "eager" knows no causality but that of the mask, "sdpa" knows no sinks, and "clearhead" knows both.
    """
    Tq = q.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = implementation in ("sdpa", "clearhead") and mask is None and Tq > 1 and bool(is_causal)
    if causal and k.shape[2] > Tq:  # keys that a cache of fixed size has room for, but doesn't hold yet
        k, v = k[:, :, :Tq], v[:, :, :Tq]
    Tk = k.shape[2]
    return Asked(
        q=q,
        k=k,
        v=v,
        mask=_cut(mask, Tk),
        bias=_cut(position_bias, Tk),
        causal=causal,
        scale=q.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap=softcap,
        sinks=None if implementation == "sdpa" else s_aux,
        dropout=float(dropout),
    )


def _cut(mask: Tensor | None, Tk: int) -> Tensor | None:
    """Without what it says of keys beyond the last."""
    return mask if mask is None or mask.shape[-1] <= Tk else mask[..., :Tk]


def wants_more(implementation: str | None, module: Any, kwargs: Mapping[str, Any]) -> str | None:
    """What a kernel is asked for besides the attention itself, as the end of a sentence; None if nothing."""
    if kwargs.get("cache") is not None:
        return "continuous batching keeps its keys in pages that the kernel fills"
    if implementation == "sdpa" and kwargs.get("softcap") is not None:
        return "Transformers' sdpa kernel refuses a softcap"
    if implementation in ("eager", None):
        config = getattr(module, "config", None)
        if kwargs.get("output_attentions") or getattr(config, "output_attentions", False):
            return "its weights were asked for (output_attentions), and the kernels make none"
    return None
