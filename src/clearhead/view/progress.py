"""Progress: what a long work tells of itself while it lasts, to whoever shows it."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Is told of each step; to end the work, it raises."""

    def begin(self, what: str, total: int | None = None) -> None:
        """Goes on to the next step, of so many parts if their number is known."""

    def advance(self) -> None:
        """One part more of the step is done."""
