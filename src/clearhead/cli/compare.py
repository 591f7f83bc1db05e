"""`clearhead compare`: what changed between two models on one text, or between two texts in one model."""

import textwrap
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from clearhead.cli import reading
from clearhead.cli.files import check_writable, read_text, writing
from clearhead.cli.steps import telling
from clearhead.cli.tables import Files, table_options
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import open_model
from clearhead.scope import summary
from clearhead.view.changes import ORDERS, Changes
from clearhead.view.compared import compare
from clearhead.view.seen import Seen

LONGEST = 48
"""How much of a text stands for it in headings."""
WIDTH = 120
"""Where the picture goes to no terminal."""


@click.command("compare", epilog=reading.CACHE)
@click.argument("a")
@click.argument("b")
@click.option("--text", metavar="TEXT", help="A and B are two models, and this is what both read.")
@click.option("--file", metavar="PATH", type=Path, help="The same, read from a file.")
@click.option("--model", "name", metavar="NAME", help="A and B are two texts, and this model reads both.")
@click.option("--files", "in_files", is_flag=True, help="The two texts stand in files: A and B are their names.")
@reading.tokens_option
@click.option("--by", metavar="COLUMN", help="Sort by how much this column changed, or by js_distance or change.")
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="List N heads.")
@click.option("--html", metavar="PATH", type=Path, default="compare.html", show_default=True, help="The page.")
@table_options
def command(
    a: str,
    b: str,
    text: str | None,
    file: Path | None,
    name: str | None,
    in_files: bool,
    most: int | None,
    by: str | None,
    top: int,
    html: Path,
    json: Path | None,
    csv: Path | None,
    parquet: Path | None,
    force: bool,
) -> None:
    """Say what changed between A and B, head by head, the largest differences first: here, and in a page.

    A and B are two models, a fine-tune and its base say, with --text or --file; or two texts, with --model.
    A model is one of smollm2 and minilm, a folder, a .gguf file, or a name on the hub.

    Two models that read the same tokens are compared row by row too. q and k of both are kept meanwhile.
    """
    models = text is not None or file is not None
    if models == (name is not None) or (in_files and models):
        raise ClearheadError(
            "Say what A and B are: two models, with --text TEXT or --file PATH; or two texts, with --model NAME, "
            "and with --files if they stand in files."
        )
    by = by and by.replace("-", "_")
    known = [*ORDERS, *(column for column in summary.COLUMNS if column not in (*summary.COUNTS, *summary.STDERR))]
    if by is not None and by not in known:
        raise ClearheadError(f"--by: got '{by}', expected one of {', '.join(known)}.")
    files = Files(json, csv, parquet, force)
    check_writable(html, force=force)
    if models:
        read = reading.texts(text, None, file)
        runs = [(a, read), (b, read)]
        names = a, b
    else:
        both = [read_text(Path(path)) for path in (a, b)] if in_files else [a, b]
        runs = [(str(name), reading.texts(one)) for one in both]
        names = (a, b) if in_files else (_short(a), _short(b))

    with telling() as steps:
        seen: list[Seen] = []
        tokens: list[int] = []
        opened = None
        for model, read in runs:
            if opened is None or opened.name != model:
                opened = open_model(model, report=steps.begin)
            inputs = reading.inputs(opened, read, most)
            seen.append(reading.watched(opened, inputs, steps, "qk"))
            tokens.append(inputs["input_ids"].shape[1])
        steps.begin("comparing")
        compared = compare(*seen)
        by = by or compared.by
        rows = compared.heads(by, pandas=False)
        about = {"a": names[0], "b": names[1], "model": name, "tokens": tokens, "rows_compared": compared.rows}
        facts = {
            "A": f"{names[0]} · {tokens[0]} tokens",
            "B": f"{names[1]} · {tokens[1]} tokens",
            **({"Model": name} if name else {"Text": _short(read[0])}),
        }
        steps.begin(f"writing {html}")
        with writing(html):
            compared.page(html, names=names, by=by, facts=facts, force=force)
        files.write(rows, about, steps)
    if files.here:
        files.print(rows, about)
        return
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=WIDTH)
    size = f"{len(seen[0])} layers, {len(rows)} heads · {' and '.join(map(str, dict.fromkeys(tokens)))} tokens"
    out.print(Text.assemble((" → ".join(names), "bold"), (f"  {name or _short(read[0])} · {size}", "dim")))
    out.print()
    out.print(Changes(compared, by, top))
    out.print()
    out.print(Text(compared.how_rows(), "dim"))
    for path in (html, *files.paths):
        out.print(Text.assemble("→ ", (str(path), f"bold link {path.resolve().as_uri()}")))


def _short(text: str) -> str:
    """The beginning of a text, on one line."""
    return textwrap.shorten(text, LONGEST, placeholder=" …")
