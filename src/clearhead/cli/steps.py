"""What is being done, told while it lasts: a bar on a terminal, a line a step elsewhere."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class Steps:
    """One step after another, each of one or more parts."""

    console: Console
    bar: Progress
    task: TaskID

    def begin(self, what: str, total: int | None = None) -> None:
        """Goes on to the next step, of so many parts if their number is known."""
        self.bar.reset(self.task, description=what, total=total)
        if not self.console.is_terminal:
            self.console.print(what, markup=False)

    def advance(self) -> None:
        """One part more of the step is done."""
        self.bar.advance(self.task)


@contextmanager
def telling() -> Iterator[Steps]:
    """Tells of steps on stderr; the bar is gone at the end. Warnings that come meanwhile are told as sentences."""
    console = Console(file=sys.stderr, highlight=False)  # this stderr, even while another stands in for it
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()

    def tell(message: Warning | str, *_: object, **__: object) -> None:
        console.print(f"! {message}", style="yellow", markup=False)

    with (
        warnings.catch_warnings(),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield Steps(console, bar, bar.add_task("", total=None))
