"""Dropout by a counter: fair, reproducible, and the same mask in every part of the work."""

from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend import library

P = 0.3


def kept(B: int, H: int, Tq: int, Tk: int, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Which weights stay, `(B, H, Tq, Tk)`: where q is 0 all weights are alike, and the values are one for each key."""
    q, k = torch.zeros(B, H, Tq, 8, dtype=dtype), torch.randn(B, H, Tk, 8).to(dtype)
    v = torch.eye(Tk, dtype=dtype).expand(B, H, Tk, Tk)
    torch.manual_seed(seed)
    return ch.attention(q, k, v, dropout=P, backend="native") > 0


def test_a_weight_that_stays_grows_so_that_the_mean_stays(isa: str, dtype: torch.dtype) -> None:
    Tk = 128
    torch.manual_seed(5)
    v = torch.eye(Tk, dtype=dtype).expand(2, 4, Tk, Tk)
    out = ch.attention(torch.zeros(2, 4, 100, 8, dtype=dtype), v[..., :8], v, dropout=P, backend="native")
    sizes = out.float().unique()
    torch.testing.assert_close(sizes, torch.tensor([0, 1 / Tk / (1 - P)]), atol=1e-7, rtol=1e-2)
    n, share = out.numel(), (out > 0).double().mean()
    assert abs(share - (1 - P)) < 4 * (P * (1 - P) / n) ** 0.5


def test_the_mask_is_that_of_the_pair_alone(qkv: Any) -> None:
    """Not of the instruction set, the threads, the type, the number of queries, keys or heads around it."""
    masks = []
    for isa in library.isas():
        with library.using(isa):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                masks += [kept(2, 3, 130, 140), kept(2, 3, 130, 140, dtype=torch.bfloat16)]
            masks += [kept(2, 3, 130, 200)[..., :140]]
            few = kept(1, 3, 5, 140)
            assert torch.equal(few[0], masks[0][0, :, :5])
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_batches_heads_queries_keys_and_seeds_are_independent(isa: str) -> None:
    """Two fair masks of n weights agree in a share of p² + (1 − p)² of them, give or take √(share · rest / n)."""
    mask = kept(2, 2, 150, 160)
    others = [
        kept(2, 2, 150, 160, seed=6),
        mask.flip(0),
        mask.flip(1),
        mask.roll(1, 2),
        mask.roll(1, 3),
        mask.roll(4, 3),
    ]
    share = P**2 + (1 - P) ** 2
    for other in others:
        n = mask.numel() / 2  # each pair of batches or heads is counted twice
        assert abs((mask == other).double().mean() - share) < 4.5 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize(("Tq", "Tk"), [(1, 300), (7, 90), (150, 200)])
@pytest.mark.parametrize("pattern", [ch.full(), ch.causal() & ch.window(70) | ch.first(3)], ids=str)
def test_forward_and_backward_drop_the_same_weights(isa: str, Tq: int, Tk: int, pattern: ch.Pattern) -> None:
    """Against the formula in float64 with the mask written out."""
    mask = kept(1, 4, Tq, Tk).double() / (1 - P)
    tensors = [torch.randn(1, H, T, 16, requires_grad=True) for H, T in ((4, Tq), (2, Tk), (2, Tk))]
    torch.manual_seed(5)
    out, lse = ch.attention(*tensors, pattern=pattern, dropout=P, return_lse=True, backend="native")
    q, k, v = (x.detach().double().requires_grad_() for x in tensors)
    s = (q @ k.repeat_interleave(2, 1).mT / 4).masked_fill(~pattern.dense(Tq, Tk), -torch.inf)
    expected = (torch.softmax(s, -1) * mask) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse.double(), s.logsumexp(-1), atol=1e-5, rtol=1e-5)  # nothing is dropped of it
    ours = torch.autograd.grad(out.sin().sum() + lse.sum(), tensors)
    theirs = torch.autograd.grad(expected.sin().sum() + s.logsumexp(-1).sum(), (q, k, v))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.double(), y, atol=3e-5, rtol=3e-5)


def test_a_seed_of_pytorch_s_generator_makes_it_reproducible(isa: str) -> None:
    first = kept(1, 2, 60, 60, seed=1)
    assert torch.equal(kept(1, 2, 60, 60, seed=1), first)
    assert not torch.equal(kept(1, 2, 60, 60, seed=2), first)
    q = torch.randn(1, 1, 60, 8)
    assert not torch.equal(*(ch.attention(q, q, q, dropout=P, backend="native") for _ in range(2)))
