"""A checkpoint: how far a survey has come, in a file that is whole or isn't there."""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearhead import atomic_write
from clearhead.errors import ClearheadError

KIND = "clearhead survey 2"


def write(path: Path, told: Mapping[str, Any]) -> None:
    """Writes beside and renames: a line with the kind of the file and a sum of the rest, then JSON."""
    body = json.dumps(told)
    try:
        atomic_write.write(path, f"{KIND} {_sum(body)}\n{body}".encode(), begins=KIND.encode())
    except OSError as error:
        raise ClearheadError(f"The checkpoint {path} cannot be written: {error.strerror}.") from error


def remove(path: Path) -> None:
    """Removes it, where there is one; a symbolic link to it stays."""
    path.resolve().unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuses a place that a checkpoint cannot be read from again: a folder, a device, a pipe, no folder."""
    mode = atomic_write.check(path, force=True)
    if mode is not None and not stat.S_ISREG(mode):
        raise ClearheadError(f"The checkpoint {path} cannot be kept there: it is a device or a pipe; name a file.")


def read(path: Path) -> dict[str, Any]:
    """What was written. Raises ClearheadError for a file that is something else, or not whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ClearheadError(f"The checkpoint {path} cannot be read: {why}.") from error
    head, _, body = text.partition("\n")
    if not head.startswith(KIND + " "):
        raise ClearheadError(f"{path} is no checkpoint of a survey; name another with --checkpoint, or move it away.")
    if head != f"{KIND} {_sum(body)}":
        raise ClearheadError(f"The checkpoint {path} is damaged: its sum is not that of its first line. Remove it.")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClearheadError(f"The checkpoint {path} has the right sum but is no JSON: {error}. Remove it.") from error
    if not isinstance(told, dict):
        raise ClearheadError(f"The checkpoint {path} holds a {type(told).__name__}, not a survey's state. Remove it.")
    return told


def check_same(path: Path, told: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another survey, naming what differs."""
    differs = [
        f"its {name} is {told.get(name)}, this one's {ours[name]}" for name in ours if told.get(name) != ours[name]
    ]
    if differs:
        raise ClearheadError(
            f"The checkpoint {path} is of another survey: {'; '.join(differs)}. Go on with the same corpus, model and "
            "options, or begin anew with another --checkpoint."
        )


def _sum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:32]
