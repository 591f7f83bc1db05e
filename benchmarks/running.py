"""Running a case: its contestants are made ready, checked against one another, timed in turns, and judged."""

import fnmatch
import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import memory, whole_model
from benchmarks.cases import DRAM, FMA, SWEEP, Case, Contest, PeakMemory, Quantity, WholeModel
from benchmarks.goals import Costs, Faster, Goal, Share, Takes
from benchmarks.machine import Others
from benchmarks.measure import Run, Times, interleaved, rotating
from benchmarks.peers import PEERS, Cannot
from benchmarks.peers.ours import OURS
from benchmarks.peers.pytorch import FLEX, SDPA
from benchmarks.problem import Problem
from benchmarks.yardsticks import Yardstick, multiplying, reading

AGREES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""How far a peer's result may be from float32's, relative in the root of squares, for its time to count."""

PLOTTED = [name for name, peer in PEERS.items() if name == FLEX or not peer.when_named]
SLOW = 0.5
"""Seconds; who takes longer is left out of the plot's larger sizes."""


@dataclass(frozen=True)
class Options:
    """How thoroughly, and beside whom."""

    rounds: int = 9
    seconds: float = 8
    """A case ends after these, whatever the rounds, but for three of them."""
    peers: tuple[str, ...] = ()
    """Patterns of the names of peers; none: all of them, but for those that want to be named."""
    bystanders: bool = True
    """Whether peers that no goal speaks of take part."""


class Bench:
    """The yardsticks of this machine, and what is run beside them."""

    def __init__(self, options: Options, tell: Callable[[str], None] = lambda what: None) -> None:
        self.options, self.tell = options, tell
        self.yardsticks = {
            (FMA, torch.float32): multiplying(torch.float32),
            (FMA, torch.bfloat16): multiplying(torch.bfloat16),
            (DRAM, None): reading(),
        }

    def rates(self) -> dict[str, dict[str, Any]]:
        """What the machine can do at best, measured by itself."""
        measured = {}
        for yardstick in self.yardsticks.values():
            *_, times = interleaved({"it": yardstick.run}, rounds=5, seconds=2)
            rate = yardstick.work / times["it"].median
            measured[yardstick.name] = {"rate": rate, "unit": f"{yardstick.unit}/s", "how": yardstick.how}
        return measured

    def run(self, case: Case, peers: Collection[str] | None = None) -> dict[str, Any]:
        """All that is known of a case afterwards, as JSON has it; beside these peers, or the options' choice."""
        gc.collect()
        others, subject = Others(), case.subject
        result: dict[str, Any] = {"name": case.name, "times": {}, "skipped": {}, "goals": []}
        if isinstance(subject, PeakMemory):
            held = self._memory(subject, result)
            return result | {"goals": [_judged(goal, held, result["skipped"]) for goal in case.goals]}
        if isinstance(subject, Quantity):
            self.tell(f"{case.name}: measuring")
            value = None
            try:
                value = subject.measure()
            except Cannot as reason:
                result["skipped"][OURS] = str(reason)
            goals = [_judged(goal, value, result["skipped"]) for goal in case.goals]
            return result | {"goals": goals, "others": others.share()}
        contestants: dict[str, Run] = {}
        yardsticks: dict[str, Yardstick] = {}
        if isinstance(subject, WholeModel | Contest):
            try:
                self.tell(f"{case.name}: making the model ready")
                made: Mapping[str, Run | Cannot] = (
                    subject.make() if isinstance(subject, Contest) else whole_model.contestants(subject)
                )
            except Cannot as reason:
                made = {OURS: reason}
            result["skipped"] |= {name: str(one) for name, one in made.items() if isinstance(one, Cannot)}
            contestants |= {name: one for name, one in made.items() if not isinstance(one, Cannot)}
        else:
            result["problem"] = _described(subject)
            names = self._taking_part(case) if peers is None else peers
            contestants |= self._ready(subject, case.name, names, result["skipped"])
            yardsticks |= self._yardsticks(subject)
        contestants |= {name: one.run for name, one in yardsticks.items()}
        named = {OURS, *(goal.against for goal in case.goals)}
        self.tell(f"{case.name}: measuring")
        times = self._timed(contestants, [name for name in contestants if name not in named])
        limit = _limit(subject, times, yardsticks)
        values = [_value(goal, times, subject, yardsticks) for goal in case.goals]
        result["times"] = {name: _told(one) for name, one in times.items()}
        result["goals"] = [
            _judged(goal, value, result["skipped"]) | {"bound": _bound(goal, times, limit)}
            for goal, value in zip(case.goals, values, strict=True)
        ]
        return result | {"limit": limit, "others": others.share()}

    def sweep(self) -> Iterator[dict[str, Any]]:
        """The cases of the plot, one after the other; who took long at one size is left out of the larger ones."""
        slow: set[tuple[str, str]] = set()
        for case in SWEEP:
            result = self.run(case, [name for name in PLOTTED if (name, case.name[:4]) not in slow])
            slow |= {(name, case.name[:4]) for name, times in result["times"].items() if times["median"] > SLOW}
            yield result

    def _ready(self, problem: Problem, case: str, names: Collection[str], skipped: dict[str, str]) -> dict[str, Run]:
        """A call of each peer that can do the problem and agrees on the result; why not, of each other one."""
        inputs = [problem.tensors(copy) for copy in range(problem.copies)]
        in_float32 = replace(problem, dtype=torch.float32, probe=False)
        truth = PEERS[SDPA].ready(in_float32)(*(x.float() for x in inputs[0])).results()
        ready: dict[str, Run] = {}
        for name in names:
            self.tell(f"{case}: making {name} ready")
            try:
                bind = PEERS[name].ready(problem)
                bound = [bind(*tensors) for tensors in inputs]
                error = _distance(bound[0].results(), truth)
            except Exception as reason:  # noqa: BLE001 - peers fail in as many ways as there are peers
                skipped[name] = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
                continue
            if error <= AGREES[problem.dtype]:
                ready[name] = rotating([one.run for one in bound])
            else:
                skipped[name] = f"gives something else: {error:.1e} away from PyTorch SDPA in float32"
        return ready

    def _taking_part(self, case: Case) -> list[str]:
        named = {OURS, *(goal.against for goal in case.goals)}
        if self.options.peers:
            wanted = [f"*{pattern.lower()}*" for pattern in self.options.peers]
            return [n for n in PEERS if n == OURS or any(fnmatch.fnmatch(n.lower(), pattern) for pattern in wanted)]
        others = self.options.bystanders
        return [name for name, peer in PEERS.items() if name in named or (others and not peer.when_named)]

    def _yardsticks(self, problem: Problem) -> dict[str, Yardstick]:
        """Those that bound this problem: the peak in its type, and memory if its keys come from there."""
        from_memory = problem.copies > 1
        return {
            name: yardstick
            for (name, dtype), yardstick in self.yardsticks.items()
            if dtype == problem.dtype or (name == DRAM and from_memory)
        }

    def _timed(self, contestants: dict[str, Run], bystanders: list[str]) -> dict[str, Times]:
        if not contestants:
            return {}
        *_, times = interleaved(contestants, self.options.rounds, self.options.seconds, bystanders)
        return times

    def _memory(self, subject: PeakMemory, result: dict[str, Any]) -> float | None:
        try:
            held, seconds = memory.held(subject.problem, OURS)
        except Cannot as reason:
            result["skipped"][OURS] = str(reason)
            return None
        result["problem"] = _described(subject.problem)
        result["times"][OURS] = _told(Times([seconds]))
        return held


