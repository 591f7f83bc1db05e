"""`clearhead heads`: the table of a model's heads, here or in a file."""

import math

import click
from rich.console import Console
from rich.text import Text

from clearhead.cli import reading
from clearhead.cli.steps import Steps, telling
from clearhead.cli.tables import Files
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.columns import MAIN, HeadTable
from clearhead.scope.copying import Copying, copying
from clearhead.view.table import Sheet, decimals, plain


def run(
    texts: tuple[str, ...],
    name: str,
    most: int | None,
    columns: tuple[str, ...] | None,
    sort: str | None,
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
        needed = "copying" in (sort, *(columns or ()))
        wanted = needed or columns is None or "all" in columns
        table = seen.heads(copying=copied(opened, steps, needed) if wanted else None, pandas=False)
        rows = chosen(table, sort, top, layer)
        about = {
            "model": opened.name,
            "architecture": opened.architecture,
            "tokens": inputs["input_ids"].shape[1],
            "layers": len(seen),
        }
        written = rows if columns is None else with_columns(rows, columns)
        files.write(written, about, steps)
    out = Console(highlight=False)
    if files.here:
        files.print(written, about)
    elif files.paths:
        out.print("\n".join(f"→ {path}" for path in files.paths), markup=False, soft_wrap=True)
    else:
        printed = with_columns(rows, main(table, sort)) if columns is None else written
        digits = decimals(seen, printed[0])
        if out.is_terminal:
            out.print(Sheet(printed, digits))
            if columns is None:
                out.print(Text(f"\n--columns all prints all {len(table[0])} columns.", "dim"))
        else:
            click.echo("\n".join(plain(printed, digits)))


def copied(opened: Opened, steps: Steps, needed: bool) -> Copying | None:
    """The copying scores; None, and it says why, where the model has none."""
    try:
        return copying(opened.model)
    except ClearheadError as error:
        if needed:
            raise
        steps.begin(str(error))
        return None


def chosen(table: HeadTable, sort: str | None, top: int | None, layer: int | None) -> HeadTable:
    """The rows of one layer, sorted by a column, the largest first and those without a number last."""
    rows = [row for row in table if layer in (None, row["layer"])]
    if sort is not None:
        rows.sort(key=lambda row: -math.inf if math.isnan(row[sort]) else row[sort], reverse=True)
    return rows[:top]


def main(table: HeadTable, sort: str | None) -> tuple[str, ...]:
    """The columns that are printed unless others are named: the main ones, and the one that is sorted by."""
    kind = ["kind"] if any(row["kind"] == "cross" for row in table) else []
    copying = [column for column in ("copying",) if column in table[0]]
    return tuple(dict.fromkeys((*kind, *MAIN, *copying, *([sort] if sort else ()))))


def with_columns(rows: HeadTable, columns: tuple[str, ...]) -> HeadTable:
    """The rows with layer, head and these columns alone, in this order."""
    if "all" in columns:
        return rows
    return [{column: row[column] for column in ("layer", "head", *columns)} for row in rows]
