"""Trimming: what a model has freed between two things that are kept goes back to the system.

The C library gives back what is free at the heap's end alone, and hands out the holes anew. But a watch keeps a little
after every attention, often at the edge of a hole, so that the next large block does not fit there, and the heap grows.
"""

import ctypes
import sys
from functools import cache
from typing import Any

EVERY = 2**20
"""After so many bytes of what is kept: it costs some milliseconds where there is much to give back."""


class Trimmer:
    """Counts what is kept."""

    def __init__(self) -> None:
        self._since = 0

    def keep(self, size: int) -> None:
        """So many bytes more are kept."""
        self._since += size
        if self._since >= EVERY:
            self._since = 0
            give_back()


def give_back() -> None:
    """Gives all free pages back, where the C library can: glibc does."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
