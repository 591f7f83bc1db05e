"""Spelling: how a text reads by its tokens: as a whole, by its words and by its sentences."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clearhead.scope.indexing import index
from clearhead.scope.layer import Layer
from clearhead.scope.pieces import words_of
from clearhead.scope.words import Tokenizer, spelled

Words = dict[str, list[Any]]
"""`starts`: the tokens at which words begin, the first being 0; `texts`: how each word is spelled."""


def words_and_sentences(
    layers: Sequence[Layer], batch: int, entries: Sequence[dict[str, Any]], count: int
) -> dict[str, Any]:
    """Of each of the page's texts its `words`, its `segments`, and `read`, the text itself; null where nobody can say.

    `entries` tell which of the `count` texts each layer's queries and keys are. `segments` names the sentence of each
    token, counted from 0; null if there is only one.
    """
    words: list[Words | None] = [None] * count
    segments: list[list[int] | None] = [None] * count
    read: list[str | None] = [None] * count
    done: set[int] = set()
    for layer, entry in zip(layers, entries, strict=True):
        by_keys, by_queries = key_ids(layer, batch), query_ids(layer, batch)
        for text, ids, added in ((entry["keys"], by_keys, layer.added), (entry["queries"], by_queries, ())):
            if text in done or layer.tokenizer is None or ids is None:
                continue
            done.add(text)
            found = words_of(layer.tokenizer, ids)
            words[text] = {
                "starts": [*(word.start for word in found), *range(len(ids), len(ids) + len(added))],
                "texts": [*(word.text for word in found), *added],
            }
            segments[text] = sentences(layer.tokenizer, ids, len(added))
            read[text] = as_read(layer, [], ids)
    return {"words": words, "segments": segments, "read": read}


def sentences(tokenizer: Tokenizer, ids: Tensor, added: int = 0) -> list[int] | None:
    """The number of the sentence that each token is in; None if there is only one. Keys added behind join the last.

    A sentence goes up to its separator ([SEP], </s>), which is still of it, and so is what follows that is no text:
    a second separator, padding.
    """
    ends = {getattr(tokenizer, name, None) for name in ("sep_token_id", "eos_token_id")}
    special = set(tokenizer.all_special_ids)
    numbers: list[int] = []
    current, ended = 0, False
    for token in ids.tolist():
        if ended and token not in special:
            current, ended = current + 1, False
        ended = ended or (token in ends and token in special)
        numbers.append(current)
    return [*numbers, *[current] * added] if current else None


def queries(layer: Layer, batch: int = 0) -> list[str]:
    """The text of each query's token; the bytes of a piece of a character as `words.spelled` has them."""
    ids = query_ids(layer, batch)
    return layer.queries(batch) if ids is None else spelled(layer.tokenizer, ids, len(ids))


def keys(layer: Layer, batch: int = 0) -> list[str]:
    """The text of each key's token, as `queries`."""
    ids = key_ids(layer, batch)
    return layer.keys(batch) if ids is None else [*spelled(layer.tokenizer, ids, len(ids)), *layer.added]


def as_read(layer: Layer, texts: Sequence[str], ids: Tensor | None) -> str:
    """The text that the tokens stand for, without those that are no text ([CLS])."""
    if layer.tokenizer is None or ids is None:
        return "".join(texts)
    special = set(layer.tokenizer.all_special_ids)
    plain = [token for token in ids.tolist() if token not in special]
    return layer.tokenizer.convert_tokens_to_string(layer.tokenizer.convert_ids_to_tokens(plain))


def query_ids(layer: Layer, batch: int) -> Int[Tensor, " Tq"] | None:
    """The tokens of the queries, if they are known."""
    b = index(batch, "batch", layer.steps[0].shape[0])
    asked = [step.ids_q[b] for step in layer.steps if step.ids_q is not None]
    return torch.cat(asked) if len(asked) == len(layer.steps) else None


def key_ids(layer: Layer, batch: int) -> Int[Tensor, " Tk"] | None:
    """The tokens of the keys, if they are known; a key that was added has none."""
    last = max(layer.steps, key=lambda step: step.shape[3])
    return None if last.ids_k is None else last.ids_k[index(batch, "batch", last.shape[0])]
