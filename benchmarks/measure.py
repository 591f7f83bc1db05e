"""Measuring: all contestants take their turns, round after round, and the medians are compared.

What else the machine does, and how warm it is, so meets all of them alike. A turn begins with a pause, in which
the threads of the one before it stop spinning, and with one call that isn't counted, which wakes its own threads
and fills the caches; then come as many calls as make the turn long enough for the clock.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Run = Callable[[], object]

PAUSE = 0.01
TURN = 0.03
"""Seconds that a turn lasts at least."""
SELDOM = 3
"""A bystander joins every third round."""


@dataclass(frozen=True)
class Times:
    """Seconds a call, one for each turn."""

    turns: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all turns."""
        return statistics.median(self.turns)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower one and the upper one."""
        if len(self.turns) < 2:
            return self.turns[0], self.turns[0]
        low, _, high = statistics.quantiles(self.turns, method="inclusive")
        return low, high


def interleaved(
    contestants: Mapping[str, Run], rounds: int, seconds: float, bystanders: Collection[str] = ()
) -> Iterator[dict[str, Times]]:
    """The times of all contestants, after each round again; over when the rounds or the seconds are used up.

    Three rounds are run at least. Each round begins with another contestant. Bystanders join the first round and
    every third one after it.
    """
    times = {name: Times() for name in contestants}
    calls = {name: _calls(run) for name, run in contestants.items()}
    names = list(contestants)
    started = time.perf_counter()
    for n in range(rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            if name not in bystanders or n % SELDOM == 0:
                times[name].turns.append(_turn(contestants[name], calls[name]))
        yield times
        if n >= 2 and time.perf_counter() - started > seconds:
            return


def rotating(runs: Sequence[Run]) -> Run:
    """A call of the next one of them, round and round."""
    if len(runs) == 1:
        return runs[0]
    turn = itertools.cycle(runs)
    return lambda: next(turn)()


def _calls(run: Run) -> int:
    """How many calls make a turn, by the time of one that isn't the first."""
    start = time.perf_counter()
    run()
    return max(1, round(TURN / (time.perf_counter() - start)))


def _turn(run: Run, calls: int) -> float:
    time.sleep(PAUSE)
    if calls > 1:  # else the call is so long that waking a thread doesn't show
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
