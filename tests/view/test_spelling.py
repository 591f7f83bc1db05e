"""What a page knows of a text's words, sentences and bytes is what its tokenizer says."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel

import clearhead as ch
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.pieces import words_of
from clearhead.view.scene import Scene
from clearhead.view.spelling import queries, sentences
from clearhead.view.terminal import visible


@pytest.fixture(scope="module")
def minilm() -> Opened:
    return open_model("minilm")


@pytest.fixture(scope="module")
def smollm2() -> Opened:
    return open_model("smollm2")


def scene(opened: Opened, *texts: str) -> Scene:
    with ch.watch(opened.model, opened.tokenizer, layers=0) as seen, torch.no_grad():
        opened.model(**opened.tokenizer(*texts, return_tensors="pt"))
    return Scene(seen)


def test_words_are_those_of_the_layer(minilm: Opened) -> None:
    shown = scene(minilm, "Unbelievable tokenisations!")
    words = shown.contents["words"]
    expected = words_of(minilm.tokenizer, torch.tensor(minilm.tokenizer("Unbelievable tokenisations!").input_ids))
    assert words == [{"starts": [w.start for w in expected], "texts": [w.text for w in expected]}]
    assert words[0]["texts"] == ["[CLS]", "unbelievable", "tokenisations", "!", "[SEP]"]


def test_a_pair_is_two_sentences_and_a_text_is_one(minilm: Opened) -> None:
    inputs = minilm.tokenizer("The cat sat.", "It was happy.")
    assert scene(minilm, "The cat sat.", "It was happy.").contents["segments"] == [inputs["token_type_ids"]]
    assert scene(minilm, "The cat sat. It was happy.").contents["segments"] == [None]


def test_padding_is_of_the_last_sentence(minilm: Opened) -> None:
    inputs = minilm.tokenizer("The cat sat.", padding="max_length", max_length=12)
    assert 0 in inputs["attention_mask"]
    assert sentences(minilm.tokenizer, torch.tensor(inputs["input_ids"])) is None


def test_pieces_of_characters_are_given_as_their_bytes(smollm2: Opened) -> None:
    text = "no 👨‍👩‍👧 שלום 日本語 é"
    shown = scene(smollm2, text).contents
    (tokens,) = shown["texts"]
    assert "".join(tokens).encode(errors="surrogateescape").decode() == text
    assert any("\udc80" <= letter <= "\udcff" for token in tokens for letter in token)
    assert shown["title"] == text
    assert shown["read"] == [text]
    assert json.loads(json.dumps(shown["texts"])) == [tokens]


def test_letters_of_the_byte_alphabet_that_are_text_stay_text(smollm2: Opened) -> None:
    shown = scene(smollm2, "é ð Ÿ naïve").contents["texts"][0]
    assert "".join(shown).encode(errors="surrogateescape").decode() == "é ð Ÿ naïve"
    assert " é" in shown or "é" in shown


def test_without_a_tokenizer_nobody_can_say() -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config).eval()
    with ch.watch(model) as seen, torch.no_grad():
        model(torch.arange(6)[None])
    shown = Scene(seen)
    assert shown.contents["words"] == shown.contents["segments"] == shown.contents["read"] == [None]
    assert shown.contents["texts"] == [list("012345")]


def test_of_a_step_of_generation_all_keys_have_words(smollm2: Opened) -> None:
    ids = smollm2.tokenizer("Unbelievable tokenisations", return_tensors="pt")["input_ids"]
    with ch.watch(smollm2.model, smollm2.tokenizer, layers=0) as seen, torch.no_grad():
        past = smollm2.model(ids[:, :-1]).past_key_values
        smollm2.model(ids[:, -1:], past_key_values=past)
    shown = Scene(seen).contents
    of_keys = shown["words"][shown["layers"][0]["keys"]]
    assert "".join(of_keys["texts"]) == "Unbelievabletokenisations"


def test_bytes_are_written_out_where_there_is_only_plain_text(smollm2: Opened) -> None:
    text = "so 🦙!"
    layer = scene(smollm2, text).layers[0]
    told = layer.queries()
    assert layer.keys() == told
    spelt = "".join(told)
    assert spelt == "so " + "".join(f"\\x{byte:02x}" for byte in "🦙".encode()) + "!"
    assert not any(letter in spelt for letter in "ðŁ")
    assert [visible(token) for token in queries(layer)] == [token.replace(" ", "·") for token in told]
