"""All commands: their names, options, help and refusals. What a command does is imported when it runs.

So `--help`, `--version` and a wrong option need none of what takes seconds to import: PyTorch, NumPy, Transformers.
"""

from pathlib import Path
from typing import Any

import click

from clearhead.cli.files import force_option
from clearhead.cli.input_options import CACHE, Column, Columns, model_option, one_text, tokens_option
from clearhead.cli.tables import table_options
from clearhead.errors import ClearheadError
from clearhead.scope.columns import BY, COLUMNS, COUNTS, MAIN, MEANINGS, ORDERS, STDERR
from clearhead.view.page_sizes import BUDGET

CHANGING = (*ORDERS, *(column for column in COLUMNS if column not in (*COUNTS, *STDERR)))
"""By what the heads of a comparison can be sorted."""


@click.command("look", epilog=CACHE)
@one_text
@click.option("--layer", metavar="N", type=int, help="Show one layer from near.")
@click.option("--head", metavar="N", type=int, help="Show one head of that layer from near.")
@click.option(
    "--by",
    metavar="COLUMN",
    type=Column(MEANINGS),
    default=BY,
    show_default=True,
    help=f"What colours the heads: {', '.join(MEANINGS)}.",
)
@click.option("--html", metavar="PATH", type=Path, default="look.html", show_default=True, help="The page.")
@click.option("--budget", metavar="SIZE", default=BUDGET, show_default=True, help="What the weights on it may take.")
@click.option("--json", "data", metavar="PATH", type=Path, help="Write the numbers of all heads too.")
@force_option
def look(layer: int | None, head: int | None, **options: Any) -> None:
    """Show what every attention head of a model does with TEXT: here, and in a page."""
    if head is not None and layer is None:
        raise ClearheadError(f"--head {head} says no layer; add --layer.")
    from clearhead.cli.look import run

    run(layer=layer, head=head, **options)


@click.command("heads", epilog=CACHE)
@one_text
@click.option(
    "--columns",
    metavar="A,B,...",
    type=Columns((*COLUMNS, "copying", "kind", "name", "all")),
    help=f"These columns alone, or all. Without it {', '.join(MAIN)} and copying are printed, and files hold all.",
)
@click.option(
    "--sort", metavar="COLUMN", type=Column((*COLUMNS, "copying")), help="Sort by this column, the largest first."
)
@click.option("--top", metavar="N", type=click.IntRange(min=1), help="The first N rows alone.")
@click.option("--layer", metavar="N", type=int, help="The heads of one layer alone.")
@table_options
def heads(**options: Any) -> None:
    """Print a table with one row for each head: what a model's attention does with TEXT.

    A printed number is rounded to the first digit of its standard error, as if the queries were drawn at random, and
    has three decimals at most. Files hold all digits. Copying is a column where the model's unembedding follows its
    layers, as a causal language model's does.

    Only sums are kept of what the model computes, so that it works at the model's full context.
    """
    from clearhead.cli.heads import run

    run(**options)


@click.command("compare", epilog=CACHE)
@click.argument("a")
@click.argument("b")
@click.option("--text", metavar="TEXT", help="A and B are two models, and this is what both read.")
@click.option("--file", metavar="PATH", type=Path, help="The same, read from a file.")
@click.option("--model", "name", metavar="NAME", help="A and B are two texts, and this model reads both.")
@click.option("--files", "in_files", is_flag=True, help="The two texts stand in files: A and B are their names.")
@tokens_option
@click.option(
    "--by",
    metavar="COLUMN",
    type=Column(CHANGING),
    help="Sort by how much this column changed, or by js_distance or change.",
)
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="List N heads.")
@click.option("--html", metavar="PATH", type=Path, default="compare.html", show_default=True, help="The page.")
@table_options
def compare(text: str | None, file: Path | None, name: str | None, in_files: bool, **options: Any) -> None:
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
    from clearhead.cli.compare import run

    run(text=text, file=file, name=name, in_files=in_files, **options)


