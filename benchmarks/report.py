"""The report: what was measured, as tables, which the terminal and docs/benchmarks.md show alike."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.accuracy import ALLOWED, PARTS
from benchmarks.cases import DRAM, FMA

Results = dict[str, Any]
QUIET = 0.05
"""How much of the cores others may take before the report warns."""
YARDSTICKS = (FMA, DRAM)


@dataclass(frozen=True)
class Grid:
    """A table. Its columns of words are set left, those of numbers right."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def on_terminal(self) -> Table:
        """For rich to print."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for n, column in enumerate(self.columns):
            table.add_column(column, justify="left" if self._is_text(n) else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(_coloured(cell) for cell in row))
        return table

    def as_markdown(self) -> str:
        """For a page of docs/."""
        rule = ["---" if self._is_text(n) else "--:" for n in range(len(self.columns))]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines)

    def _is_text(self, column: int) -> bool:
        return self.columns[column] in ("case", "against", "verdict", "scores", "what", "how")


def grids(results: Results) -> Iterator[Grid]:
    """All tables of what was measured."""
    yield _machine(results)
    if results["cases"]:
        yield _goals(results)
        yield _times(results)
    if results["accuracy"]:
        yield from _accuracy(results["accuracy"])


def summary(results: Results) -> list[str]:
    """How much is reached, and who was left out of what, in sentences."""
    verdicts = [goal["verdict"] for case in results["cases"] for goal in case["goals"]]
    reached = sum(verdict in ("reached", "aim reached") for verdict in verdicts)
    unmeasured = sum(verdict.startswith("not measured") for verdict in verdicts)
    short = len(verdicts) - reached - unmeasured
    lines = [f"Of {len(verdicts)} goals {reached} are reached, {short} fall short and {unmeasured} were not measured."]
    if results["accuracy"]:
        within = sum(row["ratio"] <= ALLOWED for row in results["accuracy"])
        lines.append(
            f"Of {len(results['accuracy'])} errors {within} are within {ALLOWED} times PyTorch's on the same input."
        )
    reasons: dict[tuple[str, str], int] = {}
    for case in results["cases"]:
        for peer, reason in case["skipped"].items():
            reasons[peer, reason] = reasons.get((peer, reason), 0) + 1
    lines += [f"Left out: {peer} in {count} of the cases: {reason}." for (peer, reason), count in reasons.items()]
    others = [case["others"] for case in results["cases"] if case.get("others") is not None]
    if others and max(others) > QUIET:
        lines.append(
            f"Other processes took {statistics.mean(others):.0%} of the cores on average, and {max(others):.0%} in the "
            "worst case: measure again on a quiet machine."
        )
    if results["left_out"]:
        lines.append(f"Left out by --quick, as they take long: {'; '.join(results['left_out'])}.")
    if not results["complete"]:
        lines.append("The run was stopped before its end: what is missing here was not measured.")
    return lines


def line(case: dict[str, Any]) -> str:
    """A case in a line, said as soon as it is measured."""
    told = [f"{goal['said']['value']} against {goal['against']}: {goal['verdict']}" for goal in case["goals"]]
    return f"{case['name']}: {'; '.join(told) or 'measured'}"


def _machine(results: Results) -> Grid:
    machine = results["machine"]
    rows = [
        ["machine", f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['flags'])}"],
        ["threads", str(machine["threads"])],
        ["versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)],
        ["measured", f"{results['date']}, in {results['seconds']:.0f} s, at commit {machine['commit']}"],
    ]
    for name, one in results["yardsticks"].items():
        rows.append([name, f"{one['rate'] / 1e9:,.1f} G{one['unit']}, by {one['how']}"])
    return Grid("Measured on", ["what", "how"], rows)


def _goals(results: Results) -> Grid:
    rows = []
    for case in results["cases"]:
        for n, goal in enumerate(case["goals"]):
            said = goal["said"]
            first = [case["name"], _milliseconds(case, results["ours"]), _share(case, results)] if n == 0 else [""] * 3
            rows.append(
                [
                    *first,
                    goal["against"],
                    _milliseconds(case, goal["against"]),
                    said["value"],
                    _bound(goal),
                    said["at_least"],
                    said["aim"],
                    _verdict(goal),
                ]
            )
    return Grid(
        "What is to be reached",
        ["case", "ours, ms", "of peak", "against", "its ms", "value", "bound", "at least", "aim", "verdict"],
        rows,
    )


def _times(results: Results) -> Grid:
    cases = [case for case in results["cases"] + results["sweep"] if "limit" in case and "problem" in case]
    peers = list(dict.fromkeys(name for case in cases for name in case["times"] if name not in YARDSTICKS))
    rows = [[case["name"], *(_milliseconds(case, peer) for peer in peers)] for case in cases]
    return Grid("Milliseconds a call, medians", ["case", *peers], rows)


def _milliseconds(case: dict[str, Any], peer: str) -> str:
    times = case["times"].get(peer)
    if times is None:
        return "–"
    return f"{times['median'] * 1e3:.3g}" if times["median"] < 1 else f"{times['median'] * 1e3:,.0f}"


def _share(case: dict[str, Any], results: Results) -> str:
    """Which share of what the machine can do at best we reach."""
    limit, times = case.get("limit"), case["times"].get(results["ours"])
    return "–" if limit is None or times is None else f"{limit / times['median']:.0%}"


def _bound(goal: dict[str, Any]) -> str:
    return "–" if goal.get("bound") is None else f"{goal['bound']:.2f}×"


def _verdict(goal: dict[str, Any]) -> str:
    """The verdict, and whether the machine itself stands in the way."""
    out_of_reach = goal.get("bound") is not None and goal["bound"] < goal["at_least"]
    return f"{goal['verdict']}; the bound is below" if out_of_reach else str(goal["verdict"])


def _accuracy(rows: list[dict[str, Any]]) -> Iterator[Grid]:
    """For each type, kinds of scores by parts: the ratio to PyTorch's error, the worse one of full and causal."""
    for name in dict.fromkeys(row["type"] for row in rows):
        here = [row for row in rows if row["type"] == name]
        table = []
        for scores in dict.fromkeys(row["scores"] for row in here):
            cells = []
            for part in PARTS:
                worst = max(
                    (row for row in here if (row["scores"], row["part"]) == (scores, part)),
                    key=lambda row: row["ratio"],
                )
                mark = "" if worst["ratio"] <= ALLOWED else " (!)"
                cells.append(f"{worst['ratio']:.2f}{mark}")
            table.append([scores, *cells])
        title = f"Our error against float64 as a multiple of PyTorch's, {name}, at most {ALLOWED} wanted"
        yield Grid(title, ["scores", *PARTS], table)


def _coloured(cell: str) -> str:
    if cell.startswith("short by") or cell.endswith("(!)"):
        return f"[red]{cell}[/]"
    if cell in ("reached", "aim reached"):
        return f"[green]{cell}[/]"
    return f"[dim]{cell}[/]" if cell.startswith("not measured") else cell
