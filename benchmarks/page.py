"""The page docs/benchmarks.md: its tables, between two marks, are taken from a run; all else is written by hand."""

from pathlib import Path
from typing import Any

import click

from benchmarks import report

START, STOP = "<!-- measured: python -m benchmarks --report writes from here -->", "<!-- to here -->"


def write(path: Path, results: dict[str, Any]) -> None:
    """Put the tables of a run between the page's marks."""
    text = path.read_text()
    if text.count(START) != 1 or text.count(STOP) != 1:
        raise click.ClickException(
            f"{path} needs the marks {START} and {STOP}, once each; put them where the tables go."
        )
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(STOP)
    tables = [grid.as_markdown() for grid in report.grids(results)]
    said = "\n".join(f"- {sentence}" for sentence in report.summary(results))
    path.write_text(before + "\n\n".join([START, *tables, said, STOP]) + after)
