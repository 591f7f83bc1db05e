"""What Clearhead says when something is wrong: sentences, as errors or as warnings."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


class ClearheadError(ValueError, RuntimeError):
    """Says what was got, what was expected and how to mend it, in the notation of the docs.

    It is a RuntimeError too, which PyTorch's attention raises for shapes and arguments that do not fit.
    """


class WatchWarning(UserWarning):
    """A watch saw less than it should, or something else than the model computed; `accelerate` took nothing."""


class PerformanceWarning(UserWarning):
    """The result is right, but this installation lacks what would compute it faster."""


def first_line(error: BaseException) -> str:
    """What an error says, without its details; its name if it says nothing. What cannot be printed is escaped."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)


def shortened(value: Any, most: int = 60) -> str:
    """A value as Python writes it, or a name as it is if it can be printed, cut where a message would grow too long."""
    shown = value if isinstance(value, str) and value.isprintable() else repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def first_of(names: Sequence[str], most: int = 12) -> str:
    """The first of many names, and a mark where there are more."""
    return ", ".join(shortened(name, 200) for name in names[:most]) + (", …" if len(names) > most else "")


@contextlib.contextmanager
def in_a_sentence(begin: str, end: str = "; get it again.") -> Iterator[None]:
    """Raises ClearheadError in place of what another package raises, with its first line in parentheses.

    A panic of a package in Rust (PyO3's PanicException) is no Exception, but is caught too.
    """
    try:
        yield
    except ClearheadError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ClearheadError(f"{begin} ({shortened(first_line(error), 300)}){end}") from error
