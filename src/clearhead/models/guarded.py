"""Guarded: a stranger's file is tried in a child process, with a bound on its time and memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError

SECONDS = 10
"""Of processor time, for one task."""
MEMORY = 2**32
"""Bytes that a child may take; room for the largest vocabularies."""
PATIENCE = 120.0
"""Seconds on the clock, as other processes may take most of the machine."""


def guarded(task: str, request: dict[str, Any], what: str) -> Any:
    """What a task of `guarded_child.py` answers; `what` begins the error's sentence.

    A template may loop for ever, or fill the memory: that ends the child alone.

    Raises ClearheadError if the task fails, takes too long or too much, or ends the child.
    """
    script = Path(__file__).with_name("guarded_child.py")
    limits = {"seconds": SECONDS, "memory": MEMORY}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(script)],
            input=json.dumps({"task": task, "limits": limits, **request}).encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        answer = None
    if answer is None:
        raise ClearheadError(
            f"{what} was given up: it takes more than {SECONDS} seconds or {MEMORY // 2**30} GiB, or ends the process "
            "that reads it. The file is broken or hostile; get it from where you trust it."
        )
    return answer
