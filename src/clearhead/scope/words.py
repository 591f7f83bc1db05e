"""Tokens as a person reads them, and which of them part a text."""

from typing import Protocol, runtime_checkable

from jaxtyping import Int
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


def texts(tokenizer: Tokenizer | None, ids: Int[Tensor, " T"] | None, length: int) -> list[str]:
    """The text of each token, spaces and newlines in it; its number where no tokenizer can say, or its position."""
    if ids is None:
        return [str(position) for position in range(length)]
    if tokenizer is None:
        return [str(number) for number in ids.tolist()]
    return [_text(tokenizer, token) for token in tokenizer.convert_ids_to_tokens(ids.tolist())]


def _text(tokenizer: Tokenizer, token: str) -> str:
    if "▁" in token:  # SentencePiece marks a space so, and loses one at the start when asked for the string
        return token.replace("▁", " ")
    text = tokenizer.convert_tokens_to_string([token])
    # A piece of a character has no text of its own, and a piece of a word is marked as one: shown as they are.
    return token if "\ufffd" in text or token.startswith("##") or not text else text


def delimiters(tokenizer: Tokenizer | None, ids: Int[Tensor, "..."]) -> set[int] | None:
    """Which of these tokens part a text: punctuation, newlines, and separators such as [SEP]; None if unknown.

    A token that only begins a text ([CLS], <s>) parts nothing: weight on it is the first-token role's.
    """
    if tokenizer is None:
        return None
    begins = {getattr(tokenizer, name, None) for name in ("cls_token_id", "bos_token_id")}
    ends = {getattr(tokenizer, name, None) for name in ("sep_token_id", "eos_token_id")} - {None}
    special = (set(tokenizer.all_special_ids) - begins) & ends
    numbers = ids.unique().tolist()
    words = texts(tokenizer, ids.unique(), len(numbers))
    marks = {n for n, word in zip(numbers, words, strict=True) if word and set(word.strip(" ")) <= PARTING}
    blank = {n for n, word in zip(numbers, words, strict=True) if not word.strip(" ")}
    return (marks - blank) | (special & set(numbers))
