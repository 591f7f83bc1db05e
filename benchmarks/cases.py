"""The registry of cases: what is measured, and what of it shall be reached, against whom."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from benchmarks.goals import Costs, Faster, Goal, Holds, Share
from benchmarks.measure import Run
from benchmarks.peers.ours import PLAIN
from benchmarks.peers.peer import Cannot
from benchmarks.peers.pytorch import FLEX, FOLDED, SDPA
from benchmarks.problem import Problem

FP32, BF16 = torch.float32, torch.bfloat16
FMA, DRAM = "FMA peak", "DRAM read"
STOCK = "the model as it is"


@dataclass(frozen=True)
class WholeModel:
    """SmolLM2-135M on so many tokens of real text: reading them all, or writing the next few."""

    tokens: int
    writes: int = 0


@dataclass(frozen=True)
class PeakMemory:
    """The most that a call holds beyond its inputs and outputs, in a process of its own."""

    problem: Problem


@dataclass(frozen=True)
class Contest:
    """Contestants that a function makes ready, by name, or why one can't be; ours is one of them."""

    make: Callable[[], Mapping[str, Run | Cannot]]


@dataclass(frozen=True)
class Quantity:
    """What a function measures by itself."""

    measure: Callable[[], float]


@dataclass(frozen=True)
class Case:
    """Something to measure. Names are what `--cases` picks by."""

    name: str
    subject: Problem | WholeModel | PeakMemory | Contest | Quantity
    goals: tuple[Goal, ...] = ()
    quick: bool = True
    """Whether `--quick` keeps it."""


def _both(kind: str, problem: Problem, *goals: Goal, bf16: tuple[Goal, ...], quick: bool = True) -> Iterator[Case]:
    """The case in float32 and in bfloat16, each with its goals."""
    for dtype, wanted in ((FP32, goals), (BF16, bf16)):
        one = replace(problem, dtype=dtype)
        yield Case(f"{one.name} {kind}", one, wanted, quick)


def _forward() -> Iterator[Case]:
    share32, share16 = Share(FMA, 0.82, 0.92), Share(FMA, 0.75, 0.90)
    for T, D in ((2048, 64), (2048, 128), (4096, 64), (4096, 128)):
        faster = Faster(SDPA, 1.45, 1.65) if D == 64 else Faster(SDPA, 1.35, 1.45)
        quick, size = T == 2048 and D == 64, f"T {T}, D {D}"
        full, causal = Problem(T, D), Problem(T, D, causal=True)
        yield from _both(f"full, {size}", full, faster, share32, bf16=(Faster(SDPA, 2.4, 3.2), share16), quick=quick)
        yield from _both(
            f"causal, {size}", causal, Faster(SDPA, 1.55, 2.0), bf16=(Faster(SDPA, 2.9, 4.0),), quick=quick
        )
    yield from _both(
        "causal, T 512, D 64", Problem(512, causal=True), Faster(SDPA, 2.2, 2.8), bf16=(Faster(SDPA, 4.0, 5.5),)
    )
    short = Problem(128, B=8, H=12, K=12)
    yield from _both("short: full, B 8, H 12, T 128", short, Faster(SDPA, 1.6, 2.2), bf16=(Faster(SDPA, 2.8, 4.0),))


def _sparse() -> Iterator[Case]:
    yield from _both(
        "causal window of 256, T 4096",
        Problem(4096, causal=True, window=256),
        Faster(SDPA, 18, 30),
        Faster(FLEX, 2.5, 4),
        bf16=(Faster(SDPA, 25, 45), Faster(FLEX, 6, 10)),
    )


def _decode() -> Iterator[Case]:
    """A cache of 67 MB in float32, read again and again, which a large L3 holds; and, as in a model of many layers,
    so many distinct ones in turn that no cache holds them.
    """
    one = Problem(8192, 128, H=32, K=8, Tq=1)
    goals32 = (Faster(SDPA, 6, 10), Faster(FOLDED, 2, 3))
    goals16 = (Faster(SDPA, 20, 30), Faster(FOLDED, 2.5, 3.5))
    share = Share(DRAM, 0.75, 0.90)
    yield from _both("decode, 32/8 heads, 8192 keys, D 128, cached", one, *goals32, bf16=goals16)
    for dtype, goals, copies in ((FP32, goals32, 16), (BF16, goals16, 32)):
        many = replace(one, dtype=dtype, copies=copies)
        yield Case(f"{many.name} decode, 32/8 heads, 8192 keys, D 128, from memory", many, (*goals, share))


def _backward() -> Iterator[Case]:
    for T, D in ((2048, 64), (2048, 128), (4096, 64)):
        for causal, at_least, aim in ((False, 1.45, 1.8), (True, 1.55, 2.1)):
            problem = Problem(T, D, causal=causal, backward=True)
            kind = f"backward, {'causal' if causal else 'full'}, T {T}, D {D}"
            goals = Faster(SDPA, at_least, aim)
            yield from _both(kind, problem, goals, bf16=(Faster(SDPA, 2.0, 3.0),), quick=T == 2048 and D == 64)


def _biased() -> Iterator[Case]:
    faster = Faster(SDPA, 3, 8)
    for name, problem in (
        ("ALiBi, causal, T 2048", Problem(2048, causal=True, bias="alibi")),
        ("T5's bias, full, T 2048", Problem(2048, bias="t5")),
    ):
        yield from _both(name, problem, faster, bf16=(faster,))


def _probed() -> Iterator[Case]:
    for causal in (False, True):
        yield from _both(
            f"every statistic, {'causal' if causal else 'full'}, T 2048",
            Problem(2048, causal=causal, probe=True),
            Costs(PLAIN, 0.08, 0.03),
            bf16=(Costs(PLAIN, 0.15, 0.06),),
        )


def _large() -> Iterator[Case]:
    long = Problem(131_072, causal=True, window=4096)
    yield Case(
        "memory beyond inputs and outputs, T 131072, window 4096",
        PeakMemory(long),
        (Holds("nothing", 64e6, 16e6),),
        quick=False,
    )
    yield Case("SmolLM2-135M, prefill of 4096 tokens", WholeModel(4096), (Faster(STOCK, 1.2, 1.2),), quick=False)
    yield Case(
        "SmolLM2-135M, decode at a cache of 4096", WholeModel(4096, writes=8), (Faster(STOCK, 1.3, 1.3),), quick=False
    )


CASES = [case for group in (_forward, _sparse, _decode, _backward, _biased, _probed, _large) for case in group()]

SWEEP = [
    case
    for n in range(7, 14)
    for case in _both(f"causal, T {2**n}, D 64, of the plot", Problem(2**n, causal=True), bf16=())
]
"""The plot's: cost against T, without goals."""


def matches(name: str, pattern: str) -> bool:
    """Whether the name holds the pattern, `*` standing for anything, in either case of letters."""
    return fnmatch.fnmatch(name.lower(), f"*{pattern.lower()}*")
