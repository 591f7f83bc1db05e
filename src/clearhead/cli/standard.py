"""Standard output, standard error and Ctrl-C, as all commands need them: prepared once, at the start."""

import codecs
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

PLAIN = dict(zip("░▒▓█━╌─│→←↓↑↵•·–—−×±…✓≤≥∅�“”‘’", ".:%#=--|><v^/*.---x~~+<>0?\"\"''", strict=True))
"""What stands for a sign where the terminal has no other than its own few, one for one, so that columns stay."""
ERRORS = "clearhead.plain"


@contextmanager
def prepared() -> Iterator[None]:
    """Standard streams that take any text, Ctrl-C, and an error at the end where output could not be written."""
    if sys.stdout is None:
        click.echo("Error: Standard output is closed; send it to /dev/null if it is not wanted.", err=True)
        raise SystemExit(2)
    codecs.register_error(ERRORS, plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ERRORS)
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as by nohup, and by a shell's & in a script
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # of another file than an open stream
            raise
        # What is still to be written would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"Error: Standard output cannot be written: {error.strerror}.", err=True)
        raise SystemExit(2) from None


def plain(error: UnicodeError) -> tuple[str, int]:
    r"""An error handler of codecs: signs that an encoding lacks become plain ones, and all else \x, \u or \U.

    >>> codecs.register_error(ERRORS, plain)
    >>> "layers ↓ × ½".encode("ascii", ERRORS)
    b'layers v x \\xbd'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in signs), error.end


def is_utf8() -> bool:
    """Whether standard output takes every character."""
    return codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name.startswith("utf")
