"""Accuracy: the errors of Clearhead and of PyTorch's kernel against float64, on scores that are hard in their ways.

The error of a tensor is its difference from what float64 gives for the same inputs, those being rounded to the type
first: the largest one, and the root of the mean square, over a few draws. The ratio is ours to PyTorch's, the worse
one of the two. An error below the rounding of the type at the tensor's largest value counts as that much: a result
can't be asked to be better than the type that it is kept in.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import clearhead as ch
from benchmarks.peers.ours import OURS
from benchmarks.problem import NAMES

H, T, D = 4, 500, 64
DRAWS = 3
ALLOWED = 1.5
"""How many times PyTorch's error is allowed."""
PARTS = ("out", "lse", "dq", "dk", "dv")

Results = dict[str, Tensor]
"""The parts by their names."""


def _along(scores: Tensor) -> tuple[Tensor, Tensor]:
    """q and k whose scaled scores are, for every query, about these `(T,)` times a factor near 1."""
    q, k = 0.1 * torch.randn(2, 1, H, T, D)
    q[..., 0] = 1 + 0.1 * torch.randn(1, H, T)
    k[..., 0] = scores * D**0.5
    return q, k


def _normal(factor: float = 1) -> tuple[Tensor, Tensor]:
    q, k = torch.randn(2, 1, H, T, D)
    return factor * q, k


def _constant() -> tuple[Tensor, Tensor]:
    q, k = _normal()
    return q, k[:, :, :1].expand_as(k)


SCORES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "normal": _normal,
    "normal, ×10": lambda: _normal(10),
    "ramp": lambda: _along(torch.linspace(-20, 20, T)),
    "spike": lambda: _along(30.0 * (torch.arange(T) == T // 3)),
    "constant": _constant,
    "sorted": lambda: _along(3 * torch.randn(T).sort().values),
    "all negative": lambda: _along(-10 - 3 * torch.randn(T).abs()),
}


def errors() -> Iterator[dict[str, Any]]:
    """For each type, pattern, kind of scores and part: the errors of both, their ratio, and the verdict."""
    for dtype, causal, kind in itertools.product((torch.float32, torch.bfloat16), (False, True), SCORES):
        drawn = [_drawn(seed, dtype, kind, causal) for seed in range(DRAWS)]
        for part in PARTS:
            truth, ours, theirs = (torch.stack([results[part] for results in who]) for who in zip(*drawn, strict=True))
            row = {"type": NAMES[dtype], "pattern": "causal" if causal else "full", "scores": kind, "part": part}
            yield row | _compared(truth, ours, theirs)


def _drawn(seed: int, dtype: torch.dtype, kind: str, causal: bool) -> tuple[Results, Results, Results]:
    """What float64, Clearhead and PyTorch give for one draw of these scores."""
    torch.manual_seed(seed)
    v, gradient = torch.randn(2, 1, H, T, D).to(dtype)
    q, k = (x.to(dtype) for x in SCORES[kind]())
    inputs = (q, k, v, gradient)
    return _in_float64(*(x.double() for x in inputs), causal), _ours(*inputs, causal), _pytorchs(*inputs, causal)


def _compared(truth: Tensor, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    floor = float(torch.finfo(ours.dtype).eps / 2 * truth.abs().max())
    mine, others = _error(ours - truth), _error(theirs - truth)
    ratio = max(max(a, floor) / max(b, floor) for a, b in zip(mine.values(), others.values(), strict=True))
    verdict = "reached" if ratio <= ALLOWED else f"{ratio:.1f} times PyTorch's"
    return {"ours": mine, "pytorch": others, "ratio": ratio, "verdict": verdict}


def _error(difference: Tensor) -> dict[str, float]:
    """Infinite where the result is no number."""
    size = difference.nan_to_num(nan=torch.inf).abs()
    return {"largest": float(size.max()), "rms": float(size.square().mean().sqrt())}


def _differentiated(attend: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> Results:
    *tensors, gradient = inputs
    leaves = [x.detach().requires_grad_() for x in tensors]
    out, lse = attend(*leaves)
    return dict(zip(PARTS, (out.detach(), lse.detach(), *torch.autograd.grad(out, leaves, gradient)), strict=True))


def _in_float64(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, causal: bool) -> Results:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        s = q @ k.mT / D**0.5
        if causal:
            s = s.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)

    return _differentiated(attend, q, k, v, gradient)


def _ours(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, causal: bool) -> Results:
    options = {"pattern": ch.causal() if causal else ch.full(), "backend": OURS.removeprefix("clearhead ")}
    return _differentiated(lambda *x: ch.attention(*x, return_lse=True, **options), q, k, v, gradient)


def _pytorchs(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, causal: bool) -> Results:
    """What scaled_dot_product_attention calls, and hides the log-sum-exp of."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return _differentiated(lambda *x: kernel(*x, 0.0, causal)[:2], q, k, v, gradient)
