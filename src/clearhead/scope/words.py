"""Tokens as a person reads them, and which of them part a text."""

import re
import unicodedata
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PARTING = frozenset(".,;:!?…。、，；：！？\n")


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer: Transformers' are such."""

    all_special_ids: list[int]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's entries."""

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that entries stand for."""


_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = "".join(
    chr(byte if byte in _PRINTED else 256 + sum(other not in _PRINTED for other in range(byte))) for byte in range(256)
)
"""The characters that stand for the 256 bytes in byte-level BPE (Radford et al. 2019)."""
_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""SentencePiece's token for one byte."""


def texts(tokenizer: Tokenizer | None, ids: Int[Tensor, " T"] | None, length: int) -> list[str]:
    """The text of each token, spaces and newlines in it; its number where no tokenizer can say, or its position.

    A token that is a piece of a character is written as its bytes, "\\xf0\\x9f".
    """
    return [legible(text) for text in spelled(tokenizer, ids, length)]


def spelled(tokenizer: Tokenizer | None, ids: Int[Tensor, " T"] | None, length: int) -> list[str]:
    """`texts`, but the bytes of a piece of a character are as Python's surrogateescape has them.

    b"\\xf0\\x9f" is "\\udcf0\\udc9f", which can't be taken for text of the same letters.
    """
    if ids is None:
        return [str(position) for position in range(length)]
    if tokenizer is None:
        return [str(number) for number in ids.tolist()]
    return [_text(tokenizer, token) for token in tokenizer.convert_ids_to_tokens(ids.tolist())]


def legible(text: str) -> str:
    """A text with the bytes in it that are no letters written out.

    >>> print(legible(" caf\\udcc3"))
     caf\\xc3
    """
    return "".join(f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else letter for letter in text)


def _text(tokenizer: Tokenizer, token: str) -> str:
    if "▁" in token:  # SentencePiece marks a space so, and loses one at the start when asked for the string
        return token.replace("▁", " ")
    text = tokenizer.convert_tokens_to_string([token])
    if "\ufffd" in text:
        return _bytes(token).decode(errors="surrogateescape")
    # A piece of a word is marked as one, and what has no text is shown by its name.
    return token if token.startswith("##") or not text else text


def _bytes(token: str) -> bytes:
    """What a token stands for that is a piece of a character, or several; its own text if its bytes are not known."""
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    known = not token.isascii() and set(token) <= set(ALPHABET)
    return bytes(map(ALPHABET.index, token)) if known else token.encode(errors="surrogateescape")


@dataclass(frozen=True)
class Kinds:
    """Which tokens of a text are of a kind that heads look for, by their numbers."""

    delimiter: frozenset[int] = frozenset()
    """What parts a text: . , ; : ! ? …, newlines, and separators such as [SEP]."""
    special_tokens: frozenset[int] = frozenset()
    """What is no text: [CLS], [SEP], <s> …"""
    punctuation: frozenset[int] = frozenset()
    """What is punctuation and nothing else, in Unicode's sense: quotes, brackets and dashes too."""

    def among(self, ids: Int[Tensor, "B T"]) -> dict[str, Bool[Tensor, "B T"]]:
        """For each kind, which of these tokens are of it."""
        return {f.name: torch.isin(ids, ids.new_tensor(sorted(getattr(self, f.name)))) for f in fields(self)}


_LAST: list[tuple[Tokenizer, Tensor, Kinds]] = []
"""What was said of the last text: the layers of a model read one."""


def kinds(tokenizer: Tokenizer | None, ids: Int[Tensor, "..."]) -> Kinds | None:
    """The kinds of these tokens; None if nobody can say.

    A token that only begins a text ([CLS], <s>) parts nothing: weight on it is the first-token role's.
    """
    if tokenizer is None:
        return None
    for known, of, found in _LAST:
        if known is tokenizer and of.shape == ids.shape and torch.equal(of, ids):
            return found
    found = _kinds(tokenizer, ids)
    _LAST[:] = [(tokenizer, ids.clone(), found)]  # a buffer may hold other tokens next time
    return found


def _kinds(tokenizer: Tokenizer, ids: Int[Tensor, "..."]) -> Kinds:
    begins = {getattr(tokenizer, name, None) for name in ("cls_token_id", "bos_token_id")}
    ends = {getattr(tokenizer, name, None) for name in ("sep_token_id", "eos_token_id")} - {None}
    special = set(tokenizer.all_special_ids)
    numbers = ids.unique().tolist()
    words = {n: word.strip(" ") for n, word in zip(numbers, texts(tokenizer, ids.unique(), len(numbers)), strict=True)}
    marks = {n for n, word in words.items() if word and set(word) <= PARTING}
    return Kinds(
        frozenset(marks | ((special - begins) & ends & set(numbers))),
        frozenset(special & set(numbers)),
        frozenset(n for n, word in words.items() if _is_punctuation(word) and n not in special),
    )


def _is_punctuation(word: str) -> bool:
    return bool(word) and all(unicodedata.category(c).startswith("P") for c in word)
