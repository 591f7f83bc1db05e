"""The registry of cases: each one can be run, and each goal is about someone who is there."""

import pytest
import torch

from benchmarks import browser, looking, models
from benchmarks.cases import CASES, DRAM, FMA, STOCK, SWEEP, Case, Contest, PeakMemory, Quantity, matches
from benchmarks.goals import Costs, Faster, Goal, Holds, Lasts, Share, Takes
from benchmarks.peers import PEERS
from benchmarks.peers.ours import PLAIN
from benchmarks.peers.pytorch import FOLDED
from benchmarks.problem import Problem
from benchmarks.running import PLOTTED

EVERY = [*CASES, *looking.CASES, *models.CASES, *browser.CASES, *SWEEP]


def test_no_two_cases_have_one_name() -> None:
    assert len({case.name for case in EVERY}) == len(EVERY)


@pytest.mark.parametrize("case", [*CASES, *looking.CASES, *models.CASES, *browser.CASES], ids=lambda case: case.name)
def test_a_case_has_goals_whose_aim_is_no_easier_and_whose_peer_is_there(case: Case) -> None:
    assert case.goals
    for goal in case.goals:
        harder = goal.aim >= goal.at_least if goal.higher_is_better else goal.aim <= goal.at_least
        assert harder
        assert goal.against in {*PEERS, FMA, DRAM, STOCK} or isinstance(case.subject, PeakMemory | Contest | Quantity)


@pytest.mark.parametrize(
    "case", [case for case in EVERY if isinstance(case.subject, Problem)], ids=lambda case: case.name
)
def test_a_name_says_the_type(case: Case) -> None:
    assert isinstance(case.subject, Problem)
    assert case.name.startswith(case.subject.name)


def test_the_plot_has_every_way_that_does_the_same_attention() -> None:
    assert set(PEERS) - set(PLOTTED) == {FOLDED, PLAIN, "clearhead reference"}


def test_cases_are_picked_by_a_part_of_their_name() -> None:
    assert matches("bf16 causal, T 512, D 64", "")
    assert matches("bf16 causal, T 512, D 64", "BF16*t 512")
    assert not matches("bf16 causal, T 512, D 64", "T 512*bf16")


@pytest.mark.parametrize(
    "problem",
    [
        Problem(20, 8, B=2, H=4, K=2),
        Problem(20, 8, causal=True),
        Problem(20, 8, causal=True, window=7),
        Problem(20, 8, H=4, K=2, Tq=1),
    ],
)
def test_work_is_counted_over_the_visible_pairs(problem: Problem) -> None:
    visible = int(problem.mask.sum()) * problem.B * problem.H
    q, k, v = problem.tensors()
    assert problem.pairs == visible
    assert problem.flops == 2 * 2 * 8 * visible
    assert problem.bytes == k.nbytes + v.nbytes


def test_copies_are_distinct_and_the_same_each_time() -> None:
    problem = Problem(20, 8, dtype=torch.bfloat16, copies=2)
    first, second = problem.tensors(0), problem.tensors(1)
    assert all(torch.equal(x, y) for x, y in zip(first, problem.tensors(0), strict=True))
    every = [*first, *second]
    assert not any(torch.equal(every[m], every[n]) for m in range(6) for n in range(m))


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Faster("a peer", 1.5, 2), 2.0, "aim reached"),
        (Faster("a peer", 1.5, 2), 1.6, "reached"),
        (Faster("a peer", 1.5, 2), 1.2, "short by 20%"),
        (Share(FMA, 0.8, 0.9), 0.6, "short by 25%"),
        (Costs("a peer", 0.08, 0.03), 0.02, "aim reached"),
        (Costs("a peer", 0.08, 0.03), 0.08, "reached"),
        (Costs("a peer", 0.08, 0.03), 0.20, "short by 12 points"),
        (Holds("nothing", 64e6, 16e6), 100e6, "short by 36 MB"),
        (Takes("a peer", 1.0, 0.8), 0.9, "reached"),
        (Takes("a peer", 1.0, 0.8), 1.25, "short by 0.25"),
        (Lasts("nothing", 1.0, 0.2), 0.1, "aim reached"),
    ],
)
def test_a_verdict_says_whether_and_by_how_much(goal: Goal, value: float, verdict: str) -> None:
    assert goal.verdict(value) == verdict
