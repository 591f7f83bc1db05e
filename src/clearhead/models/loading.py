"""load(): a checkpoint, by name or path, as one of our own models."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import find
from clearhead.models.families import FAMILIES
from clearhead.models.hub import downloaded
from clearhead.models.names import to_ours
from clearhead.models.tokens import Tokenizer, Unread, tokenizer_of
from clearhead.models.weights.opening import open_weights

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


def load(
    name: str | Path, *, dtype: torch.dtype = torch.float32, report: Report = lambda what, done, total: None
) -> nn.Module:
    """The model in a checkpoint, with its weights, its tokenizer as `model.tokenizer`, ready to run on the CPU.

    `name` is "smollm2" or "minilm", a folder with `config.json` and safetensors files (sharded or not) or PyTorch's
    `.bin`, a `.gguf` file (the first, if it is split), or a name on the hub, "owner/model", or "owner/model:Q4_K_M" for
    the GGUF file of that quantisation. Weights are mapped into memory: those that need no other type or shape are
    never copied.

    Raises ClearheadError, in sentences: for a model that isn't there or is of no family that is known, and for
    weights that are missing, not expected or of another shape, all named at once. A tokenizer that cannot be read
    raises it when it is first used.

    >>> import clearhead as ch
    >>> model = ch.models.load("smollm2")
    >>> model.generate("The capital of France is", max_new_tokens=2).text
    ' Paris.'
    """
    found = find(str(name))
    path = found if isinstance(found, Path) else downloaded(found)
    weights = open_weights(path)
    kind = weights.config.get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ClearheadError(f"'{name}' is a model of type {kind!r}; expected one of {known}.")
    from clearhead.models.fields import without_nulls  # with pydantic, as open_weights

    family, config = FAMILIES[kind], without_nulls(weights.config)
    try:
        with torch.device("meta"):
            model = family.build(config).to(dtype)
    except KeyError as missing:
        raise ClearheadError(
            f"The config of '{name}', a {kind} model, lacks {missing}; expected it there."
        ) from missing
    to_ours(family.names_of(config), weights, model, lambda done, total: report(f"reading {name}", done, total))
    setattr(model, "tokenizer", _tokenizer(path))  # noqa: B010 - nn.Module lets no other type be named
    return model.eval()


def _tokenizer(path: Path) -> Tokenizer | Unread | None:
    """One that cannot be read is complained of when it is wanted: the model runs on tokens without it."""
    try:
        return tokenizer_of(path)
    except ClearheadError as error:
        return Unread(str(error))
