"""Scores: the dot product under its names, Luong's and Bahdanau's, against their formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch


def softmaxed(s: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(s, -1) @ v.to(s.dtype).repeat_interleave(s.shape[1] // v.shape[1], 1)


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_scaled_divides_by_the_root_of_d_and_dot_does_not(backend: str, dtype: torch.dtype, near: Any) -> None:
    q, k, v = (double(2, 2, *shape).to(dtype) for shape in ((4, 9), (6, 9), (6, 3)))
    s = q.double() @ k.double().mT
    near(ch.attention(q, k, v, backend=backend), softmaxed(s / 3, v), s)
    near(ch.attention(q, k, v, score="scaled", backend=backend), softmaxed(s / 3, v), s)
    near(ch.attention(q, k, v, score="dot", backend=backend), softmaxed(s, v), s)


@pytest.mark.parametrize("score", ["dot", "scaled"])
def test_a_scale_that_is_named_is_the_scale(backend: str, dtype: torch.dtype, near: Any, score: str) -> None:
    q, k, v = (double(1, 1, *shape).to(dtype) for shape in ((4, 9), (6, 9), (6, 3)))
    out = ch.attention(q, k, v, score=score, scale=0.2, softcap=1.5, backend=backend)
    near(out, softmaxed(1.5 * torch.tanh(q.double() @ k.double().mT * 0.2 / 1.5), v))


@pytest.mark.parametrize("shape", [(5, 7), (4, 5, 7), (1, 5, 7)])
def test_multiplicative_is_q_transposed_w_k(scoring: str, shape: tuple[int, ...]) -> None:
    q, k, v, W = double(2, 4, 3, 5), double(2, 2, 6, 7), double(2, 2, 6, 3), double(*shape)
    s = torch.einsum("bhid,hde,bhje->bhij", q, W.expand(4, 5, 7), k.repeat_interleave(2, 1))
    torch.testing.assert_close(ch.attention(q, k, v, score=ch.Multiplicative(W), backend=scoring), softmaxed(s, v))


def test_additive_is_v_tanh_of_the_sum(scoring: str) -> None:
    q, k, v = double(2, 4, 3, 5), double(2, 2, 300, 7), double(2, 2, 300, 3)
    Wq, Wk, a = double(6, 5), double(6, 7), double(6)
    hidden = torch.tanh((q @ Wq.T)[..., :, None, :] + (k @ Wk.T).repeat_interleave(2, 1)[..., None, :, :])
    out = ch.attention(q, k, v, score=ch.Additive(Wq, Wk, a), backend=scoring)
    torch.testing.assert_close(out, softmaxed(hidden @ a, v))


def test_a_score_s_weights_may_be_of_another_precision(scoring: str) -> None:
    q, k, v = (torch.randn(1, 2, 4, 6, dtype=torch.bfloat16) for _ in range(3))
    for score in (ch.Multiplicative(torch.eye(6)), ch.Additive(torch.eye(6), torch.eye(6), torch.ones(6))):
        assert ch.attention(q, k, v, score=score, backend=scoring).dtype == torch.bfloat16
