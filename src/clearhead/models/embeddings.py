"""embed(): texts as vectors that lie near one another where the texts mean alike."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clearhead.errors import ClearheadError

TOGETHER = 32
"""So many texts are read at a time."""


def embed(model: Any, texts: str | Sequence[str]) -> Float[Tensor, "*texts E"]:
    """Each text's vector, the mean of its tokens' last vectors, of length 1: `(E,)` for one, `(texts, E)` for several.

    So does Sentence-BERT (Reimers & Gurevych 2019), for which models such as MiniLM are trained; the product of two
    vectors is their cosine. Texts of about the same length are read together, and padding has no part in any mean.

    Raises ClearheadError for a model without a tokenizer, and for a text that has no tokens or more than the model
    takes.

    >>> import clearhead as ch
    >>> model = ch.models.load("minilm")
    >>> cat, dog, four = ch.models.embed(model, ["A cat sleeps.", "A dog lies down.", "Two and two is four."])
    >>> bool(cat @ dog > cat @ four + 0.2)
    True
    """
    if isinstance(texts, str):
        return embed(model, [texts])[0]
    if model.tokenizer is None:
        raise ClearheadError("embed: this model has no tokenizer, so it reads no text; load one that has.")
    if model.training:
        raise ClearheadError("embed: the model is training, so it would drop at random; call model.eval() first.")
    tokens = [model.tokenizer.encode(text) for text in texts]
    for n, ids in enumerate(tokens):
        if not ids or (model.context is not None and len(ids) > model.context):
            raise ClearheadError(
                f"embed: text {n} has {len(ids)} tokens; expected from 1 to {model.context or 'any number'}. "
                "Cut a long text into pieces."
            )
    width = model.config.width
    vectors = torch.empty(len(tokens), width)
    by_length = sorted(range(len(tokens)), key=lambda n: len(tokens[n]))
    for start in range(0, len(tokens), TOGETHER):
        rows = by_length[start : start + TOGETHER]
        vectors[rows] = _means(model, [tokens[n] for n in rows])
    return vectors


@torch.no_grad()
def _means(model: Any, tokens: list[list[int]]) -> Float[Tensor, "B E"]:
    """The mean of each text's last vectors, of length 1."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in tokens])
    T = int(lengths.max())
    padded = torch.tensor([ids + [0] * (T - len(ids)) for ids in tokens], device=device)
    x = model.hidden(padded, lengths=None if (lengths == T).all() else lengths).float()
    real = (torch.arange(T) < lengths[:, None]).to(device)
    return F.normalize((x * real[..., None]).sum(1) / lengths.to(device)[:, None], dim=-1).cpu()
