"""The chat template: how a talk is written as the text that a model was taught to go on with, in Jinja."""

from collections.abc import Mapping, Sequence
from typing import Any

from clearhead.errors import ClearheadError
from clearhead.models.guarded import guarded


def written(template: str, messages: Sequence[Mapping[str, Any]], special: Mapping[str, str]) -> str:
    """A talk as a text, up to where the model is to answer.

    The template gets what Transformers gives it: `messages` without what is None in them, `tools` and `documents`, both
    None, `add_generation_prompt`, and the special tokens by their roles. Templates come from strangers: they run in a
    child process, in a sandbox, with a bound on time, memory and output.

    Raises ClearheadError if a message has no role, if there is none, or if the template refuses them, fails, or is
    given up.
    """
    if not messages:
        raise ClearheadError('chat: got no messages; expected at least one, with a "role" and a "content".')
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ClearheadError(
                f'chat: message {n} is {str(message)[:60]!r}; expected a mapping with a "role" and a "content".'
            )
    variables = {
        "messages": [_as_transformers_has_it(one) for one in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        **special,
    }
    try:
        answer = guarded("render", {"template": template, "variables": variables}, "chat: the model's template")
    except TypeError as error:  # of JSON
        raise ClearheadError(f"chat: the messages hold more than texts, lists and mappings: {error}.") from error
    if "text" in answer:
        return str(answer["text"])
    raise ClearheadError(
        f"chat: the model's template refuses these messages: {answer['refused']}."
        if "refused" in answer
        else f"chat: the model's template is no Jinja that can be read: {answer['unreadable']}. Get the model again."
        if "unreadable" in answer
        else f"chat: the model's template writes more than {answer['long']} characters; it was stopped."
        if "long" in answer
        else f"chat: the model's template fails ({answer['failed']}); write the talk as a text yourself, as the "
        "model's makers describe it, and give generate that."
    )


def _as_transformers_has_it(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what is None in it, its reasoning by both names that templates read."""
    some = {key: value for key, value in message.items() if value is not None}
    reasoning = next((some[key] for key in ("reasoning_content", "thinking", "reasoning") if key in some), None)
    return some if reasoning is None else {"thinking": reasoning, **some, "reasoning_content": reasoning}
