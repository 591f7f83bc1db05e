"""`clearhead heads`: the whole table of a model's heads, here or in a file."""

import math
from pathlib import Path

import click
from rich.console import Console

from clearhead.cli import reading
from clearhead.cli.steps import Steps, telling
from clearhead.cli.tables import Files, table_options
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope import summary
from clearhead.scope.copying import Copying, copying
from clearhead.view.table import Sheet, plain
from clearhead.view.terminal import HeadTable


@click.command("heads", epilog=reading.CACHE)
@reading.one_text
@click.option("--by", metavar="COLUMN", help="Sort by this column, the largest first.")
@click.option("--top", metavar="N", type=click.IntRange(min=1), help="The first N rows alone.")
@click.option("--layer", metavar="N", type=int, help="The heads of one layer alone.")
@table_options
def command(
    text: str | None,
    pair: tuple[str, str] | None,
    file: Path | None,
    name: str,
    most: int | None,
    by: str | None,
    top: int | None,
    layer: int | None,
    json: Path | None,
    csv: Path | None,
    parquet: Path | None,
    force: bool,
) -> None:
    """Print one row a head of what a model's attention does with TEXT: every statistic, role and baseline.

    Copying is among them where the model's unembedding follows its layers, as a causal language model's does.
    Only sums are kept of what the model computes, so that it works at the model's full context.
    """
    texts = reading.texts(text, pair, file)
    by = by and by.replace("-", "_")
    columns = *summary.COLUMNS, "copying"
    if by is not None and by not in columns:
        raise ClearheadError(f"--by: got '{by}', expected one of {', '.join(columns)}.")
    files = Files(json, csv, parquet, force)

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
