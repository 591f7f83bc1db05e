"""A self-test of ten seconds: every backend's numbers against float64, and the speed beside PyTorch's own."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clearhead.attend import library
from clearhead.attend.api import attention, checked
from clearhead.attend.backends import BACKENDS, choose
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import causal, window

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""How far from float64 a number may be, relative to the largest of its kind. Types other than float32 round more."""
SECONDS = 1.0
"""How long each of the speeds is measured."""
LENGTH = 193
"""Of the texts on which numbers are compared."""
TOKENS, KEYS = 1024, 4096
"""The lengths of the texts that they are measured on."""
MEASURED = ("lse", "entropy", "peak", "distance", "max_score")
"""Statistics that are compared as they are; where the peak is, is compared by the score there."""


@dataclass(frozen=True)
class Numbers:
    """How far one backend, in one type, is from float64."""

    backend: str
    type: str
    refused: str | None = None
    forward: float = 0.0
    """The largest |out − out in float64|, relative to the largest |out|."""
    backward: float = 0.0
    """The same of dq, dk and dv, the worst of them."""
    statistics: float = 0.0
    """The same of the log-sum-exp and each statistic, the worst of them."""
    tolerance: float = 0.0

    @property
    def wrong(self) -> bool:
        """Whether any of them is further than rounding explains. NaN is."""
        errors = self.forward, self.backward, self.statistics
        return self.refused is None and not all(error <= self.tolerance for error in errors)


@dataclass(frozen=True)
class Speed:
    """One case, measured in turn with PyTorch's own: medians, in milliseconds."""

    case: str
    backend: str
    ours: float
    pytorch: float

    @property
    def ratio(self) -> float:
        """How many times faster than PyTorch's own; below 1 it is slower."""
        return self.pytorch / self.ours


def numbers() -> Iterator[Numbers]:
    """Of each backend, and of `native` on each instruction set that this machine has."""
    for name in BACKENDS:
        if name == "native" and library.missing() is None:
            for isa in library.isas():
                with library.using(isa):
                    yield from (_numbers(name, dtype, f"{name} on {isa}") for dtype in TOLERANCE)
        else:
            yield from (_numbers(name, dtype, name) for dtype in TOLERANCE)


def _numbers(backend: str, dtype: torch.dtype, label: str) -> Numbers:
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(1, heads, LENGTH, 64, generator=generator).to(dtype) for heads in (4, 2, 2, 4))
    pattern = causal() & window(LENGTH // 2)
    refused: str | None = BACKENDS[backend].refuses(checked(q, k, v, pattern=pattern))
    kind = str(dtype).removeprefix("torch.")
    if refused is not None:
        return Numbers(label, kind, refused)
    true = _results("reference", pattern, *(x.double() for x in (q, k, v, dout)))
    ours = _results(backend, pattern, q, k, v, dout)
    forward, backward, statistics = (_worst(mine, theirs) for mine, theirs in zip(ours, true, strict=True))
    return Numbers(label, kind, None, forward, backward, statistics, TOLERANCE[dtype])


def _results(
    backend: str, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, dout: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Out; its gradients; the statistics, with the true score of the key at the peak."""
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    out, lse, seen = attention(q, k, v, pattern=pattern, backend=backend, return_lse=True, probe=True)
    out.backward(dout)
    shared = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    at_peak = (q.double() * shared.gather(2, seen.peak_at[..., None].expand(q.shape))).sum(-1) * q.shape[-1] ** -0.5
    gradients = [x.grad for x in (q, k, v) if x.grad is not None]
    return [out], gradients, [lse, at_peak, *(getattr(seen, name) for name in MEASURED)]


def _worst(ours: list[Tensor], true: list[Tensor]) -> float:
    """The largest difference, relative to the largest true value of its tensor; NaN if there is any."""
    pairs = ((a.detach().double(), b.detach()) for a, b in zip(ours, true, strict=True))
    return float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max())


def speeds() -> Iterator[Speed]:
    """Each case: what `attention` does by itself, and PyTorch's own, in turn."""
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        q, k, v = torch.randn(3, 1, 8, TOKENS, 64).to(dtype)
        yield _speed(f"{kind}, 8 heads, {TOKENS} tokens, causal", q, k, v, True)
        q, k, v = torch.randn(1, 32, 1, 128).to(dtype), *torch.randn(2, 1, 8, KEYS, 128).to(dtype)
        yield _speed(f"{kind}, one query of 32/8 heads, {KEYS} keys", q, k, v, False)


@torch.no_grad()
def _speed(case: str, q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Speed:
    pattern = causal() if is_causal else None

    def ours() -> None:
        attention(q, k, v, pattern=pattern)

    def pytorch() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)

    taken = choose(checked(q, k, v, pattern=pattern), "auto")
    name = next(name for name, backend in BACKENDS.items() if backend is taken)
    return Speed(case, name, *_medians(ours, pytorch))


def _medians(*runs: Callable[[], None]) -> list[float]:
    """Milliseconds of each, run in turn, so that what else the machine does meets them alike."""
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + SECONDS
    while len(taken[0]) < 3 or time.perf_counter() < end:
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[1:]) for times in taken]  # the first of each warms up
