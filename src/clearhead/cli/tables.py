"""Tables as files: the options --json, --csv, --parquet and --force, and what is done with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from clearhead.cli.files import check_writable, force_option, writing
from clearhead.cli.standard import is_utf8
from clearhead.errors import ClearheadError
from clearhead.view import export
from clearhead.view.progress import Progress

HERE = Path("-")
"""Standard output, as a file's name."""


def table_options(command: Callable[..., object]) -> Callable[..., object]:
    """Gives a command `files`, to which it writes its table."""

    @wraps(command)
    def with_files(json: Path | None, csv: Path | None, parquet: Path | None, force: bool, **options: Any) -> object:
        return command(files=Files(json, csv, parquet, force), **options)

    taking = with_files
    for option in (
        force_option,
        click.option("--parquet", metavar="PATH", type=Path, help="Write it as Parquet, if pyarrow is there."),
        click.option("--csv", metavar="PATH", type=Path, help="Write it as CSV; - writes it here."),
        click.option("--json", metavar="PATH", type=Path, help="Write the table as JSON; - writes it here."),
    ):
        taking = option(taking)
    return taking


@dataclass(frozen=True)
class Files:
    """The files that a table is to be written to; refused at once if that can't be."""

    json: Path | None = None
    csv: Path | None = None
    parquet: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        here = [f"--{kind}" for kind, path in self._asked().items() if path == HERE]
        if len(here) > 1 or "--parquet" in here:
            raise ClearheadError(
                f"Got - for {' and '.join(here)}, but one text can be written here, JSON or CSV; name a file."
            )
        for kind, path in self._asked().items():
            export.check(path, kind)
            if path != HERE:
                check_writable(path, force=self.force)

    @property
    def here(self) -> bool:
        """Whether standard output is one of them, and nothing else should be written there."""
        return HERE in self._asked().values()

    @property
    def paths(self) -> list[Path]:
        """The others."""
        return [path for path in self._asked().values() if path != HERE]

    def write(self, rows: export.Rows, about: Mapping[str, Any], steps: Progress) -> None:
        """Writes the rows to all of them but standard output, and tells of it."""
        for kind, path in self._asked().items():
            if path != HERE:
                steps.begin(f"writing {path}")
                with writing(path):
                    export.write_rows(path, rows, about, kind=kind, force=self.force)

    def print(self, rows: export.Rows, about: Mapping[str, Any]) -> None:
        """Writes the rows to standard output, if that is one of them."""
        for kind, path in self._asked().items():
            if path == HERE:
                click.echo(export.as_text(rows, about, kind=kind, ascii=not is_utf8()), nl=False)

    def _asked(self) -> dict[str, Path]:
        paths = {"json": self.json, "csv": self.csv, "parquet": self.parquet}
        return {kind: path for kind, path in paths.items() if path is not None}
