"""The chat template: how a talk is written as the text that a model was taught to go on with, in Jinja."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from clearhead.errors import ClearheadError


def written(template: str, messages: Sequence[Mapping[str, Any]], special: Mapping[str, str]) -> str:
    """A talk as a text. Templates come from strangers: they run in a sandbox, and know what they do in Transformers.

    Raises ClearheadError if the template refuses the messages, or fails on them.
    """
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    jinja.filters["tojson"] = _json
    jinja.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return jinja.from_string(template).render(messages=messages, add_generation_prompt=True, **special)
    except TemplateError as error:
        raise ClearheadError(f"chat: the model's template refuses these messages: {error}.") from error
    except Exception as error:  # a stranger's program fails in as many ways as there are
        raise ClearheadError(
            f"chat: the model's template fails on these messages ({type(error).__name__}: {error}); expected each to "
            'have a "role" and a text as its "content".'
        ) from error


class _Generation(Extension):
    """`{% generation %}` marks what the model says itself, for training; what it marks is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _now(format: str) -> str:  # templates may name it
    return datetime.now().strftime(format)


def _refuse(why: str) -> None:
    raise TemplateError(why)
