"""SentencePiece's file, `tokenizer.model`: a protocol buffer, told by the names that a GGUF file has for the same."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError, shortened

KINDS = {1: "t5", 2: "llama"}
"""llama.cpp's names of what SentencePiece calls unigram and BPE."""


def read_sentencepiece(path: Path) -> dict[str, Any]:
    """What a SentencePiece file says, as a GGUF file's metadata would.

    Raises ClearheadError as `check_sentencepiece` does, and if its pieces are neither unigram nor BPE, or end words.
    """
    said, training = check_sentencepiece(path)
    kind = training.get(3, 1)
    if kind not in KINDS:
        raise ClearheadError(
            f"The tokenizer '{path}' is of SentencePiece's type {shortened(repr(kind))}; expected 1 (unigram) or "
            "2 (BPE)."
        )
    if training.get(24):
        raise ClearheadError(
            f"The tokenizer '{path}' marks a word's end rather than its beginning (treat_whitespace_as_suffix), which "
            "Clearhead does not read. Get the model as a folder with tokenizer.json."
        )
    return said | {"tokenizer.ggml.model": KINDS[kind]}


def check_sentencepiece(path: Path) -> tuple[dict[str, Any], dict[int, Any]]:
    """What a SentencePiece file of any type says: of its pieces, and of how they were learned.

    Raises ClearheadError if the file is no SentencePiece file, or if what it says does not fit together.
    """
    from clearhead.models.fields import check  # with pydantic, which only reading a model needs
    from clearhead.models.tokenizer_fields import GgufTokenizer

    try:
        model = list(_fields(path.read_bytes()))
        pieces = [dict(_fields(value)) for number, value in model if number == 1]
        training, normalising = (dict(_fields(dict(model).get(number, b""))) for number in (2, 3))
        tokens = [piece[1].decode("utf-8") for piece in pieces]
        scores = [struct.unpack("<f", piece.get(2, bytes(4)))[0] for piece in pieces]
        if not tokens:
            raise ValueError("no pieces")
    except (ValueError, LookupError, TypeError, AttributeError, OSError, struct.error) as error:
        raise ClearheadError(
            f"The tokenizer '{path}' cannot be read as a file of SentencePiece: it is of another kind, or broken; "
            "get it again."
        ) from error
    said = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [piece.get(3, 1) for piece in pieces],
        "tokenizer.ggml.unknown_token_id": training.get(40, 0),
        "tokenizer.ggml.add_space_prefix": bool(normalising.get(3, 1)),
        "tokenizer.ggml.remove_extra_whitespaces": bool(normalising.get(4, 1)),
        "tokenizer.ggml.precompiled_charsmap": normalising.get(2, b""),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    check(GgufTokenizer, said, path)
    return said, training


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Each field of a message: its number, and a whole number or bytes, by the wire's type."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(data):
            raise ValueError("a field goes beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, the lowest first; and where the next thing begins."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
