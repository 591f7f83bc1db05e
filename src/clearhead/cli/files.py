"""The files that a command reads and writes: what is wrong with one is a sentence, and said before the work begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from clearhead import atomic_write
from clearhead.errors import ClearheadError


def read_text(file: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ClearheadError(f"The file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ClearheadError(
            f"The file {file} is no text in UTF-8: its byte {error.start} is "
            f"{error.object[error.start]:#04x}; convert it first."
        ) from error


force_option = click.option("--force", is_flag=True, help="Replace files that Clearhead did not write.")


def check_writable(*paths: Path | None, force: bool = False) -> None:
    """Refuses a path that cannot be written, or without `force` a file that Clearhead did not write."""
    for path in paths:
        if path is not None:
            atomic_write.check(path, force=force)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failure to write the file is a sentence."""
    try:
        yield
    except OSError as error:
        raise ClearheadError(f"{path} cannot be written: {error.strerror}.") from error
