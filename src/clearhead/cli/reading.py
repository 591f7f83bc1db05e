"""A model reads a text, watched: what the commands that look inside one have in common."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened
from clearhead.scope.modules import attentions
from clearhead.scope.record import Keep
from clearhead.view.progress import Progress
from clearhead.view.seen import Seen, watch


def inputs(opened: Opened, texts: tuple[str, ...], most: int | None = None) -> dict[str, Tensor]:
    """What the model is called with to read the texts, or the first `most` tokens of them."""
    if most is not None:
        opened = replace(opened, tokenizer=partial(opened.tokenizer, truncation=True, max_length=most))
    return opened.inputs(*texts)


@torch.no_grad()
def watched(opened: Opened, inputs: Mapping[str, Any], steps: Progress, keep: Keep, memory: int | None = None) -> Seen:
    """Runs the model, watched; what it lacks to read a text alone shows on the first token, unwatched.

    A language model is asked for the last token's logits alone: those of a long text are many, and no attention.
    """
    if "logits_to_keep" in inspect.signature(opened.model.forward).parameters:
        inputs = {**inputs, "logits_to_keep": 1}
    try:
        opened.model(**_first(inputs))
    except Exception as error:
        raise cannot_read(opened, error) from error
    with (
        advancing(opened, steps, f"watching {opened.name} on {inputs['input_ids'].shape[1]} tokens"),
        watch(opened.model, opened.tokenizer, keep=keep, memory=memory) as seen,
    ):
        opened.model(**inputs)
    return seen


@torch.no_grad()
def first_token(opened: Opened, inputs: Mapping[str, Any]) -> Seen:
    """A watch of the first token alone: in a moment, it has the layers and heads that one of the whole text has."""
    with warnings.catch_warnings(action="ignore"), watch(opened.model, opened.tokenizer, keep="statistics") as seen:
        try:
            opened.model(**_first(inputs))
        except Exception as error:
            raise cannot_read(opened, error) from error
    return seen


def check_layer(layer: int, layers: int) -> None:
    """Refuses a layer that isn't there."""
    if not 0 <= layer < layers:
        raise ClearheadError(f"There is no layer {layer}: the model has {layers}, from 0 to {layers - 1}.")


def _first(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x[:, :1] if isinstance(x, Tensor) else x for name, x in inputs.items()}


def cannot_read(opened: Opened, error: Exception) -> ClearheadError:
    """The sentence for a model that failed on a text."""
    return ClearheadError(f"The model '{opened.name}' cannot read a text alone: {error}")


@contextmanager
def advancing(opened: Opened, steps: Progress, what: str) -> Iterator[None]:
    """A step that goes on with each attention of the model that has run."""
    modules = [opened.model.get_submodule(name) for name in attentions(opened.model)]
    steps.begin(what, len(modules))
    hooks = [module.register_forward_hook(lambda *_: steps.advance()) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