@click.command("survey", epilog=CACHE)
@click.argument("corpus", type=Path)
@model_option
@click.option("--field", metavar="NAME", default="text", show_default=True, help="Where JSON lines have the text.")
@click.option("--context", metavar="N", type=click.IntRange(min=1), help="Take at most N tokens at a time.")
@click.option(
    "--long",
    type=click.Choice(["split", "skip", "truncate"]),
    default="split",
    show_default=True,
    help="A document with more tokens is read in pieces, left out, or read as far as that.",
)
@click.option("--processes", metavar="N", type=click.IntRange(min=1), default=1, help="Share the work among N.")
@click.option("--threads", metavar="N", type=click.IntRange(min=1), help="Of each process; the cores, shared out.")
@click.option(
    "--checkpoint",
    metavar="PATH",
    type=Path,
    default="survey.checkpoint",
    show_default=True,
    help="Where the state is kept while it runs.",
)
@click.option("--resume", is_flag=True, help="Go on with what the checkpoint holds, if it is there.")
@click.option(
    "--by", metavar="COLUMN", type=Column(MEANINGS), default=BY, show_default=True, help="What colours the heads."
)
@table_options
def survey(**options: Any) -> None:
    """Print what the heads of a model do over all documents of CORPUS: means, with 95 % confidence intervals.

    CORPUS is a folder of text files, a file with one document a line, or JSON lines (.jsonl, .ndjson, .json). Documents
    that can't be read are left out, and told of at the end and in the JSON.

    Ctrl-C stops; --resume goes on at the last finished document. The result is the same to the bit for any number
    of processes, and with interruptions or without, if --threads is the same: a model's products may round
    differently on another number of threads. On several machines: torchrun ... -m clearhead survey ...
    """
    from clearhead.cli.survey import run

    run(**options)


@click.command("serve", epilog=CACHE)
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@click.option("--model", "more", metavar="NAME", multiple=True, help="The same, as the other commands have it.")
@tokens_option
@click.option("--memory", metavar="SIZE", default="2 GiB", show_default=True, help="What the texts kept may take.")
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Listen to other machines too.")
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=0, help="One that is free, unless given.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
def serve(names: tuple[str, ...], more: tuple[str, ...], **options: Any) -> None:
    """Look inside models in the browser: type a text, have a model read it, look at any head from near.

    Each MODEL may be chosen there, smollm2 unless any is named: smollm2, minilm, a folder, a .gguf file, or a name on
    the hub.

    The address that is printed holds a secret, which whoever asks the server must know. Only this machine can reach it,
    unless --host says so. Ctrl-C ends it.
    """
    from clearhead.cli.serve import run

    run(models=tuple(dict.fromkeys((*names, *more))) or ("smollm2",), **options)


@click.command("generate")
@click.argument("text")
@click.option(
    "--model", "name", metavar="NAME", default="smollm2", show_default=True, help="smollm2, a folder, or a .gguf file."
)
@click.option("--chat", is_flag=True, help="TEXT is a message, and the model answers it.")
@click.option("--max-new-tokens", metavar="N", default=256, show_default=True, help="Write no more than N tokens.")
@click.option("--temperature", metavar="X", default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", metavar="N", type=int, help="Draw from the N likeliest tokens.")
@click.option("--top-p", metavar="P", type=float, help="Draw from the likeliest tokens, which sum to P.")
@click.option("--min-p", metavar="P", type=float, help="Draw from tokens at least P times as likely as the likeliest.")
@click.option("--repetition-penalty", metavar="X", default=1.0, show_default=True, help="More than 1: repeats less.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End before this text; may be given several times.")
@click.option("--seed", metavar="N", type=int, help="The same seed draws the same text.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Of the weights."
)
@click.option("--json", "as_json", is_flag=True, help="Print the text, its tokens and times as JSON, at the end.")
def generate(**options: Any) -> None:
    """Go on with TEXT; - reads it from standard input. What is new goes to standard output as it is written.

    A line on standard error says how many tokens a second were read and written. Ctrl-C ends it with what is there.
    """
    from clearhead.cli.generate import run

    run(**options)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--clear-cache", "clears", is_flag=True, help="Remove the converted models, and do nothing else.")
def doctor(**options: Any) -> None:
    """Say what this machine has, and test for ten seconds whether the numbers are right, and the speed.

    The exit code is 1 if a backend's numbers are wrong.
    """
    from clearhead.cli.doctor import run

    run(**options)


ALL = (look, heads, compare, survey, serve, generate, doctor)
