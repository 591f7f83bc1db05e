"""Measuring: who takes a turn when, and what a yardstick is worth."""

from collections import Counter

import pytest
import torch

from benchmarks.measure import Times, interleaved, rotating
from benchmarks.yardsticks import multiplying


class Clock:
    """Stands in for the module `time`, so that how long a call takes does not depend on the machine."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("benchmarks.measure.time", clock)
    return clock


def turns(clock: Clock, rounds: int, seconds: float) -> dict[str, Times]:
    def call() -> None:
        clock.sleep(0.03)

    *_, times = interleaved({"ours": call, "peer": call, "other": call}, rounds, seconds, bystanders={"other"})
    return times


def test_all_take_a_turn_in_each_round_and_bystanders_in_every_third(clock: Clock) -> None:
    assert {name: len(one.turns) for name, one in turns(clock, 4, 60).items()} == {"ours": 4, "peer": 4, "other": 2}


def test_a_case_ends_with_its_time_but_not_before_three_rounds(clock: Clock) -> None:
    assert len(turns(clock, 50, 0)["ours"].turns) == 3
    assert 3 < len(turns(clock, 50, 1)["ours"].turns) < 50


def test_a_turn_is_the_time_of_one_call(clock: Clock) -> None:
    assert turns(clock, 3, 60)["ours"].turns == pytest.approx([0.03] * 3)
    *_, times = interleaved({"it": lambda: clock.sleep(0.002)}, 3, 60)
    assert times["it"].turns == pytest.approx([0.002] * 3)


def test_copies_are_taken_in_turn() -> None:
    taken: Counter[int] = Counter()
    run = rotating([lambda n=n: taken.update([n]) for n in range(3)])
    for _ in range(6):
        run()
    assert taken == {0: 2, 1: 2, 2: 2}


def test_quartiles_hold_the_median_between_them() -> None:
    times = Times([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (times.median, times.quartiles) == (3.0, (2.0, 4.0))
    assert Times([7.0]).quartiles == (7.0, 7.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_matrix_product_beats_the_peak(dtype: torch.dtype) -> None:
    n, yardstick = 1024, multiplying(dtype)
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    *_, times = interleaved({"peak": yardstick.run, "product": lambda: torch.mm(a, b)}, 9, 20)
    assert yardstick.work / min(times["peak"].turns) > 0.95 * 2 * n**3 / min(times["product"].turns)