def _value(goal: Goal, times: dict[str, Times], subject: Any, yardsticks: dict[str, Yardstick]) -> float | None:
    """What a goal is about, or None where one of the two has no time."""
    if OURS not in times or goal.against not in times:
        return None
    ours, other = times[OURS].median, times[goal.against].median
    if isinstance(goal, Share):
        work = subject.bytes if goal.against == DRAM else subject.flops
        return float(work / ours / (yardsticks[goal.against].work / other))
    if isinstance(goal, Takes):
        return ours / other
    return ours / other - 1 if isinstance(goal, Costs) else other / ours


def _limit(subject: Any, times: dict[str, Times], yardsticks: dict[str, Yardstick]) -> float | None:
    """The least seconds that the yardsticks allow: for the FLOPs at the peak, for the bytes that come from memory."""
    seconds = [
        (subject.bytes if name == DRAM else subject.flops) * times[name].median / one.work
        for name, one in yardsticks.items()
    ]
    return max(seconds, default=None)


def _bound(goal: Goal, times: dict[str, Times], limit: float | None) -> float | None:
    """The value that a kernel at the machine's best would reach beside a peer."""
    if limit is None or goal.against not in times or not isinstance(goal, Faster):
        return None
    return times[goal.against].median / limit


def _judged(goal: Goal, value: float | None, skipped: dict[str, str]) -> dict[str, Any]:
    """The goal, the value and the verdict, in numbers and in words."""
    why = skipped.get(OURS) or skipped.get(goal.against) or "left out by --peers"
    return {
        "against": goal.against,
        "value": value,
        "at_least": goal.at_least,
        "aim": goal.aim,
        "verdict": f"not measured: {why}" if value is None else goal.verdict(value),
        "said": {
            "value": "–" if value is None else goal.says(value),
            "at_least": goal.says(goal.at_least),
            "aim": goal.says(goal.aim),
        },
    }


def _described(problem: Problem) -> dict[str, Any]:
    return asdict(problem) | {"dtype": problem.name, "Tq": problem.queries}


def _told(times: Times) -> dict[str, Any]:
    return {"median": times.median, "quartiles": times.quartiles, "turns": len(times.turns)}


def _distance(results: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """The largest relative difference, in the root of squares; infinite where something is no number."""
    away = [float((x - y).norm() / y.norm()) for x, y in zip(results, truth, strict=True)]
    return max(d if d == d else float("inf") for d in away)
