"""PyTorch's ways: its fused kernel, the formula written out, the group folded by hand, and FlexAttention."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.peers.peer import Bind, Cannot, Peer, of_torch
from benchmarks.problem import Problem

SDPA, EAGER, FOLDED, FLEX = "PyTorch SDPA", "PyTorch eager", "PyTorch, group folded", "FlexAttention"


def written_mask(problem: Problem) -> Tensor | None:
    """What SDPA needs as attn_mask where is_causal doesn't say it: a float one with a bias, else a bool one."""
    if problem.dense_bias is not None:
        return problem.dense_bias.masked_fill(~problem.mask, -torch.inf).to(problem.dtype)
    hidden = problem.window is not None or (problem.causal and problem.queries != problem.T)
    return problem.mask if hidden else None


def sdpa(problem: Problem) -> Bind:
    """scaled_dot_product_attention."""
    mask, grouped = written_mask(problem), problem.H != problem.K
    causal = problem.causal and mask is None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)

    return of_torch(problem, attend)


def folded(problem: Problem) -> Bind:
    """The query heads of a group as rows of one head, for which SDPA reads the keys once."""
    if problem.queries != 1 or problem.H == problem.K:
        raise Cannot("folds heads that share keys, at decode")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = q.view(problem.B, problem.K, problem.H // problem.K, problem.D)
        return F.scaled_dot_product_attention(rows, k, v).view(q.shape)

    return of_torch(problem, attend)


def eager(problem: Problem) -> Bind:
    """softmax(q kᵀ / √D + mask) v, as a textbook has it."""
    mask = written_mask(problem)
    if mask is None and problem.causal:
        mask = problem.mask
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=problem.dtype).masked_fill_(~mask, -torch.inf)
    group = problem.H // problem.K

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.mT * problem.D**-0.5
        return torch.softmax(scores if mask is None else scores + mask, -1) @ v

    return of_torch(problem, attend)


def flex(problem: Problem) -> Bind:
    """flex_attention under torch.compile, with a block mask; compiling isn't timed."""
    if problem.backward:
        raise Cannot("FlexAttention has no backward on a CPU")
    past, window, bias = problem.T - problem.queries, problem.window, problem.dense_bias

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = j <= i + past
        return seen if window is None else seen & (i + past - j < window)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + table[h, j - i + problem.queries - 1]

    blocks = create_block_mask(visible, None, None, problem.queries, problem.T, "cpu") if problem.causal else None
    if bias is not None:  # its entries by distance j − i: up the first column, then along the first row
        table = torch.cat([bias[0, :, :, 0].flip(1)[:, :-1], bias[0, :, 0]], 1)
    torch._dynamo.reset()  # else the ninth problem would not be compiled
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return compiled(
            q, k, v, score_mod=None if bias is None else biased, block_mask=blocks, enable_gqa=problem.H != problem.K
        )

    with warnings.catch_warnings():  # of inductor's own making
        warnings.simplefilter("ignore")
        attend(*problem.tensors())
    return of_torch(problem, attend)


PEERS = [
    Peer(SDPA, sdpa),
    Peer(FOLDED, folded, when_named=True),
    Peer(EAGER, eager),
    Peer(FLEX, flex, when_named=True),
]
