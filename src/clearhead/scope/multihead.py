"""What `torch.nn.functional.multi_head_attention_forward` does with its arguments before it attends."""

import inspect
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clearhead.scope.added import added_keys
from clearhead.scope.interface import Asked

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def read(
    result: tuple[Tensor, Tensor | None], args: tuple[Any, ...], kwargs: dict[str, Any], known: Asked | None
) -> dict[str, Any]:
    """The attention that a call with these arguments and this result asked for, and other fields of a Sighting.

    Where the attention is known already it is taken as it is; else the projections are made once more.
    """
    call = _bound(args, kwargs)
    query, key, out, padding = call.query, call.key, result[0], call.key_padding_mask
    if query.ndim == 2:  # one sequence, without a batch
        query, key, out = (x.unsqueeze(1) for x in (query, key, out))
        padding = None if padding is None else padding.unsqueeze(0)
    weight, bias = call.out_proj_weight.detach(), call.out_proj_bias
    bias = None if bias is None else bias.detach()
    is_self = _same(query, key)
    return {
        "asked": known or _asked(call),
        "out": out.transpose(0, 1)[:, None],
        "project": lambda x: F.linear(x.transpose(1, 2).flatten(2), weight, bias)[:, None],
        "added": added_keys(call.bias_k, call.add_zero_attn),
        "kind": "self" if is_self else "cross",
        "valid": None if padding is None or not is_self else _may_attend(padding) > -torch.inf,
    }


def _bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


def _asked(call: SimpleNamespace) -> Asked:
    """The attention, from the function's arguments.

    Its masks say who may not be seen; ours say who may. Its learned key and its key of zeros stand behind the last
    token, and no mask hides them, except a causal mask passed with is_causal=True.
    """
    query, key, value, padding = call.query, call.key, call.value, call.key_padding_mask
    if query.ndim == 2:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        padding = None if padding is None else padding.unsqueeze(0)
    B, H = query.shape[1], call.num_heads

    def split(x: Tensor) -> Tensor:
        """(T, B or 1, E) to (B, H, T, D)."""
        return x.reshape(*x.shape[:2], H, -1).permute(1, 2, 0, 3).expand(B, -1, -1, -1)

    if call.use_separate_proj_weight:
        weights = call.q_proj_weight, call.k_proj_weight, call.v_proj_weight
    else:
        weights = call.in_proj_weight.chunk(3)
    biases = (None, None, None) if call.in_proj_bias is None else call.in_proj_bias.chunk(3)
    q, k, v = (split(F.linear(x, w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    k = k if call.static_k is None else call.static_k.unflatten(0, (B, H))
    v = v if call.static_v is None else call.static_v.unflatten(0, (B, H))

    # With padding, or where the weights are asked for, `is_causal` is but a hint: what counts is the mask.
    causal = call.is_causal and padding is None and not call.need_weights
    mask = None if causal else _joined(_attention_mask(call.attn_mask, H), _padding_mask(padding))

    if call.bias_k is not None:
        k, v = torch.cat([k, split(call.bias_k)], 2), torch.cat([v, split(call.bias_v)], 2)
    if call.add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    added = len(added_keys(call.bias_k, call.add_zero_attn))
    if mask is not None:
        mask = F.pad(mask, (0, added), value=mask.dtype == torch.bool)
    dropout = float(call.dropout_p) if call.training else 0.0
    return Asked(q=q, k=k, v=v, mask=mask, causal=bool(causal), scale=q.shape[-1] ** -0.5, dropout=dropout)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether both are one and the same sequence, also behind a transposition of each."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _may_attend(mask: Tensor) -> Tensor:
    """Of a mask that is True where attention is forbidden, or of floats to be added, ours."""
    return mask.logical_not() if mask.dtype == torch.bool else mask


def _attention_mask(mask: Tensor | None, heads: int) -> Tensor | None:
    """(Tq, Tk) or (B · H, Tq, Tk) to four axes."""
    if mask is None:
        return None
    return _may_attend(mask[None, None] if mask.ndim == 2 else mask.unflatten(0, (-1, heads)))


def _padding_mask(mask: Tensor | None) -> Tensor | None:
    """(B, Tk) to four axes."""
    return None if mask is None else _may_attend(mask[:, None, None])


def _joined(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Both masks as one."""
    if one is None or other is None:
        return other if one is None else one
    if one.dtype == other.dtype == torch.bool:
        return one & other
    return _added(one) + _added(other)


def _added(mask: Tensor) -> Tensor:
    """The mask as floats to be added."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
