"""Scores: how well a query fits a key, before bias, mask and softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.attend.grouped import expand_product
from clearhead.errors import ClearheadError


class Score:
    """How well a query fits a key: a callable that carries its weights."""

    tile: ClassVar[tuple[int, int]] = (128, 512)
    """How many queries and keys to score at a time, so that a tile stays small in memory."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Learned tensors, which get gradients."""
        return ()

    def default_scale(self, D: int) -> float:
        """The factor on the score when the caller names none."""
        return 1.0

    def __call__(self, q: Tensor, k: Tensor, *weights: Tensor) -> Tensor:
        """Queries `(…, H, m, D)` against keys `(…, K, n, Dk)`: scores `(…, H, m, n)`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Dot(Score):
    """`"dot"`: s = q · k, as it is (Luong et al. 2015)."""

    def __call__(self, q: Tensor, k: Tensor, *weights: Tensor) -> Float[Tensor, "*B H m n"]:
        """The score of each query with each key."""
        if q.shape[-1] != k.shape[-1]:
            raise ClearheadError(
                f"a dot product needs queries and keys of one width: got D = {q.shape[-1]} in q, {k.shape[-1]} in k."
            )
        return expand_product(q, k.mT)


@dataclass(frozen=True)
class Scaled(Dot):
    """`"scaled"`, the default: s = q · k / √D (Vaswani et al. 2017)."""

    def default_scale(self, D: int) -> float:
        """1/√D."""
        return D**-0.5 if D else 1.0


@dataclass(frozen=True, eq=False)
class Multiplicative(Score):
    """s = qᵀ W k (Luong et al. 2015, "general"). W is `(D, Dk)`, or `(H, D, Dk)` with one a head.

    >>> import clearhead as ch, torch
    >>> q, k, v = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 3)
    >>> ch.attention(q, k, v, score=ch.Multiplicative(torch.randn(8, 6))).shape
    torch.Size([1, 2, 4, 3])
    """

    W: Float[Tensor, "*H D Dk"]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """W."""
        return (self.W,)

    def __call__(self, q: Tensor, k: Tensor, *weights: Tensor) -> Float[Tensor, "*B H m n"]:
        """The score of each query with each key."""
        (W,) = weights
        if (q.shape[-1], k.shape[-1]) != W.shape[-2:]:
            raise ClearheadError(
                f"Multiplicative: W is {tuple(W.shape)} for queries of D = {q.shape[-1]} and keys of "
                f"Dk = {k.shape[-1]}; expected W of shape (D, Dk)."
            )
        return expand_product(q @ W.to(q.dtype), k.mT)


@dataclass(frozen=True, eq=False)
class Additive(Score):
    """s = v · tanh(Wq q + Wk k) (Bahdanau et al. 2014). Wq is `(A, D)`, Wk `(A, Dk)`, v `(A,)`.

    >>> import clearhead as ch, torch
    >>> q, k, v = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 3)
    >>> score = ch.Additive(torch.randn(16, 8), torch.randn(16, 6), torch.randn(16))
    >>> ch.attention(q, k, v, score=score).shape
    torch.Size([1, 2, 4, 3])
    """

    Wq: Float[Tensor, "A D"]
    Wk: Float[Tensor, "A Dk"]
    v: Float[Tensor, " A"]
    tile: ClassVar[tuple[int, int]] = (32, 128)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Wq, Wk and v."""
        return (self.Wq, self.Wk, self.v)

    def __call__(self, q: Tensor, k: Tensor, *weights: Tensor) -> Float[Tensor, "*B H m n"]:
        """The score of each query with each key."""
        Wq, Wk, v = weights
        if q.shape[-1] != Wq.shape[-1] or k.shape[-1] != Wk.shape[-1]:
            raise ClearheadError(
                f"Additive: Wq is {tuple(Wq.shape)} and Wk {tuple(Wk.shape)} for queries of D = {q.shape[-1]} and "
                f"keys of Dk = {k.shape[-1]}; expected Wq (A, D) and Wk (A, Dk)."
            )
        group = q.shape[-3] // k.shape[-3]
        a = (q @ Wq.mT.to(q.dtype))[..., :, None, :]
        b = (k @ Wk.mT.to(k.dtype)).repeat_interleave(group, -3)[..., None, :, :]
        return torch.tanh(a + b) @ v.to(q.dtype)


NAMED: dict[str, Score] = {"scaled": Scaled(), "dot": Dot()}


def named(score: str | Score) -> Score:
    """The score of this name, or the score itself."""
    if isinstance(score, Score):
        return score
    if not isinstance(score, str) or score not in NAMED:
        raise ClearheadError(
            f"score: got {score!r}; expected 'scaled' (q · k / √D, the default), 'dot' (q · k), "
            "or a score that carries its weights: Additive(Wq, Wk, v), Multiplicative(W)."
        )
    return NAMED[score]
