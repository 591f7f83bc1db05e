"""Numbers of bytes as people write and read them: 2 GiB."""

import re

from clearhead.errors import ClearheadError

UNITS = {"": 1, **{f"{letter}B": 1000**n for n, letter in enumerate("kMGT", 1)}, "B": 1}
UNITS |= {f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", 1)}


def in_bytes(memory: int | float | str, name: str = "memory") -> int:
    """A number of bytes, or one with its unit.

    >>> in_bytes("2 GiB") == in_bytes(2 * 1024**3) == 2147483648
    True
    """
    if isinstance(memory, str):
        said = re.fullmatch(r"\s*(\d+\.?\d*)\s*([A-Za-z]*)\s*", memory)
        units = {unit.lower(): factor for unit, factor in UNITS.items()}
        if said is not None and said[2].lower() in units:
            memory = float(said[1]) * units[said[2].lower()]
    if isinstance(memory, str | bool) or not 0 < memory < float("inf"):
        raise ClearheadError(f"{name}: got {memory!r}, expected a number of bytes, or one with its unit: '2 GiB'.")
    return int(memory)


def in_words(count: float) -> str:
    """So many bytes, for people.

    >>> in_words(396361728)
    '378 MiB'
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:.0f} {units[0]}" if count >= 10 or units[0] == "B" else f"{count:.1f} {units[0]}"
