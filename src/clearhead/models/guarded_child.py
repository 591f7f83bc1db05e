"""The child process of `guarded`: it runs one task on its own, and imports nothing that the task does not need."""

import json
import sys
from datetime import datetime
from typing import Any

LONGEST = 10_000_000
"""Characters that a template may write."""


def render(request: dict[str, Any]) -> dict[str, str]:
    """A talk as a template writes it: {"text"}, or why not: {"refused"}, {"unreadable"}, {"failed"} or {"long"}.

    Templates run in a sandbox, with the filters, functions and variables that they have in Transformers.
    """
    from jinja2 import TemplateError, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refused(TemplateError):
        """The template calls raise_exception."""

    class Generation(Extension):
        """`{% generation %}` marks the model's answers, for training; what it marks is written as it is."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # Jinja's own escapes what HTML would

    def now(format: str) -> str:  # templates may name the argument
        return datetime.now().strftime(format)

    def refuse(why: str) -> None:
        raise Refused(why)

    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    jinja.filters["tojson"] = to_json
    jinja.globals |= {"raise_exception": refuse, "strftime_now": now}
    try:
        pieces, length = [], 0
        for piece in jinja.from_string(request["template"]).generate(**request["variables"]):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST:
                return {"long": f"{LONGEST:,}"}
        return {"text": "".join(pieces)}
    except Refused as error:
        return {"refused": str(error)}
    except TemplateSyntaxError as error:
        return {"unreadable": str(error)}
    except Exception as error:  # noqa: BLE001 - a stranger's program fails in as many ways as there are
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


TASKS = {"render": render}


def main() -> None:
    """Reads the request from standard input, and writes the answer to standard output, both as JSON."""
    request = json.load(sys.stdin)
    try:
        import resource
    except ImportError:  # Windows has none; the clock bounds the child there
        pass
    else:
        limits = request["limits"]
        resource.setrlimit(resource.RLIMIT_CPU, (limits["seconds"],) * 2)
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory"],) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    json.dump(TASKS[request["task"]](request), sys.stdout)


if __name__ == "__main__":
    main()
