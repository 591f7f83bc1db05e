"""Spelling: how a text reads by its tokens: its words, its sentences, and the bytes of what is less than a letter."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clearhead.scope.layer import Layer
from clearhead.scope.pieces import words_of
from clearhead.scope.words import Tokenizer

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = "".join(
    chr(byte if byte in _PRINTED else 256 + sum(other not in _PRINTED for other in range(byte))) for byte in range(256)
)
"""The letters that byte-level BPE (Radford et al. 2019) has for the bytes: those that show stand for themselves."""

Words = dict[str, list[Any]]
"""`starts`: the tokens at which words begin, the first being 0; `texts`: how each word is spelled."""


def words_and_sentences(
    layers: Sequence[Layer], batch: int, entries: Sequence[dict[str, Any]], count: int
) -> dict[str, Any]:
    """Of each of the page's texts its `words` and its `segments`, null where nobody can say.

    `entries` tell which of the `count` texts each layer's queries and keys are. `segments` names the sentence of each
    token, counted from 0; null if there is only one.
    """
    words: list[Words | None] = [None] * count
    segments: list[list[int] | None] = [None] * count
    done: set[int] = set()
    for layer, entry in zip(layers, entries, strict=True):
        for text, ids in ((entry["keys"], key_ids(layer, batch)), (entry["queries"], query_ids(layer, batch))):
            if text in done or layer.tokenizer is None or ids is None:
                continue
            done.add(text)
            found = words_of(layer.tokenizer, ids)
            words[text] = {"starts": [word.start for word in found], "texts": [word.text for word in found]}
            segments[text] = sentences(layer.tokenizer, ids)
    return {"words": words, "segments": segments}


def sentences(tokenizer: Tokenizer, ids: Tensor) -> list[int] | None:
    """The number of the sentence that each token is in; None if there is only one.

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
    return numbers if current else None


def queries(layer: Layer, batch: int = 0) -> list[str]:
    """The text of each query's token, `spelled`."""
    return spelled(layer, layer.queries(batch), query_ids(layer, batch))


def keys(layer: Layer, batch: int = 0) -> list[str]:
    """The text of each key's token, `spelled`."""
    return spelled(layer, layer.keys(batch), key_ids(layer, batch))


def spelled(layer: Layer, texts: list[str], ids: Tensor | None) -> list[str]:
    """The texts of these tokens, with the bytes of those that are a piece of a character.

    Byte-level BPE spells such a piece in an alphabet of its own ("ðŁ"), which reads like a text of other letters. Its
    bytes are given as Python's surrogateescape has them, b"\\xf0\\x9f" as "\\udcf0\\udc9f", which the page writes out
    and `legible` does.
    """
    if layer.tokenizer is None or ids is None:
        return texts
    tokens = layer.tokenizer.convert_ids_to_tokens(ids.tolist())
    return [
        bytes(map(ALPHABET.index, token)).decode(errors="surrogateescape")
        if text == token
        and not token.isascii()
        and set(token) <= set(ALPHABET)
        and "\ufffd" in layer.tokenizer.convert_tokens_to_string([token])
        else text
        for text, token in zip(texts, tokens, strict=True)
    ]


def legible(text: str) -> str:
    """A text with the bytes in it that are no letters written out.

    >>> print(legible(" caf\\udcc3"))
     caf\\xc3
    """
    return "".join(f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else letter for letter in text)


def as_read(layer: Layer, texts: Sequence[str], ids: Tensor | None) -> str:
    """The text that the tokens stand for, without those that are no text ([CLS])."""
    if layer.tokenizer is None or ids is None:
        return "".join(texts)
    special = set(layer.tokenizer.all_special_ids)
    plain = [token for token in ids.tolist() if token not in special]
    return layer.tokenizer.convert_tokens_to_string(layer.tokenizer.convert_ids_to_tokens(plain))


def query_ids(layer: Layer, batch: int) -> Int[Tensor, " Tq"] | None:
    """The tokens of the queries, if they are known."""
    asked = [step.ids_q[batch] for step in layer.steps if step.ids_q is not None]
    return torch.cat(asked) if len(asked) == len(layer.steps) else None


def key_ids(layer: Layer, batch: int) -> Int[Tensor, " Tk"] | None:
    """The tokens of the keys, if they are known."""
    last = max(layer.steps, key=lambda step: step.shape[3])
    return None if last.ids_k is None else last.ids_k[batch]
