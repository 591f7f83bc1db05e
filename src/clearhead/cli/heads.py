"""`clearhead heads`: the whole table of a model's heads, here or in a file."""

import math

import click
from rich.console import Console

from clearhead.cli import reading
from clearhead.cli.steps import Steps, telling
from clearhead.cli.tables import Files
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.columns import HeadTable
from clearhead.scope.copying import Copying, copying
from clearhead.view.table import Sheet, plain


def run(
    texts: tuple[str, ...],
    name: str,
    most: int | None,
    by: str | None,
    top: int | None,
    layer: int | None,
    files: Files,
) -> None:
    """Has the model `name` read the texts, and prints or writes the table of its heads."""
    with telling() as steps:
        opened = open_model(name, report=steps.begin)
        inputs = reading.inputs(opened, texts, most)
        if layer is not None:
            reading.check_layer(layer, len(reading.first_token(opened, inputs)))
        seen = reading.watched(opened, inputs, steps, "statistics")
        steps.begin("counting")
        table = seen.heads(copying=copied(opened, steps, needed=by == "copying"), pandas=False)
        rows = chosen(table, by, top, layer)
        about = {
            "model": opened.name,
            "architecture": opened.architecture,
            "tokens": inputs["input_ids"].shape[1],
            "layers": len(seen),
        }
        files.write(rows, about, steps)
    out = Console(highlight=False)
    if files.here:
        files.print(rows, about)
    elif files.paths:
        out.print("\n".join(f"→ {path}" for path in files.paths), markup=False, soft_wrap=True)
    elif out.is_terminal:
        out.print(Sheet(rows))
    else:
        click.echo("\n".join(plain(rows)))


def copied(opened: Opened, steps: Steps, needed: bool) -> Copying | None:
    """The copying scores; None, and it says why, where the model has none."""
    try:
        return copying(opened.model)
    except ClearheadError as error:
        if needed:
            raise
        steps.begin(str(error))
        return None


def chosen(table: HeadTable, by: str | None, top: int | None, layer: int | None) -> HeadTable:
    """The rows of one layer, sorted by a column, the largest first and those without a number last."""
    rows = [row for row in table if layer in (None, row["layer"])]
    if by is not None:
        rows.sort(key=lambda row: -math.inf if math.isnan(row[by]) else row[by], reverse=True)
    return rows[:top]
