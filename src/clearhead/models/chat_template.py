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
        "messages": [{key: value for key, value in one.items() if value is not None} for one in messages],
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
