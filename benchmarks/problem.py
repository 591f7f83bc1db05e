"""A problem: one attention to be computed, said once for all peers, and the tensors to compute it on."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend.biases import Bias
from clearhead.attend.pattern import Pattern

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
T5_BUCKETS = 32


@dataclass(frozen=True)
class Problem:
    """An attention of T keys and Tq queries, H heads of D on K key heads, and what is wanted of it."""

    T: int
    D: int = 64
    B: int = 1
    H: int = 8
    K: int = 8
    Tq: int | None = None
    """None: as many as there are keys."""
    dtype: torch.dtype = torch.float32
    causal: bool = False
    window: int | None = None
    """Counted in keys, the query's own among them, and with causality only."""
    bias: str | None = None
    """"alibi" or "t5"."""
    backward: bool = False
    """The gradients of q, k and v are timed, from an output that is there already."""
    probe: bool = False
    """With all of Clearhead's statistics."""
    copies: int = 1
    """How many distinct q, k, v are taken in turn; enough of them come from memory, not from a cache."""

    @property
    def queries(self) -> int:
        """Tq."""
        return self.T if self.Tq is None else self.Tq

    @property
    def name(self) -> str:
        """The type by its short name: "bf16"."""
        return NAMES[self.dtype]

    @property
    def pattern(self) -> Pattern:
        """Who may see whom."""
        pattern = ch.causal() if self.causal else ch.full()
        return pattern if self.window is None else pattern & ch.window(self.window)

    @cached_property
    def relative(self) -> Bias | None:
        """The bias as Clearhead takes it, in float32 whatever the type of q."""
        if self.bias == "t5":
            return ch.t5(_drawn(0, (T5_BUCKETS, self.H), torch.float32), bidirectional=not self.causal)
        return ch.alibi(self.H) if self.bias == "alibi" else None

    @cached_property
    def dense_bias(self) -> Tensor | None:
        """The bias written out `(1, H, Tq, T)`, in float32."""
        if self.relative is None:
            return None
        i, j = torch.arange(self.queries)[:, None], torch.arange(self.T)
        return self.relative.at(i, j, self.T - self.queries, *self.relative.weights)

    @cached_property
    def mask(self) -> Tensor:
        """Who may see whom, written out `(Tq, T)`; True = may attend."""
        return self.pattern.dense(self.queries, self.T).reshape(self.queries, self.T)

    @cached_property
    def pairs(self) -> int:
        """(query, key) pairs that are visible, over all batches and heads."""
        count = self.pattern.runs(self.queries, self.T, torch.device("cpu")).count()
        return int(count.expand(self.B, self.H, self.queries).sum())

    @property
    def flops(self) -> int:
        """Of the visible pairs: two products forward, five backward, 2 D a pair each."""
        return (5 if self.backward else 2) * 2 * self.D * self.pairs

    @property
    def bytes(self) -> int:
        """Of k and v, each read once."""
        return 2 * self.B * self.K * self.T * self.D * self.dtype.itemsize

    def tensors(self, copy: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, normal; the same ones each time that the same copy is asked for."""
        heads, lengths = (self.H, self.K, self.K), (self.queries, self.T, self.T)
        q, k, v = (_drawn(3 * copy + n, (self.B, heads[n], lengths[n], self.D), self.dtype) for n in range(3))
        return q, k, v

    def gradient(self) -> Tensor:
        """What is said of the output when the gradients are asked for."""
        return _drawn(-1, (self.B, self.H, self.queries, self.D), self.dtype)


def _drawn(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float32).to(dtype)
