"""Pieces: which tokens make up a word, and the weights between words, from those between their tokens."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.scope.words import Tokenizer, texts

JOINER = "\u200d"
"""Makes one emoji of two."""
SKINS = range(0x1F3FB, 0x1F400)
"""Give the emoji before them a colour."""
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA")
"""Scripts that mark no words: each of their tokens stands for itself."""
LONGEST = 4
"""The bytes of the longest character, and so the most tokens that it can be cut into."""
ROWS_AT_A_TIME = 64


@dataclass(frozen=True)
class Word:
    """A word, and its tokens from `start` up to `stop`."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class WordWeights:
    """How much some words look at each word: the sum over its tokens, the mean over those of the word that looks.

    So a word's weights still sum to 1 (Clark et al. 2019).
    """

    queries: list[Word]
    """The words that look."""
    keys: list[Word]
    """All words."""
    weights: Float[Tensor, "*H queries keys"]


def words_of(tokenizer: Tokenizer, ids: Int[Tensor, " T"]) -> list[Word]:
    """The words that these tokens make up; every token is in one.

    A token goes on with the word before it if no space parts them and letters or digits meet. That goes for
    the pieces of WordPiece (##), of SentencePiece (▁) and of byte-level BPE (Ġ); the bytes of one character come
    together, and the parts of one emoji. Punctuation is a word of its own, and so is a special token.
    """
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    special = set(tokenizer.all_special_ids)
    alone = [number in special for number in ids.tolist()]

    def text(start: int, stop: int) -> str:
        return tokens[start] if alone[start] else tokenizer.convert_tokens_to_string(tokens[start:stop])

    starts: list[int] = []
    last = 0
    for start, stop in _characters(text, alone):
        if not (start and not alone[start] and not alone[last] and _goes_on(text(last, start), text(last, stop))):
            starts.append(start)
        last = start
    bounds = zip(starts, [*starts[1:], len(tokens)], strict=False)
    return [Word(_spelled(tokenizer, ids[a:b], text(a, b)), a, b) for a, b in bounds]


def _spelled(tokenizer: Tokenizer, ids: Int[Tensor, " n"], text: str) -> str:
    """A word's text without the spaces around it; the bytes of a character that was cut off are written out."""
    if "\ufffd" in text:
        text = "".join(texts(tokenizer, ids, len(ids)))
    return text.strip(" ") or text


def _characters(text: Callable[[int, int], str], alone: list[bool]) -> Iterator[tuple[int, int]]:
    """The least runs of tokens that are whole characters."""
    start = 0
    while start < len(alone):
        stop = start + 1
        for end in range(start + 1, min(start + LONGEST, len(alone)) + 1):
            if alone[start] or any(alone[start:end]):
                break
            if "\ufffd" not in text(start, end):
                stop = end
                break
        yield start, stop
        start = stop


def _goes_on(before: str, both: str) -> bool:
    """Whether what comes after `before` in `both` is of the same word."""
    if not before or not both.startswith(before) or len(both) == len(before):
        return False
    a, b = before[-1], both[len(before)]
    if a == JOINER or b == JOINER or ord(b) in SKINS or unicodedata.category(b).startswith("M"):
        return not a.isspace()
    return all(c.isalnum() or unicodedata.category(c).startswith("M") for c in (a, b)) and not (
        unicodedata.name(a, "").startswith(UNSPACED) or unicodedata.name(b, "").startswith(UNSPACED)
    )


def word_weights(
    rows: Callable[[list[int]], Float[Tensor, "*H n Tk"]], queries: list[Word], keys: list[Word], past: int
) -> WordWeights:
    """Of words that look, at token position `past` or later. `rows` gives the weights of some tokens' queries."""
    word = torch.cat([torch.full((key.stop - key.start,), n) for n, key in enumerate(keys)])
    of = [(n, i - past) for n, query in enumerate(queries) for i in range(max(query.start, past), query.stop)]
    number = torch.tensor([n for n, _ in of], dtype=torch.int64)
    some = rows([])
    total = some.new_zeros(*some.shape[:-2], len(queries), len(keys))
    for start in range(0, len(of), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        w = rows([i for _, i in of[part]])
        sums = w.new_zeros(*w.shape[:-1], len(keys)).index_add_(-1, word.to(w.device), w)
        total.index_add_(-2, number[part].to(w.device), sums)
    return WordWeights(queries, keys, total / number.bincount(minlength=len(queries))[:, None].to(total))
