"""sdpa(): PyTorch's scaled_dot_product_attention, argument for argument, through attention()."""

from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from clearhead.attend.api import attention
from clearhead.attend.arguments import check_strided
from clearhead.attend.overrides import overriding
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import causal, where
from clearhead.errors import ClearheadError


def sdpa(
    query: Float[Tensor, "*q Tq D"],
    key: Float[Tensor, "*k Tk D"],
    value: Float[Tensor, "*v Tk Dv"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*out Tq Dv"]:
    """A drop-in for `torch.nn.functional.scaled_dot_product_attention`: softmax(scale · q kᵀ + mask) v.

    Args:
        query: `(..., H, Tq, D)`, with any number of leading dimensions, or none.
        key: `(..., H, Tk, D)`; its leading dimensions broadcast against those of query and value.
        value: `(..., H, Tk, Dv)`.
        attn_mask: broadcasts to `(..., H, Tq, Tk)`: boolean, True = may attend, or floats added to the scores,
            of which −inf hides; or PyTorch's `causal_upper_left(Tq, Tk)` and `causal_lower_right(Tq, Tk)`.
        dropout_p: the probability of dropping a weight, below 1.
        is_causal: query row r sees keys 0 … r: causality aligned to the start, `causal(align="start")`.
        scale: None is 1/√D.
        enable_gqa: key and value may have fewer heads than query, by a divisor.

    A query that may see nothing gives 0, where some of PyTorch's kernels give NaN. A call with an argument whose
    class overrides PyTorch's functions (`__torch_function__`) goes to PyTorch's function, which calls that class.

    Raises:
        ClearheadError: where PyTorch's raises, as for a mask together with is_causal, or shapes that do not fit.

    >>> import clearhead as ch, torch
    >>> q, k, v = torch.randn(2, 8, 5, 16), torch.randn(2, 2, 7, 16), torch.randn(2, 2, 7, 16)
    >>> theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    >>> torch.allclose(ch.sdpa(q, k, v, is_causal=True, enable_gqa=True), theirs, atol=1e-5)
    True
    """
    pattern: Pattern | None = causal(align="start") if is_causal else None
    if isinstance(attn_mask, Tensor) and type(attn_mask) is not Tensor:
        from torch.nn.attention.bias import CausalBias  # imports Dynamo, which takes seconds

        if isinstance(attn_mask, CausalBias):
            if is_causal:
                raise ClearheadError("sdpa: got both a causal mask and is_causal=True; leave one of them out.")
            pattern = _causal(attn_mask, query.shape[-2], key.shape[-2])
            attn_mask = None
    tensors = (query, key, value, attn_mask)
    if not torch.compiler.is_compiling() and has_torch_function(tensors) and overriding(tensors):
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        passed: Tensor = handle_torch_function(
            F.scaled_dot_product_attention, tensors, *tensors, dropout_p, is_causal, **options
        )
        return passed
    for name, x in zip(("query", "key", "value", "attn_mask"), tensors, strict=True):
        if isinstance(x, Tensor):
            check_strided(name, x)
    dims = max(x.dim() for x in (query, key, value))
    if min(x.dim() for x in (query, key, value)) < (3 if enable_gqa else 2):
        raise ClearheadError(
            f"sdpa: got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; "
            "expected each to be (..., T, D), and (..., heads, T, D) with enable_gqa."
        )
    q, k, v = (x if x.dim() > 2 else x[None] for x in (query, key, value))
    batch = _broadcast("batches", *(x.shape[:-3] for x in (q, k, v)))
    if not enable_gqa or k.shape[-3] != v.shape[-3]:
        H = q.shape[-3] if enable_gqa else _broadcast("heads", *(x.shape[-3:-2] for x in (q, k, v)))[0]
        q, k, v = (_with_heads(x, H) for x in (q, k, v))
    q, k, v = (x.expand(*batch, *x.shape[-3:]).reshape(prod(batch), *x.shape[-3:]) for x in (q, k, v))
    bias = None
    if attn_mask is not None:
        if is_causal:
            raise ClearheadError("sdpa: got both attn_mask and is_causal=True; put the causality into the mask.")
        mask = _four_dimensional(attn_mask, (*batch, q.shape[1], q.shape[2], k.shape[2]))
        if mask.dtype == torch.bool:
            pattern = where(mask)
        elif mask.dtype in (torch.float32, q.dtype):
            bias = mask
        else:
            raise ClearheadError(
                f"sdpa: got attn_mask of {mask.dtype}; expected torch.bool, torch.float32 or the query's {q.dtype}."
            )
    out = attention(q, k, v, pattern=pattern, bias=bias, scale=scale, dropout=dropout_p)
    return out.reshape(*batch, *out.shape[1:])[(0,) * (3 - dims)]


def _causal(mask: Any, Tq: int, Tk: int) -> Pattern:
    """The causality that PyTorch's CausalBias stands for; it reads the sizes only where it is aligned to the end."""
    from torch.nn.attention.bias import CausalVariant

    sizes = mask.seq_len_q, mask.seq_len_kv
    if mask.variant == CausalVariant.UPPER_LEFT or mask.seq_len_q == mask.seq_len_kv:
        return causal(align="start")
    if sizes != (Tq, Tk):
        raise ClearheadError(
            f"sdpa: got causal_lower_right{sizes} for Tq = {Tq}, Tk = {Tk}; expected causal_lower_right({Tq}, {Tk})."
        )
    return causal()


def _with_heads(x: Tensor, H: int) -> Tensor:
    """x with H heads, each of its own serving as many in turn; the caller made sure that they divide H."""
    K = x.shape[-3]
    if K and H % K:
        raise ClearheadError(f"sdpa: got {K} heads to share among H = {H}; expected a divisor.")
    return x if K == H else x.repeat_interleave(H // K, -3)


def _four_dimensional(mask: Tensor, scores: tuple[int, ...]) -> Tensor:
    """The mask as `(B or 1, H or 1, Tq or 1, Tk or 1)`, its leading dimensions folded into one."""
    shape = (1,) * (len(scores) - mask.dim()) + tuple(mask.shape)
    if mask.dim() < 2 or len(shape) > len(scores) or any(n not in (1, s) for n, s in zip(shape, scores, strict=True)):
        raise ClearheadError(
            f"sdpa: got attn_mask of shape {tuple(mask.shape)}; expected two dimensions or more that broadcast to "
            f"the scores, {scores}."
        )
    if prod(shape[:-3]) != 1:
        shape = (*scores[:-3], *shape[-3:])
    return mask.expand(shape).reshape(prod(shape[:-3]), *shape[-3:])


def _broadcast(what: str, *shapes: torch.Size) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError as error:
        raise ClearheadError(
            f"sdpa: the {what} of query, key and value are {', '.join(str(tuple(s)) for s in shapes)}; "
            "expected them to broadcast. Fewer heads in key and value need enable_gqa=True."
        ) from error
