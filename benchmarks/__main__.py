"""The command: `python -m benchmarks` measures, prints tables, and writes what was measured as JSON."""

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import accuracy, browser, cases, looking, machine, models, page, plot, report
from benchmarks.cases import SWEEP, matches
from benchmarks.peers.ours import OURS
from benchmarks.running import Bench, Options

HOME = Path(__file__).parents[1]
CASES = [*cases.CASES, *looking.CASES, *models.CASES, *browser.CASES]
PAGE, PICTURE = HOME / "docs/benchmarks.md", HOME / "docs/bench.png"


@click.command()
@click.option("--cases", "pattern", default="", help="Only cases whose name holds this; * stands for anything.")
@click.option("--peers", default="", help="Only these peers beside ours, by parts of their names, with commas.")
@click.option("--threads", default=2, show_default=True, help="So many threads and cores for everyone.")
@click.option("--quick", is_flag=True, help="Fewer rounds, the goals' peers only, no case that takes long.")
@click.option("--json", "path", type=Path, default=HOME / "build/bench.json", help="Where the numbers are written.")
@click.option("--from", "earlier", type=Path, help="Measure nothing: take the numbers of an earlier run's file.")
@click.option("--plot", "plots", is_flag=True, help="Also measure cost against T, and draw docs/bench.png.")
@click.option("--report", "reports", is_flag=True, help="Also write the tables into docs/benchmarks.md.")
def main(
    pattern: str, peers: str, threads: int, quick: bool, path: Path, earlier: Path | None, plots: bool, reports: bool
) -> None:
    """Clearhead beside its peers: interleaved runs, medians, and how far it is from each goal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    if earlier is not None:
        results = json.loads(earlier.read_text())
    else:
        machine.use_cores(threads)
        named = tuple(name for name in peers.split(",") if name)
        options = Options(rounds=5, seconds=1.5, peers=named, bystanders=False) if quick else Options(peers=named)
        results = measured(console, options, pattern, threads, quick, plots, path)
    for grid in report.grids(results):
        console.print(grid.on_terminal(), "")
    for sentence in report.summary(results):
        console.print(sentence, highlight=False, soft_wrap=True)
    if reports:
        page.write(PAGE, results)
    if plots:
        plot.draw(PICTURE, results)
    sys.exit(0 if results["complete"] else 130)


def measured(
    console: Console, options: Options, pattern: str, threads: int, quick: bool, plots: bool, path: Path
) -> dict[str, Any]:
    """Runs what was asked for. After each case all so far is written, so that nothing is lost when it is stopped."""
    wanted = [case for case in CASES if matches(case.name, pattern)]
    chosen = [case for case in wanted if case.quick or not quick]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started = time.perf_counter()
    results: dict[str, Any] = {
        "ours": OURS,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "complete": False,
        "machine": machine.described(threads),
        "yardsticks": {},
        "cases": [],
        "accuracy": [],
        "sweep": [],
        "left_out": [case.name for case in wanted if case not in chosen],
    }
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring the machine", total=len(chosen) + len(SWEEP) * plots)

        def keep(where: str, result: dict[str, Any]) -> None:
            results[where].append(result)
            results["seconds"] = time.perf_counter() - started
            write(path, results)
            progress.console.print(report.line(result), highlight=False, soft_wrap=True)
            progress.advance(task)

        try:
            bench = Bench(options, tell=lambda what: progress.update(task, description=what))
            results["yardsticks"] = bench.rates()
            for case in chosen:
                keep("cases", bench.run(case))
            if matches("accuracy", pattern):
                progress.update(task, description="accuracy")
                results["accuracy"] = list(accuracy.errors())
            for result in bench.sweep() if plots else ():
                keep("sweep", result)
            results["complete"] = True
        except KeyboardInterrupt:
            progress.console.print("Stopped; what was measured so far is kept.")
    results["seconds"] = time.perf_counter() - started
    write(path, results)
    console.print(f"Written to {path}.", "", highlight=False)
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """As JSON: beside the path, then renamed, so never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(results, indent=1))
    beside.replace(path)


if __name__ == "__main__":
    main()
