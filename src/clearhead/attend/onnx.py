"""The ONNX operator `Attention`, opsets 23 to 25, said through attention()."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clearhead.attend import reference
from clearhead.attend.api import attention, checked
from clearhead.attend.arguments import check_tensor, count, described, is_whole, whole_number
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import causal, full, padding, where, window
from clearhead.errors import ClearheadError

_DOUBLE = 11
"""ONNX's number for float64, the one softmax precision above what attention() computes in anyway."""
_PRECISIONS = (1, 10, _DOUBLE, 16)
"""ONNX's numbers for float32, float16, float64 and bfloat16."""


class OnnxAttention(NamedTuple):
    """The operator's four outputs, by its names."""

    Y: Tensor
    present_key: Tensor
    present_value: Tensor
    qk_matmul_output: Tensor | None


def onnx_attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    qk_matmul_output_mode: int | None = None,
) -> OnnxAttention:
    """ONNX `Attention` (https://onnx.ai/onnx/operators/onnx__Attention.html), inputs and attributes by its names.

    Query row r sits at position r + offset, the offset being the length of the past, or nonpad_kv_seqlen − Tq,
    or 0: in this library's words `causal(align=offset)` and `window(left, right, align=offset)`.

    Args:
        Q: `(B, H, Tq, D)`, or `(B, Tq, H · D)` with q_num_heads; Y is laid out likewise.
        K: `(B, K, Tk, D)`, or `(B, Tk, K · D)` with kv_num_heads.
        V: `(B, K, Tk, Dv)`, or `(B, Tk, K · Dv)`.
        attn_mask: broadcasts to `(B, H, Tq, total)`: boolean, True = may attend, or added to the scores. What
            its last dimension lacks is hidden.
        past_key: `(B, K, past, D)`, put before K; so past_value before V.
        nonpad_kv_seqlen: `(B,)`, how many of the keys are no padding.
        is_causal: 1 for causality.
        scale: None is 1/√D.
        softcap: 0 for none; it comes before the mask.
        softmax_precision: ONNX's number of a type. Less than float32 is computed in float32.
        left_window_size: how many keys before the query are seen; −1 is all. So right_window_size, after it.
        qk_matmul_output_mode: what qk_matmul_output is: 0 the scaled scores, 1 after the softcap, 2 with the
            mask, 3 the weights. None: it is not made, as in a graph that does not ask for the fourth output.

    Raises:
        ClearheadError: where inputs contradict one another or do not fit.

    >>> import torch
    >>> Q, K, V = torch.randn(1, 5, 32), torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    >>> onnx_attention(Q, K, V, is_causal=1, q_num_heads=4, kv_num_heads=2).Y.shape
    torch.Size([1, 5, 32])
    """
    _check_tensors(Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen)
    left, right = count("left_window_size", left_window_size, -1), count("right_window_size", right_window_size, -1)
    _among("is_causal", is_causal, (0, 1))
    _among("softmax_precision", softmax_precision, (None, *_PRECISIONS))
    _among("qk_matmul_output_mode", qk_matmul_output_mode, (None, 0, 1, 2, 3))
    flat = Q.dim() == 3
    if flat != (q_num_heads is not None) or flat != (kv_num_heads is not None):
        raise ClearheadError(
            f"onnx_attention: got Q of {Q.dim()} dimensions with q_num_heads={q_num_heads}, "
            f"kv_num_heads={kv_num_heads}; expected both numbers with 3 dimensions, and neither with 4."
        )
    by_query, by_key = ("q_num_heads", q_num_heads), ("kv_num_heads", kv_num_heads)
    q, k, v = (_heads(x, *heads) for x, heads in ((Q, by_query), (K, by_key), (V, by_key)))
    offset: int | Tensor = 0
    pattern: Pattern = full()
    if past_key is not None and past_value is not None:
        _check_past({"past_key": (past_key, k), "past_value": (past_value, v)})
        offset = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    elif nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.long() - q.shape[2]  # a narrow type could not hold a negative one
        pattern = pattern & padding(nonpad_kv_seqlen)
    present_key, present_value = k, v
    if is_causal:
        pattern = pattern & causal(align=offset)
    if max(left, right) >= 0:
        before, after = (None if side == -1 else side for side in (left, right))
        pattern = pattern & window(before, after, align=offset)
    bias = None
    if attn_mask is not None:
        is_boolean = attn_mask.dtype == torch.bool
        lacking = (0, max(0, k.shape[2] - attn_mask.shape[-1]))
        mask = torch.atleast_2d(attn_mask if is_boolean else attn_mask.to(q.dtype))
        mask = torch.nn.functional.pad(mask, lacking, value=False if is_boolean else -torch.inf)
        pattern, bias = (pattern & where(mask), None) if is_boolean else (pattern, mask)
    dtype = torch.float64 if softmax_precision == _DOUBLE else torch.promote_types(q.dtype, v.dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    Y = attention(q, k, v, pattern=pattern, bias=bias, scale=scale, softcap=softcap or None).to(Q.dtype)
    scores = None
    if qk_matmul_output_mode is not None:
        call = checked(q, k, v, pattern=pattern, bias=bias, scale=scale, softcap=softcap or None)
        if qk_matmul_output_mode < 2:
            call = replace(call, bias=None, softcap=call.softcap if qk_matmul_output_mode == 1 else None)
        s, w, _ = reference.softmax(call)
        if qk_matmul_output_mode == 2:
            s = s.masked_fill(~call.runs.dense(), -torch.inf)
        scores = (w if qk_matmul_output_mode == 3 else s).to(Q.dtype)
    return OnnxAttention(Y.transpose(1, 2).flatten(2) if flat else Y, present_key, present_value, scores)


def _check_tensors(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    nonpad_kv_seqlen: Tensor | None,
) -> None:
    """The inputs are tensors of the dimensions that the operator has; where the past is given, it fits."""
    for name, x, heads in (("Q", Q, "H"), ("K", K, "K"), ("V", V, "K")):
        check_tensor(name, x, f"(B, {heads}, T, width), or (B, T, {heads} · width)")
    if attn_mask is not None:
        check_tensor("attn_mask", attn_mask, "that broadcasts to (B, H, Tq, total)")
        if attn_mask.dim() == 0:
            raise ClearheadError("attn_mask has no dimension; expected one that broadcasts to (B, H, Tq, total).")
    if (past_key is None) != (past_value is None):
        raise ClearheadError("onnx_attention: got one of past_key and past_value; bring both, or neither.")
    if past_key is not None and nonpad_kv_seqlen is not None:
        raise ClearheadError("onnx_attention: got both a past and nonpad_kv_seqlen; they are two ways to cache.")
    if past_key is not None and past_value is not None:
        check_tensor("past_key", past_key, "(B, K, past, D)")
        check_tensor("past_value", past_value, "(B, K, past, Dv)")
    if nonpad_kv_seqlen is not None and not (is_whole(nonpad_kv_seqlen, 1) and len(nonpad_kv_seqlen) == len(Q)):
        raise ClearheadError(
            f"nonpad_kv_seqlen: got {described(nonpad_kv_seqlen)}, expected one whole number a sequence, "
            f"(B,) = ({len(Q)},)."
        )


def _check_past(past: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Each past differs from what it is put before in its length alone."""
    for name, (before, x) in past.items():
        fits = before.dim() == x.dim() == 4 and before.shape[:2] == x.shape[:2] and before.shape[3] == x.shape[3]
        if not fits or before.dtype != x.dtype:
            raise ClearheadError(
                f"{name}: got {described(before)} before {described(x)}; expected one type, and shapes that differ "
                "in their third dimension alone, the tokens."
            )


def _among(name: str, x: object, allowed: tuple[int | None, ...]) -> None:
    """Raises unless x is one of these; a bool is the number that it stands for."""
    if not (x is None or isinstance(x, bool) or whole_number(x) is not None) or x not in allowed:
        raise ClearheadError(f"onnx_attention: got {name}={x!r}; expected one of {', '.join(map(str, allowed))}.")


def _heads(x: Tensor, name: str, heads: int | None) -> Tensor:
    """`(B, T, heads · D)` as `(B, heads, T, D)`; four dimensions as they are."""
    if heads is None:
        return x
    heads = count(name, heads)
    if x.dim() != 3 or x.shape[2] % heads:
        raise ClearheadError(
            f"onnx_attention: got a tensor of shape {tuple(x.shape)} for {heads} heads; expected (B, T, heads · D)."
        )
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
