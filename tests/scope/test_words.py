"""Tokens are shown as the text they are, and the ones that part a text are known."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clearhead.scope.pieces import words_of
from clearhead.scope.words import kinds, spelled, texts


def tokenizer(model, decoder=None, before=None, **special):
    inner = Tokenizer(model)
    if decoder:
        inner.decoder = decoder
    if before:
        inner.pre_tokenizer = before
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def byte_level(*tokens):
    vocabulary = {token: n for n, token in enumerate(tokens)}
    return tokenizer(
        models.BPE(vocabulary, []),
        decoders.ByteLevel(),
        pre_tokenizers.ByteLevel(),
        bos_token="<s>",
        eos_token="</s>",
    )


def word_piece(*tokens):
    vocabulary = {token: n for n, token in enumerate(tokens)}
    model = models.WordPiece(vocabulary, unk_token="[UNK]")
    return tokenizer(model, decoders.WordPiece(), cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def test_spaces_and_newlines_are_in_the_text():
    words = byte_level("Ġthe", "Ċ", "cat", "<s>", "</s>")
    assert texts(words, torch.tensor([0, 1, 2]), 3) == [" the", "\n", "cat"]


def test_a_piece_of_a_character_is_shown_as_its_bytes_and_never_in_the_vocabularys_letters():
    words = byte_level("ðŁ", "a", "ĠðŁ", "<0xF0>", "<s>", "</s>")
    assert texts(words, torch.tensor([0, 1, 2]), 3) == ["\\xf0\\x9f", "a", " \\xf0\\x9f"]
    assert spelled(words, torch.tensor([0, 1, 2]), 3) == ["\udcf0\udc9f", "a", " \udcf0\udc9f"]
    assert [word.text for word in words_of(words, torch.tensor([1, 2]))] == ["a", "\\xf0\\x9f"]


def test_a_byte_of_sentence_pieces_is_shown_as_all_bytes_are():
    inner = Tokenizer(models.WordLevel({"▁a": 0, "<0xF0>": 1, "<0x41>": 2, "<unk>": 3}, unk_token="<unk>"))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert texts(words, torch.tensor([0, 1, 2]), 3) == [" a", "\\xf0", "A"]


def test_a_piece_of_a_word_keeps_its_mark():
    assert texts(word_piece("[CLS]", "play", "##ing", "[SEP]", "[UNK]"), torch.tensor([0, 1, 2]), 3) == [
        "[CLS]",
        "play",
        "##ing",
    ]


def test_without_a_tokenizer_tokens_are_numbers_and_without_tokens_positions():
    assert texts(None, torch.tensor([7, 4]), 2) == ["7", "4"]
    assert texts(None, None, 3) == ["0", "1", "2"]


def test_delimiters_are_punctuation_newlines_and_separators_but_not_what_begins_a_text():
    words = byte_level("<s>", "</s>", ".", "Ġ,", "Ċ", "the", "Ġ", "...")
    assert kinds(words, torch.arange(8)).delimiter == {1, 2, 3, 4, 7}
    pieces = word_piece("[CLS]", "[SEP]", "[UNK]", "a", "!")
    assert kinds(pieces, torch.arange(5)).delimiter == {1, 4}
    assert kinds(None, torch.arange(5)) is None


def test_special_tokens_and_punctuation_are_known():
    words = byte_level("<s>", "</s>", ".", "Ġ(", "Ċ", "the", "Ġ", '."', "+", "n't")
    found = kinds(words, torch.arange(10))
    assert (found.special_tokens, found.punctuation) == ({0, 1}, {2, 3, 7})
    assert found.among(torch.tensor([[5, 7, 1]]))["punctuation"].tolist() == [[False, True, False]]
