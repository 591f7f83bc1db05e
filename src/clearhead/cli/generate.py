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

ENDS = {
    "end": "the model ended it",
    "stop": "a stop text came",
    "length": "--max-new-tokens",
    "context": "the model's context is full",
    "stopped": "stopped",
}


def run(text: str, name: str, chat: bool, dtype: str, as_json: bool, **options: Any) -> None:
    """Has the model `name` go on with the text; the options are those of `stream`."""
    text = _piped() if text == "-" else check_text(text)
    with telling() as steps:

        def report(what: str, done: int, total: int) -> None:
            if done == 1:
                steps.begin(what, total)
            steps.advance()

        model: Any = load(name, dtype=getattr(torch, dtype), report=report)
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
