"""Taking one attention that a model asks for: as a Call, on our kernels, or the reason why not."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import and_
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from clearhead.attend import library
from clearhead.attend.api import autocasted, without_autocast
from clearhead.attend.backends import BACKENDS
from clearhead.attend.biases import Bias, dense
from clearhead.attend.call import Call
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import causal, full
from clearhead.attend.runs import Runs
from clearhead.attend.scores import Scaled
from clearhead.attend.statistics import Statistics
from clearhead.scope.interface import Asked
from clearhead.scope.masks import MaskReader, low_rows, masked

SCALED = Scaled()
TENSORS = ("q", "k", "v", "mask", "bias", "sinks")
FULL, CAUSAL = full(), causal(align="start")


class _Masks(threading.local):
    """The masks that this thread has read."""

    def __init__(self) -> None:
        self.reader = MaskReader()


_masks = _Masks()


Own = Callable[[Asked, Tensor], Tensor]
"""What the kernel that a model called makes of some queries of what was asked, (B, H, rows, Dv)."""


@dataclass(frozen=True, eq=False)
class Taken:
    """One attention that our kernels computed."""

    asked: Asked
    call: Call
    backend: str
    out: Tensor
    """(B, H, Tq, Dv)."""
    statistics: Statistics | None
    """Out of the same pass, if asked for."""
    own: Own | None = None

    def detached(self) -> "Taken":
        """Without what gradients would need."""
        asked = replace(self.asked, **{x: t.detach() for x in TENSORS if (t := getattr(self.asked, x)) is not None})
        tensors: list[Any] = [t if t is None else t.detach() for t in self.call.tensors]
        call = self.call.with_tensors(*tensors)
        return replace(self, asked=asked, call=call, out=self.out.detach())


def take(asked: Asked, backend: str, probe: bool = False, own: Own | None = None) -> Taken | str:
    """What was asked for, computed by a backend; or why it can't, as the end of a sentence."""
    reason = why_absent(backend) or _why_not(asked)
    if reason is not None:
        return reason
    asked.q, asked.k, asked.v = autocasted(asked.q, asked.k, asked.v)
    with without_autocast(asked.q):
        call = _call(asked)
        refusal: str | None = BACKENDS[backend].refuses(call)
        if refusal is not None:
            return refusal
        out, _, statistics = BACKENDS[backend].forward(call, probe)
    return Taken(asked, call, backend, out, statistics, own)


def why_absent(backend: str) -> str | None:
    """Why a backend isn't there at all, or None."""
    if backend not in BACKENDS:
        return f"there is no backend {backend!r} here, only {' and '.join(BACKENDS)}"
    return library.missing() if backend == "native" else None


def _why_not(asked: Asked) -> str | None:
    """What no backend is asked for here, or None."""
    q, k, v = asked.q, asked.k, asked.v
    masks = [mask for mask in (asked.mask, asked.bias) if mask is not None]
    for x in (q, k, v, *masks):
        if type(x) is not Tensor and type(x) is not Parameter:
            return f"its tensors are of a class of their own, {type(x).__name__}"
    if q.device.type != "cpu":
        return f"its tensors are on {q.device}, not on the CPU"
    if any(x.is_nested for x in (q, k, v)):
        return "its tensors are nested"
    if any(x.layout is not torch.strided for x in (q, k, v, *masks)):
        return "its tensors are sparse"
    if torch._C._is_tracing():
        return "it is being traced, which records PyTorch's own operations"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "it runs inside a transform of torch.func"
    if not 0 <= asked.dropout < 1:
        return f"its dropout is {asked.dropout}"
    (B, H, Tq, D), (Bk, K, Tk, Dk) = q.shape, k.shape
    if k.shape[:3] != v.shape[:3] or D != Dk or K == 0 or H % K or not (B == Bk or 1 in (B, Bk)):
        return f"its shapes, {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}, don't fit each other"
    scores = (max(B, Bk), H, Tq, Tk)
    for mask in masks:
        shape = (1,) * (4 - mask.dim()) + tuple(mask.shape)
        if len(shape) != 4 or any(n not in (1, m) for n, m in zip(shape, scores, strict=True)):
            return f"its mask, {tuple(mask.shape)}, doesn't fit its scores, {scores}"
    return None


def options(asked: Asked) -> dict[str, Any]:
    """What `attention()` is to be called with, besides q, k and v."""
    runs, bias = _said(asked)
    return {
        "pattern": masked(runs),
        "bias": bias,
        "scale": asked.scale,
        "softcap": asked.softcap,
        "sinks": asked.sinks,
        "dropout": asked.dropout,
    }


def may_see_nothing(asked: Asked) -> bool:
    """Whether a mask of floats hides all keys from some query, by −inf. Kernels give 0 or NaN there."""
    if all(mask is None or mask.dtype == torch.bool for mask in (asked.mask, asked.bias)):
        return False
    return bool((_said(asked)[0].count() == 0).any())


def _said(asked: Asked) -> tuple[Runs, Bias | None]:
    """Who may see whom, and the bias."""
    Tq, Tk, device = asked.q.shape[2], asked.k.shape[2], asked.q.device
    full = _runs(FULL, Tq, Tk, device)
    masks = [mask for mask in (asked.mask, asked.bias) if mask is not None]
    allowed = [_runs(CAUSAL, Tq, Tk, device)] if asked.causal else []
    visible: list[Runs] = []
    added: list[Bias] = []
    for mask in masks:
        pattern, bias = _masks.reader.read(mask, Tq, Tk)
        if pattern is not None:
            (allowed if mask.dtype == torch.bool else visible).append(pattern.runs(Tq, Tk, device))
        if bias is not None:
            added.append(bias)
    runs = _all_of([*allowed, *visible], full)
    if len(masks) + asked.causal > 1:
        emptied = (runs.count() == 0) & (_all_of(allowed, full).count() > 0)
        if bool(emptied.any()) or any(low_rows(bias) is not None for bias in added):
            # What such a row hides, only the sum says: all but its highest.
            whole = asked.whole_mask
            assert whole is not None
            pattern, summed = _masks.reader.read(whole, Tq, Tk)
            return full if pattern is None else pattern.runs(Tq, Tk, device), summed
    if len(added) > 1:
        return runs, dense(masks[0] + masks[1])
    return runs, added[0] if added else None


def _all_of(parts: list[Runs], full: Runs) -> Runs:
    return reduce(and_, parts) if parts else full


def _call(asked: Asked) -> Call:
    """The attention in our own words. What is the same in every layer is made once."""
    q, k, v = asked.q, asked.k, asked.v
    if q.shape[0] != k.shape[0]:  # one serves the whole batch
        B = max(q.shape[0], k.shape[0])
        q, k, v = (x.expand(B, -1, -1, -1) for x in (q, k, v))
    runs, bias = _said(asked)
    return Call(
        q=q,
        k=k,
        v=v,
        sinks=asked.sinks,
        bias_weights=() if bias is None else bias.weights,
        score_weights=(),
        runs=runs,
        bias=bias,
        score=SCALED,
        scale=asked.scale,
        softcap=asked.softcap,
        dropout=asked.dropout,
        queries=_positions(q.shape[2], q.device),
        past=k.shape[2] - q.shape[2],
    )


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is remembered may be used in training too
def _runs(pattern: Pattern, Tq: int, Tk: int, device: torch.device) -> Runs:
    return pattern.runs(Tq, Tk, device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _positions(Tq: int, device: torch.device) -> Tensor:
    return torch.arange(Tq, device=device)
