"""A SentencePiece file says here what SentencePiece says of it; a broken one, or one of another kind, is named."""

import contextlib
import random
from pathlib import Path

import pytest

from clearhead import ClearheadError
from clearhead.models.sentencepiece_file import read_sentencepiece
from tests.models.test_folder_tokens import trained


def test_a_file_says_what_sentencepiece_says_of_it(tmp_path: Path) -> None:
    for kind in ("bpe", "unigram"):
        piece, said = trained(tmp_path / "a.model", kind), read_sentencepiece(tmp_path / "a.model")
        size = range(piece.vocab_size())
        assert said["tokenizer.ggml.tokens"] == [piece.id_to_piece(n) for n in size]
        assert said["tokenizer.ggml.scores"] == [piece.get_score(n) for n in size]
        assert [n for n in size if said["tokenizer.ggml.token_type"][n] == 3] == [
            n for n in size if piece.is_control(n)
        ]
        assert said["tokenizer.ggml.unknown_token_id"] == piece.unk_id()


def test_a_sentencepiece_file_that_is_broken_anywhere_is_read_or_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    trained(file, "bpe")
    data, generator, raised = file.read_bytes(), random.Random(0), 0
    for length in range(0, len(data), 241):
        file.write_bytes(data[:length])
        with contextlib.suppress(ClearheadError):
            read_sentencepiece(file)
    for _ in range(100):
        broken = bytearray(data)
        for _ in range(3):
            broken[generator.randrange(len(data))] = generator.randrange(256)
        file.write_bytes(broken)
        try:
            read_sentencepiece(file)
        except ClearheadError:
            raised += 1
    assert raised > 20


def test_pieces_of_other_types_are_named(tmp_path: Path) -> None:
    trained(tmp_path / "tokenizer.model", "char", vocab_size=100)
    with pytest.raises(
        ClearheadError, match=r"tokenizer\.model' is of SentencePiece's type 4; expected 1 \(unigram\) or 2"
    ):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_pieces_that_end_words_are_refused(tmp_path: Path) -> None:
    trained(tmp_path / "tokenizer.model", "unigram", treat_whitespace_as_suffix=True)
    with pytest.raises(ClearheadError, match=r"marks a word's end rather than its beginning \(treat_whitespace_as_suf"):
        read_sentencepiece(tmp_path / "tokenizer.model")
