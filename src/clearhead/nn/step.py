"""Step: a decoder's next tokens through a whole block in one native call, where nobody looks in between."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as of_torch

from clearhead.attend import Pattern, library
from clearhead.attend.heard import listener
from clearhead.attend.library import Strided
from clearhead.attend.native import WIDEST
from clearhead.attend.operators import TYPES, strided
from clearhead.attend.patterns import window
from clearhead.nn import native
from clearhead.nn.caches.cache import Cache, is_even, looks_back
from clearhead.nn.caches.growing import Growing
from clearhead.nn.feed_forward import FeedForward
from clearhead.nn.heads import MultiHeadAttention
from clearhead.nn.linear import Linear
from clearhead.nn.norms import RMSNorm
from clearhead.nn.positions.position import Angles, Position
from clearhead.nn.positions.rotary import Rotary


class StepCall(ctypes.Structure):
    """kernels/layer.h: Step, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int64) for name in ("B", "T", "width", "heads", "kv_heads", "head_width", "R", "hidden")),
        *((name, c_int64) for name in ("past", "window")),
        *((name, c_int32) for name in ("type", "threads", "gate")),
        *((name, c_float) for name in ("eps", "offset", "scale", "softcap")),
        *((name, c_void_p) for name in ("x", "attention_norm", "qkv", "qkv_bias", "out", "out_bias")),
        *((name, c_void_p) for name in ("feed_forward_norm", "up", "up_bias", "down", "down_bias", "y", "memory")),
        ("chunk", c_int64),
        *((name, c_void_p) for name in ("start", "stop", "lengths")),
        *((name, Strided) for name in ("k", "v")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("angles_row", c_int64),
    )


native.check_size("step", StepCall)
FORWARD: dict[type, Any] = {
    kind: kind.forward for kind in (MultiHeadAttention, FeedForward, RMSNorm, Linear, nn.Dropout)
}
"""As they are; one that somebody puts in its place is called."""
CHUNK = 512
"""Tokens that go through the feed-forward at a time, so that what is between its layers stays in the cache."""


def step(
    block: Any,
    x: Float[Tensor, "B T E"],
    cache: Cache | None = None,
    pattern: Pattern | None = None,
    angles: Angles | None = None,
    lengths: Tensor | None = None,
    **others: Any,
) -> Float[Tensor, "B T E"] | None:
    """What a block makes of the tokens behind those in its cache; None where it must go part by part.

    One call does it for blocks as Llama has them: RMSNorm before each layer, fused projections, halves turned or no
    position at all, a gated feed-forward; on the CPU without gradient, over an even `Growing` cache, and while no
    hook and no watch wants to know of anything inside. The result is that of the parts, to rounding.
    """
    if type(cache) is not Growing or lengths is not None or others or not native.takes(x) or listener():
        return None
    (B, T, E), counts = x.shape, cache.counts
    if len(counts) not in (0, B) or not is_even(counts) or not native.steps(x) or not _is_plain(block):
        return None
    attention, feed_forward = block.attention, block.feed_forward
    norms = (block.attention_norm, block.feed_forward_norm)
    pattern = attention.pattern if pattern is None else pattern
    if not (looks_back(pattern) and _turns(attention, angles, T)):
        return None
    layers = (attention.qkv, attention.out, feed_forward.up, feed_forward.down)
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    H, K, D, hidden = attention.heads, attention.kv_heads, attention.head_width, weights[-1].shape[-1]
    shapes = (((H + 2 * K) * D, E), (E, H * D), (2 * hidden, E), (E, hidden))
    if not all(_fits(norm.weight, (E,), x) for norm in norms):
        return None
    if not all(map(_fits, weights, shapes, repeat(x))):
        return None
    if not all(bias is None or _fits(bias, shape[:1], x) for bias, shape in zip(biases, shapes, strict=True)):
        return None
    past = counts[0] if counts else 0
    k, v = cache.reserve(x.new_empty(B, K, 0, D), T)
    if k.dtype != x.dtype or not k.is_cpu or v.shape[1::2] != (K, D):
        return None
    if not k.is_inference():
        torch.autograd.graph.increment_version((k, v))  # a backward that still needs them is to notice
    x, chunk = x.contiguous(), min(B * T, CHUNK)
    y, memory = torch.empty_like(x), x.new_empty(B * T * (E + 2 * (H + K) * D) + 3 * hidden * chunk)
    seen = (ctypes.c_int32 * (2 * T + B))()
    start = ctypes.addressof(seen)
    qkv, out, up, down = (weight.data_ptr() for weight in weights)
    qkv_bias, out_bias, up_bias, down_bias = (None if bias is None else bias.data_ptr() for bias in biases)
    R = 0 if angles is None else angles[0].shape[-1] // 2
    call = StepCall(
        B, T, E, H, K, D, R, hidden, past,
        min(pattern.left + 1, past + T) if isinstance(pattern, window) and pattern.left is not None else 0,
        TYPES[x.dtype], library.threads(), native.GATES[feed_forward.activation],
        norms[0].eps, norms[0].offset, D**-0.5 if attention.scale is None else attention.scale, attention.softcap or 0,
        x.data_ptr(), norms[0].weight.data_ptr(), qkv, qkv_bias, out, out_bias,
        norms[1].weight.data_ptr(), up, up_bias, down, down_bias, y.data_ptr(), memory.data_ptr(),
        chunk, start, start + 4 * T, start + 8 * T, strided(k), strided(v),
    )  # fmt: skip
    if angles is not None:
        cos, sin = angles
        call.cos, call.sin, call.angles_row = cos.data_ptr(), sin.data_ptr() + R * sin.element_size(), 2 * R
    library.loaded().clearhead_step(ctypes.byref(call))
    cache.advance(T)
    return y


