"""A GGUF file's tokenizer gives the tokens that the tokenizer it was made from gives, whatever its kind."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import Regex, pre_tokenizers
from transformers import GPT2Tokenizer, Qwen2Tokenizer

from clearhead import ClearheadError
from clearhead.models.gguf_tokens import backend_of
from clearhead.models.tokens import Tokenizer
from tests.models.texts import TEXTS

CORPUS = [text * 2 for text in TEXTS if len(text) < 200]


def cut_as(kind: str) -> Any:
    """How the models of a kind cut a text, by the tokenizer.json that they are published with."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    if kind == "gpt-2":
        return level
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    if kind == "gpt-4o":  # o200k, as tiktoken has it
        words = "|".join(
            [
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            ]
        )
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated", invert=False), level])
    numbers = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[kind]
    words = (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated", invert=False), level])


def learned(kind: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of byte pairs, learned on the texts."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = cut_as(kind)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def byte_level(kind: str) -> tuple[Any, dict[str, Any]]:
    """A tokenizer of byte pairs as Transformers has it, and what a GGUF file says of it."""
    vocabulary, merges = learned(kind)
    made = Qwen2Tokenizer if kind == "qwen2" else GPT2Tokenizer
    vocabulary["<|endoftext|>"] = len(vocabulary)
    theirs = made(vocab=vocabulary, merges=merges)
    if kind in ("smollm", "llama-bpe", "gpt-4o"):
        theirs.backend_tokenizer.pre_tokenizer = cut_as(kind)
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": list(vocabulary),
        "tokenizer.ggml.token_type": [1] * (len(vocabulary) - 1) + [3],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.add_bos_token": False,
    }
    return theirs, said


KINDS = ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o"]


@pytest.mark.parametrize("kind", KINDS)
def test_byte_pairs_give_the_tokens_of_transformers(kind: str) -> None:
    theirs, said = byte_level(kind)
    ours = Tokenizer(backend_of(Path("a.gguf"), said))
    whole = "<|endoftext|>"
    for text in [*TEXTS, f"one{whole}two {whole}"]:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_ways_to_cut_a_text_differ_on_these_texts() -> None:
    said = {kind: byte_level(kind)[1] for kind in KINDS}
    cuts = set()
    for cut in said:
        ours = Tokenizer(backend_of(Path("a.gguf"), said["gpt-2"] | {"tokenizer.ggml.pre": cut}))
        cuts.add(str([ours.backend.pre_tokenizer.pre_tokenize_str(text) for text in TEXTS]))
    assert len(cuts) == len(KINDS)


def test_a_word_of_llama_3_that_is_a_token_stays_whole_whatever_the_merges() -> None:
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["a", "b", "c", "bc", "ab", "abc"],
        "tokenizer.ggml.merges": ["b c", "a b", "ab c"],
        "tokenizer.ggml.add_bos_token": False,
    }
    assert Tokenizer(backend_of(Path("a.gguf"), said)).encode("abc") == [5]
    assert Tokenizer(backend_of(Path("a.gguf"), said | {"tokenizer.ggml.pre": "gpt-2"})).encode("abc") == [0, 3]


@pytest.fixture(scope="module")
def piece() -> Any:
    """A tokenizer like Llama 2's, learned on the texts."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in CORPUS if "\n" not in text and "\0" not in text),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        minloglevel=3,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def described(piece: Any) -> dict[str, Any]:
    """What a GGUF file says of it."""
    size = range(piece.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.id_to_piece(n) for n in size],
        "tokenizer.ggml.scores": [piece.get_score(n) for n in size],
        "tokenizer.ggml.token_type": [
            2 if piece.is_unknown(n) else 3 if piece.is_control(n) else 6 if piece.is_byte(n) else 1 for n in size
        ],
        "tokenizer.ggml.unknown_token_id": piece.unk_id(),
        "tokenizer.ggml.bos_token_id": piece.bos_id(),
        "tokenizer.ggml.eos_token_id": piece.eos_id(),
    }


def test_pieces_give_the_tokens_of_sentencepiece(piece: Any) -> None:
    ours = Tokenizer(backend_of(Path("a.gguf"), described(piece)))
    for text in TEXTS:
        if "<s>" in text or "\0" in text:  # which SentencePiece takes for text, and for the text's end
            continue
        ids = ours.encode(text)
        assert ids == [piece.bos_id(), *piece.encode(text)], text
        assert ours.decode(ids) == text
        stream = ours.stream()
        assert "".join([*(stream.add(token) for token in ids), stream.rest()]) == text


def test_pieces_without_a_space_before_the_text(piece: Any) -> None:
    ours = Tokenizer(backend_of(Path("a.gguf"), described(piece) | {"tokenizer.ggml.add_space_prefix": False}))
    assert ours.encode("two", special=False) != piece.encode("two")
    assert all(ours.decode(ours.encode(text)) == text for text in (" two", "two", "  two "))


def test_the_ends_are_added_as_the_file_says(piece: Any) -> None:
    said, inner = described(piece), piece.encode("two")
    for add, ids in {
        (True, True): [1, *inner, 2],
        (False, True): [*inner, 2],
        (True, False): [1, *inner],
        (False, False): inner,
    }.items():
        ends = {"tokenizer.ggml.add_bos_token": add[0], "tokenizer.ggml.add_eos_token": add[1]}
        ours = Tokenizer(backend_of(Path("a.gguf"), said | ends))
        assert ours.encode("two") == ids
        assert ours.encode("two", special=False) == inner


def test_llama_3_begins_with_its_token_where_the_file_is_silent() -> None:
    _, said = byte_level("llama-bpe")
    said |= {"tokenizer.ggml.bos_token_id": 900}
    del said["tokenizer.ggml.add_bos_token"]
    assert Tokenizer(backend_of(Path("a.gguf"), said)).encode("one")[0] == 900
    said["tokenizer.ggml.pre"] = "gpt-2"
    assert Tokenizer(backend_of(Path("a.gguf"), said)).encode("one")[0] != 900


def test_tokens_that_a_models_makers_added_stand_whole_and_are_no_special_ones() -> None:
    _, said = byte_level("gpt-2")
    said["tokenizer.ggml.tokens"] = [*said["tokenizer.ggml.tokens"], "<think>"]
    said["tokenizer.ggml.token_type"] = [*said["tokenizer.ggml.token_type"], 4]
    ours = Tokenizer(backend_of(Path("a.gguf"), said))
    assert ours.encode("<think>") == [len(said["tokenizer.ggml.tokens"]) - 1]
    assert ours.decode(ours.encode("a <think> b")) == "a <think> b"


def test_a_tokenizer_that_is_broken_is_named() -> None:
    _, said = byte_level("gpt-2")
    said["tokenizer.ggml.merges"] = ["no such"]
    with pytest.raises(ClearheadError, match=r"The tokenizer of 'a\.gguf' cannot be read \(.*\); get it again"):
        backend_of(Path("a.gguf"), said)


@pytest.mark.parametrize(("kind", "cut"), [("bert", "default"), ("gpt2", "tekken"), (None, "default")])
def test_a_kind_that_is_not_known_is_named(kind: str | None, cut: str) -> None:
    said = {"tokenizer.ggml.model": kind, "tokenizer.ggml.pre": cut}
    with pytest.raises(ClearheadError, match=rf"The tokenizer of 'a\.gguf' is of kind {kind!r}, cut as '{cut}'; exp"):
        backend_of(Path("a.gguf"), said)
