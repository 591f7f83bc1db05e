"""`clearhead generate`: a real model writes on from a text, as one reads along."""

import json
import math
import sys
from dataclasses import asdict
from typing import Any

import click
import torch

from clearhead.cli.standard import is_utf8
from clearhead.cli.steps import telling
from clearhead.errors import ClearheadError
from clearhead.models.generate import Generated, Prompt, stream
from clearhead.models.loading import load
from clearhead.text import check_text

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENDS = {
    "end": "the model ended it",
    "stop": "a stop text came",
    "length": "--max-new-tokens",
    "context": "the model's context is full",
    "stopped": "stopped",
}


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
@click.option("--dtype", type=click.Choice(list(TYPES)), default="float32", show_default=True, help="Of the weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the text, its tokens and times as JSON, at the end.")
def command(text: str, name: str, chat: bool, dtype: str, as_json: bool, **options: Any) -> None:
    """Go on with TEXT; - reads it from standard input. What is new goes to standard output as it is written.

    A line on standard error says how many tokens a second were read and written. Ctrl-C ends it with what is there.
    """
    text = _piped() if text == "-" else check_text(text)
    with telling() as steps:

        def report(what: str, done: int, total: int) -> None:
            if done == 1:
                steps.begin(what, total)
            steps.advance()

        model: Any = load(name, dtype=TYPES[dtype], report=report)
    if model.tokenizer is None:
        raise ClearheadError(f"The model '{name}' has no tokenizer beside it, so it reads no text.")
    prompt: Prompt = model.tokenizer.chat([{"role": "user", "content": text}]) if chat else text
    pieces = stream(model, prompt, **options)
    about = {"model": name, "dtype": dtype, "prompt": text, "chat": chat, **options} if as_json else None
    try:
        for piece in pieces:
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        _tell(pieces.result, about)
        raise
    _tell(pieces.result, about)


def _piped() -> str:
    try:
        read = sys.stdin.buffer.read()
        return read.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ClearheadError(
            f"Standard input is no text in UTF-8: its byte {error.start} is {error.object[error.start]:#04x}; "
            "convert it first."
        ) from error


def _tell(told: Generated, about: dict[str, Any] | None) -> None:
    """What is said at the end: all of it as JSON, beside what it is about, or how fast it went."""
    if about is not None:
        click.echo(json.dumps(about | _as_json(told), indent=1, ensure_ascii=not is_utf8()))
    elif told.tokens:
        click.echo()
        click.echo(_speed(told), err=True)


def _speed(told: Generated) -> str:
    read = f"{told.prompt_tokens} tokens read in {told.prefill_seconds:.2f} s, {told.prefill_rate:.0f} a second"
    wrote = f"{len(told.tokens)} written"
    if len(told.tokens) > 1:
        wrote += f" in {told.decode_seconds:.2f} s, {told.decode_rate:.1f} a second"
    return f"{read} · {wrote} · {ENDS[told.reason]}"


def _as_json(told: Generated) -> dict[str, Any]:
    rates = {"prefill_rate": told.prefill_rate, "decode_rate": told.decode_rate}
    return asdict(told) | {name: None if math.isnan(rate) else rate for name, rate in rates.items()}