def _is_plain(block: Any) -> bool:
    """Whether the block is of the kinds that the kernel knows, and nobody has a hook inside."""
    if block.cross is not None or block.parallel or block.norm_at != "before":
        return False
    if not _is(block.dropout, nn.Dropout) or (block.training and block.dropout.p > 0):
        return False
    attention, feed_forward = block.attention, block.feed_forward
    if not (_is(attention, MultiHeadAttention) and _is(feed_forward, FeedForward) and attention.fused):
        return False
    if not feed_forward.gated or feed_forward.activation not in native.GATES or attention.head_width > WIDEST:
        return False
    if any(part is not None for part in (attention.gate, attention.q_norm, attention.k_norm, attention.sinks)):
        return False
    before, between = block.attention_norm, block.feed_forward_norm
    if not (_is(before, RMSNorm) and _is(between, RMSNorm)):
        return False
    if (before.eps, before.offset) != (between.eps, between.offset):
        return False
    return all(_is(layer, Linear) for layer in (attention.qkv, attention.out, feed_forward.up, feed_forward.down))


def _is(module: nn.Module, kind: type) -> bool:
    """Whether the module is of this kind and nothing else, so that it goes unseen that it is not called."""
    return (
        type(module) is kind
        and type(module).forward is FORWARD[kind]
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        and not (of_torch._global_forward_hooks or of_torch._global_forward_pre_hooks)
    )


def _turns(attention: MultiHeadAttention, angles: Angles | None, T: int) -> bool:
    """Whether the kernel can turn by these angles, or there are none and nothing else of positions is in attention."""
    position = attention.position
    if angles is None:
        return type(position).turn is Position.turn and position.bias() is None
    whole = angles[0].shape[:3] == (1, 1, T) and all(each.is_contiguous() for each in angles)
    whole = whole and native.takes_angles(*angles)
    fits = type(position) is Rotary and position.head_width == attention.head_width
    return whole and fits and position.layout == "halves" and angles[0].shape[-1] == position.turned


def _fits(weight: Tensor, shape: tuple[int, ...], x: Tensor) -> bool:
    return weight.shape == shape and native.fits(weight, x)
