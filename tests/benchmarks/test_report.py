"""What a run leaves behind: the file of numbers, also when it is stopped, the tables, the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

import benchmarks.__main__ as command
from benchmarks import accuracy, machine, page, report, running
from benchmarks.cases import FMA, Case, WholeModel
from benchmarks.goals import Faster, Share
from benchmarks.peers.ours import OURS
from benchmarks.peers.pytorch import EAGER, SDPA
from benchmarks.problem import Problem
from benchmarks.yardsticks import Yardstick

FIRST = Case("fp32 first", Problem(32, 8), (Faster(SDPA, 1e-9, 1e9), Share(FMA, 0.99, 1)))
SECOND = Case("bf16 second", Problem(48, 8, dtype=torch.bfloat16, causal=True), (Faster(SDPA, 1e9, 2e9),), quick=False)

Run = Callable[..., tuple[Result, dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command on two small cases beside PyTorch, with a yardstick that takes no time."""
    yardstick = Yardstick("FMA peak", "doing nothing", "FLOP", 1e12, lambda: None)
    monkeypatch.setattr(machine, "use_cores", lambda threads: None)
    monkeypatch.setattr(running, "multiplying", lambda dtype: yardstick)
    monkeypatch.setattr(running, "reading", lambda: yardstick)
    monkeypatch.setattr(command, "CASES", [FIRST, SECOND])
    monkeypatch.setattr(accuracy, "errors", lambda: iter(()))

    def invoke(*arguments: str) -> tuple[Result, dict[str, Any]]:
        file = tmp_path / "deep" / "bench.json"
        result = CliRunner().invoke(command.main, ["--json", str(file), "--peers", "SDPA,eager", *arguments])
        assert [found.name for found in file.parent.iterdir()] == ["bench.json"]  # and nothing half-written
        return result, json.loads(file.read_text())

    return invoke


def test_a_run_writes_medians_quartiles_machine_and_verdicts(run: Run) -> None:
    result, written = run()
    assert result.exit_code == 0, result.output
    assert written["complete"]
    assert written["machine"]["versions"]["torch"] == torch.__version__
    first, second = written["cases"]
    assert {OURS, SDPA, EAGER} <= set(first["times"])
    times = first["times"][OURS]
    assert times["quartiles"][0] <= times["median"] <= times["quartiles"][1]
    assert first["goals"][0]["value"] == first["times"][SDPA]["median"] / times["median"]
    assert [goal["verdict"] for goal in first["goals"]] == ["reached", "short by 100%"]
    assert second["goals"][0]["verdict"] == "short by 100%"


def test_the_table_says_who_was_reached_and_who_was_not(run: Run) -> None:
    result, _ = run()
    assert "Of 3 goals 1 are reached, 2 fall short and 0 were not measured." in result.output
    assert "fp32 first" in result.output
    assert "bf16 second" in result.output


def test_a_quick_run_names_what_it_leaves_out(run: Run) -> None:
    result, written = run("--quick")
    assert [case["name"] for case in written["cases"]] == ["fp32 first"]
    assert "Left out by --quick, as they take long: bf16 second." in result.output


def test_a_run_that_is_stopped_keeps_what_it_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = running.Bench.run

    def stopped(bench: running.Bench, case: Case) -> dict[str, Any]:
        if case is SECOND:
            raise KeyboardInterrupt
        return whole(bench, case)

    monkeypatch.setattr(running.Bench, "run", stopped)
    result, written = run()
    assert result.exit_code == 130
    assert [case["name"] for case in written["cases"]] == ["fp32 first"]
    assert not written["complete"]
    assert "what is missing here was not measured" in result.output


def test_a_peer_that_gives_something_else_is_not_timed_but_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = running.replace(running.PEERS[EAGER], prepare=running.PEERS[SDPA].prepare)
    monkeypatch.setitem(running.PEERS, EAGER, running.replace(wrong, prepare=lambda problem: _doubled(problem, wrong)))
    result, written = run("--cases", "first")
    assert EAGER not in written["cases"][0]["times"]
    assert "gives something else: 1.0e+00 away" in " ".join(result.output.split())


def _doubled(problem: Problem, peer: Any) -> Any:
    bind = peer.prepare(problem)
    return lambda q, k, v: bind(q, k, 2 * v)


def test_a_goal_that_was_not_measured_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(subject: WholeModel) -> None:
        raise running.Cannot("no such model")

    model = Case("a model", WholeModel(8), (Faster("the model as it is", 1, 2),))
    monkeypatch.setattr(command, "CASES", [model])
    monkeypatch.setattr("benchmarks.whole_model.contestants", cannot)
    result, written = run()
    assert written["cases"][0]["goals"][0]["verdict"] == "not measured: no such model"
    assert "Of 1 goals 0 are reached, 0 fall short and 1 were not measured." in result.output


def test_the_page_takes_the_tables_between_its_marks_and_keeps_the_rest(run: Run, tmp_path: Path) -> None:
    _, written = run()
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.START}\nold\n{page.STOP}\nafter\n")
    page.write(file, written)
    once = file.read_text()
    page.write(file, written)
    assert file.read_text() == once
    assert once.startswith(f"before\n{page.START}")
    assert once.endswith(f"{page.STOP}\nafter\n")
    assert "old" not in once
    for grid in report.grids(written):
        assert grid.as_markdown() in once


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("words\n")
    with pytest.raises(click.ClickException, match="needs the marks"):
        page.write(file, {})
    assert file.read_text() == "words\n"
