"""Trimming: what a model has freed between two things that are kept goes back to the system.

The C library gives back what is free at the heap's end alone, and hands out the holes anew. But a watch keeps a little
after every attention, often at the edge of a hole, so that the next large block does not fit there, and the heap grows.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOM = 2**25
"""By so many bytes a process may grow before it is trimmed, which costs some milliseconds a time."""


class Trimmer:
    """Watches how much a process holds, at the same point of one attention after another."""

    def __init__(self) -> None:
        self._least = sys.maxsize

    def look(self) -> None:
        """Gives back what is free if the process has grown by more than `ROOM` since it held the least."""
        held = resident()
        if held > self._least + ROOM:
            give_back()
            self._least = resident()
        else:
            self._least = min(self._least, held)


def resident() -> int:
    """The bytes that this process holds in memory, where the system tells; else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def give_back() -> None:
    """Gives all free pages back, where the C library can: glibc does."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
