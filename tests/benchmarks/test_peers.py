"""The registry of peers: all of them compute the same attention, or say why they can't."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.peers import PEERS, Cannot
from benchmarks.peers.ours import OURS
from benchmarks.peers.pytorch import FLEX, SDPA
from benchmarks.problem import Problem

PROBLEMS = {
    "full": Problem(50, 16),
    "causal": Problem(50, 16, B=2, H=4, K=4, causal=True),
    "window": Problem(50, 16, causal=True, window=9),
    "decode": Problem(50, 16, H=8, K=2, Tq=1),
    "alibi": Problem(50, 16, causal=True, bias="alibi"),
    "t5": Problem(50, 16, bias="t5"),
    "statistics": Problem(50, 16, causal=True, probe=True),
    "backward": Problem(50, 16, causal=True, backward=True),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
peers = [pytest.param(name, marks=pytest.mark.slow if name == FLEX else ()) for name in PEERS]


def by_the_formula(problem: Problem) -> tuple[Tensor, ...]:
    """The output, or the gradients, in float64."""
    q, k, v = (x.double().requires_grad_() for x in problem.tensors())
    group = problem.H // problem.K
    s = q @ k.repeat_interleave(group, 1).mT * problem.D**-0.5
    if problem.dense_bias is not None:
        s = s + problem.dense_bias
    out = torch.softmax(s.masked_fill(~problem.mask, -torch.inf), -1) @ v.repeat_interleave(group, 1)
    return torch.autograd.grad(out, (q, k, v), problem.gradient().double()) if problem.backward else (out.detach(),)


@pytest.mark.filterwarnings("ignore")  # those of a peer's own making
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", peers)
def test_a_peer_computes_the_same_or_says_why_not(name: str, kind: str, dtype: torch.dtype) -> None:
    problem = replace(PROBLEMS[kind], dtype=dtype)
    try:
        ready = PEERS[name].ready(problem)(*problem.tensors())
    except Cannot as reason:
        pytest.skip(f"{name}: {reason}")
    for found, wanted in zip(ready.results(), by_the_formula(problem), strict=True):
        assert found.shape == wanted.shape
        assert float((found - wanted).norm() / wanted.norm()) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", [OURS, SDPA])
def test_ours_and_pytorchs_do_every_problem(name: str) -> None:
    for problem in PROBLEMS.values():
        assert PEERS[name].ready(problem)(*problem.tensors()).results()


def test_a_peer_that_is_not_installed_says_how_to_get_it() -> None:
    absent = replace(PEERS[SDPA], package="no_such_package")
    with pytest.raises(Cannot, match="not installed; get it with: pip install no_such_package"):
        absent.ready(PROBLEMS["full"])
