"""Options and arguments that commands share. Imports nothing that takes long, so that help and errors come at once."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from clearhead.cli.files import read_text
from clearhead.errors import ClearheadError
from clearhead.models.known import KNOWN
from clearhead.text import check_text

Command = TypeVar("Command", bound=Callable[..., object])

MODELS = f"{', '.join(KNOWN)}, a folder, a .gguf file, or a name on the hub"
"""What names a model."""
CACHE = "A GGUF file is converted once, and kept in the user's cache folder or where CLEARHEAD_CACHE says."

tokens_option = click.option(
    "--tokens", "most", metavar="N", type=click.IntRange(min=1), help="Read no more than the first N tokens."
)
model_option = click.option("--model", "name", metavar="NAME", default="smollm2", show_default=True, help=f"{MODELS}.")


def one_text(command: Callable[..., object]) -> Callable[..., object]:
    """Gives a command `texts`, one text or the two of a pair; the model's `name`; and `most`, of how many tokens."""

    @wraps(command)
    def with_texts(text: str | None, pair: tuple[str, str] | None, file: Path | None, **options: Any) -> object:
        return command(texts=texts(text, pair, file), **options)

    taking = with_texts
    for option in (
        tokens_option,
        model_option,
        click.option("--file", metavar="PATH", type=Path, help="Read the text from a file."),
        click.option("--pair", nargs=2, metavar="A B", help="Two texts, for a model that reads pairs."),
        click.argument("text", required=False),
    ):
        taking = option(taking)
    return taking


def texts(text: str | None, pair: tuple[str, str] | None = None, file: Path | None = None) -> tuple[str, ...]:
    """The text that was given, or the two of a pair."""
    given = [given for given in (text, pair, file) if given is not None]
    if len(given) != 1:
        raise ClearheadError(f"Got {len(given)} texts, expected one of: a text, --pair A B, --file PATH.")
    if file is not None:
        text = read_text(file)
    given_texts = pair or (text or "",)
    if not all(check_text(text).strip() for text in given_texts):
        raise ClearheadError("The text is empty; give at least a word.")
    return given_texts


@dataclass
class Column(click.ParamType):  # type: ignore[type-arg]  # which older versions of click do not take
    """The name of one of the `known` columns, with underscores or hyphens between its words."""

    known: Collection[str]
    name = "column"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name with underscores; raises ClearheadError if there is no such column."""
        column = value.strip().replace("-", "_")
        if column not in self.known:
            option = param.opts[0] if param else self.name
            raise ClearheadError(f"{option}: got '{column}', expected one of {', '.join(self.known)}.")
        return column


class Columns(Column):
    """Names of `known` columns, separated by commas."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Each name once, with underscores."""
        convert = super().convert
        return tuple(dict.fromkeys(convert(name, param, ctx) for name in value.split(",")))
