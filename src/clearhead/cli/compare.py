"""`clearhead compare`: what changed between two models on one text, or between two texts in one model."""

import textwrap
from pathlib import Path

from rich.console import Console
from rich.text import Text

from clearhead.cli import reading
from clearhead.cli.files import check_writable, read_text, writing
from clearhead.cli.input_options import texts
from clearhead.cli.steps import telling
from clearhead.cli.tables import Files
from clearhead.models.checkpoints import open_model
from clearhead.view.changes import Changes
from clearhead.view.compared import compare
from clearhead.view.seen import Seen

LONGEST = 48
"""How much of a text stands for it in headings."""
WIDTH = 120
"""Where the picture goes to no terminal."""


def run(
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
    files: Files,
) -> None:
    """Has two models read one text, or one model two, and says what changed: here, in a page and in files."""
    models = text is not None or file is not None
    check_writable(html, force=files.force)
    if models:
        read = texts(text, None, file)
        runs = [(a, read), (b, read)]
        names = a, b
    else:
        both = [read_text(Path(path)) for path in (a, b)] if in_files else [a, b]
        runs = [(str(name), texts(one)) for one in both]
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
            compared.page(html, names=names, by=by, facts=facts, force=files.force)
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
