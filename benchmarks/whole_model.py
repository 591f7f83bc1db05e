"""A whole model on real text: SmolLM2-135M as it is, and with its attention done by Clearhead."""

import contextlib
from collections.abc import Callable
from functools import cache
from pydoc_data import topics
from typing import Any

import torch

import clearhead as ch
from benchmarks.cases import STOCK, WholeModel
from benchmarks.peers.ours import OURS
from benchmarks.peers.peer import Cannot
from clearhead.models.checkpoints import open_model

AGREES = 1e-3
"""How far the logits may be apart, relative in the root of squares."""


def contestants(subject: WholeModel) -> dict[str, Callable[[], torch.Tensor]]:
    """The model as it is, and with `accelerate`; each call returns the last token's logits."""
    accelerate = getattr(ch, "accelerate", None)
    if accelerate is None:
        raise Cannot("there is no clearhead.accelerate yet")
    run = _writing(subject) if subject.writes else _reading(subject)
    ours, stock = run(accelerate(backend=OURS.removeprefix("clearhead "))), run(contextlib.nullcontext())
    error = float((ours - stock).norm() / stock.norm())
    if not error <= AGREES:
        raise Cannot(f"gives other logits: {error:.1e} away from the model's own")
    return {
        STOCK: lambda: run(contextlib.nullcontext()),
        OURS: lambda: run(accelerate(backend=OURS.removeprefix("clearhead "))),
    }


Run = Callable[[contextlib.AbstractContextManager[Any]], torch.Tensor]


def _reading(subject: WholeModel) -> Run:
    """The prefill of a generation: all tokens are read, and the next one's logits are made."""
    model, tokens = _opened(), _tokens(subject.tokens)

    def run(within: contextlib.AbstractContextManager[Any]) -> torch.Tensor:
        with torch.inference_mode(), within:
            logits: torch.Tensor = model(tokens, use_cache=True, logits_to_keep=1).logits
            return logits

    return run


def _writing(subject: WholeModel) -> Run:
    """The next tokens of a text, one by one on the cache of all before them; then the cache is cut back."""
    model, tokens = _opened(), _tokens(subject.tokens + subject.writes)
    with torch.inference_mode():
        past = model(tokens[:, : subject.tokens], use_cache=True, logits_to_keep=1).past_key_values

    def run(within: contextlib.AbstractContextManager[Any]) -> torch.Tensor:
        with torch.inference_mode(), within:
            for n in range(subject.tokens, subject.tokens + subject.writes):
                logits: torch.Tensor = model(tokens[:, n : n + 1], past_key_values=past, use_cache=True).logits
            past.crop(-subject.writes)
            return logits

    return run


@cache
def _opened() -> Any:
    return open_model("smollm2").model


@cache
def _tokens(count: int) -> torch.Tensor:
    """The reference of the Python language, which every Python carries."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    ids: torch.Tensor = open_model("smollm2").tokenizer(text[: 10 * count], return_tensors="pt").input_ids
    return ids[:, :count]
