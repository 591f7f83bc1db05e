"""Who hears of every attention that is computed here: a watch, for one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from clearhead.attend.call import Call


@runtime_checkable
class Listener(Protocol):
    """One who wants to know of attentions, and has them computed."""

    @property
    def here(self) -> bool:
        """Whether those that are called now, in this thread, are meant."""

    def hear(self, call: Call, backend: Any, probe: bool) -> Any:
        """What `backend.forward(call, probe)` gives."""


LISTENERS: list[Listener] = []


def listener() -> Listener | None:
    """Who hears of what is called now."""
    return next((one for one in LISTENERS if one.here), None) if LISTENERS else None


class Row(NamedTuple):
    """One sequence of a batch."""

    number: int
    batch: int
    """B, of all of them."""


class _Current(threading.local):
    row: Row | None = None


_current = _Current()


@contextmanager
def one_sequence(number: int, batch: int) -> Iterator[None]:
    """In this block, in this thread, each attention is that of one sequence of a batch, at its own positions.

    Sequences that differ in length are computed so while somebody listens: query row r of each is then at position
    Tk − Tq + r of its own keys, which one call for the whole batch could not say.
    """
    before, _current.row = _current.row, Row(number, batch)
    try:
        yield
    finally:
        _current.row = before


def current_row() -> Row | None:
    """The sequence whose attention is computed now; None where it is that of a whole batch."""
    return _current.row
