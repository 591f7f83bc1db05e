"""Texts become the tokens that Transformers makes of them, and come back, whole or piece by piece."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import pre_tokenizers

from clearhead import ClearheadError
from clearhead.models.checkpoints import open_model
from clearhead.models.known import KNOWN
from clearhead.models.tokens import Tokenizer, tokenizer_of
from clearhead.scope import words
from tests.models.texts import TEXTS
from tests.models.weights.writing import write


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return _of("smollm2")


def _of(name: str) -> Tokenizer:
    path = KNOWN[name].path
    assert path is not None
    tokenizer = tokenizer_of(path)
    assert tokenizer is not None
    return tokenizer


def test_there_are_a_hundred_hard_texts() -> None:
    assert len(set(TEXTS)) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_tokens_and_texts_are_those_of_transformers(name: str) -> None:
    ours, theirs = _of(name), open_model(name).tokenizer
    theirs.model_max_length = 10**6
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, text
        assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.slow
def test_tokens_of_smollm2_are_those_of_its_own_way_to_cut_a_text(smollm2: Tokenizer) -> None:
    theirs = open_model("smollm2").tokenizer
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)  # as its tokenizer.json on the hub has it
    assert all(smollm2.encode(text) == theirs(text).input_ids for text in TEXTS)


@pytest.mark.parametrize("text", [text for text in TEXTS if len(text) < 200])
def test_a_text_comes_back_whole_or_piece_by_piece(text: str, smollm2: Tokenizer) -> None:
    stream = smollm2.stream()
    pieces = [stream.add(token) for token in smollm2.encode(text)]
    assert stream.rest() == ""
    without = re.sub(r"<\|\w+\|>", "", text)
    assert "".join(pieces) == smollm2.decode(smollm2.encode(text)) == without
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_character_that_never_becomes_whole_is_held_back_to_the_end(smollm2: Tokenizer) -> None:
    stream = smollm2.stream()
    ids = smollm2.encode("so 𐍈")
    pieces = [stream.add(token) for token in ids[:-1]]
    assert "".join(pieces) == "so "
    assert stream.rest() == smollm2.decode(ids[:-1]).removeprefix("so ")
    assert stream.rest() == ""


def test_a_stream_takes_no_longer_as_the_text_grows(smollm2: Tokenizer) -> None:
    stream = smollm2.stream()
    for token in smollm2.encode("one two three " * 200):
        stream.add(token)
        assert len(stream.ids) - stream.start <= 2


def test_a_talk_is_written_as_transformers_writes_it(smollm2: Tokenizer) -> None:
    template = open_model("smollm2").tokenizer.apply_chat_template
    talk = [{"role": "user", "content": "Is <b> é?"}, {"role": "assistant", "content": "Yes"}]
    for messages in (talk[:1], [*talk, talk[0]], [{"role": "system", "content": "Be brief."}, talk[0]]):
        assert smollm2.chat(messages) == template(messages, add_generation_prompt=True)["input_ids"]


def folder(path: Path, **files: Any) -> Path:
    """A folder with a tokenizer of three words, and JSON files."""
    words = {word: n for n, word in enumerate(("[UNK]", "one", "two", "<end>", "<stop>"))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<end>", "<stop>"])
    backend.enable_truncation(2)
    backend.enable_padding(length=4)
    backend.save(str(path / "tokenizer.json"))
    for name, said in files.items():
        (path / f"{name}.json").write_text(json.dumps(said))
    return path


def test_a_folders_tokenizer_neither_cuts_nor_pads(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder(tmp_path))
    assert tokenizer is not None
    assert tokenizer.encode("one two one") == [1, 2, 1]
    assert tokenizer.encode("one") == [1]


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, ()),
        ({"tokenizer_config": {"eos_token": "<end>"}}, (3,)),
        ({"tokenizer_config": {"eos_token": {"content": "<stop>", "lstrip": False}}}, (4,)),
        ({"config": {"eos_token_id": 4}, "tokenizer_config": {"eos_token": "<end>"}}, (4,)),
        ({"generation_config": {"eos_token_id": [4, 3]}, "config": {"eos_token_id": 3}}, (4, 3)),
        ({"config": {"eos_token_id": None}}, ()),
    ],
)
def test_the_ends_are_what_the_folder_says(files: dict[str, Any], ends: tuple[int, ...], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder(tmp_path, **files))
    assert tokenizer is not None
    assert tokenizer.ends == ends


TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{{ eos_token }}"


@pytest.mark.parametrize("kept", ["string", "list", "file"])
def test_a_template_is_found_wherever_it_is_kept(kept: str, tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "two"}, {"name": "default", "template": TEMPLATE}]
    said = {"string": TEMPLATE, "list": several, "file": None}[kept]
    if kept == "file":
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    files = {"tokenizer_config": {"eos_token": "<end>"} | ({"chat_template": said} if said else {})}
    tokenizer = tokenizer_of(folder(tmp_path, **files))
    assert tokenizer is not None
    assert tokenizer.chat([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]) == [1, 2, 3]


def test_a_template_that_refuses_or_does_harm_is_a_sentence(tmp_path: Path, smollm2: Tokenizer) -> None:
    with pytest.raises(ClearheadError, match="chat: this model has no chat template"):
        Tokenizer(smollm2.backend).chat([])
    for template, why in {
        "{{ raise_exception('roles must take turns') }}": r"refuses these messages: roles must take turns\.",
        "{{ messages.__class__.__mro__ }}": r"fails \(SecurityError: .*unsafe",
        "{% if %}": "is no Jinja that can be read",
    }.items():
        with pytest.raises(ClearheadError, match=why):
            Tokenizer(smollm2.backend, template=template).chat([{"role": "user", "content": "one"}])


def test_a_checkpoint_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert tokenizer_of(tmp_path) is None
    assert tokenizer_of(write(tmp_path / "a.gguf", {}, {})) is None


def test_a_broken_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ClearheadError, match=r"config\.json' cannot be read as JSON"):
        tokenizer_of(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ClearheadError, match=r"The tokenizer '.*tokenizer\.json' cannot be read \(.*\); get it again"):
        tokenizer_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"tokenizer_config": []}, r"tokenizer_config\.json' holds \[\]; expected an object"),
        ({"config": []}, r"config\.json' holds \[\]; expected an object"),
        ({"generation_config": None}, r"generation_config\.json' holds null; expected an object"),
        (
            {"tokenizer_config": {"unk_token": {}}},
            r"_config\.json' says unk_token = \{\}; expected a text, or",
        ),
        (
            {"tokenizer_config": {"chat_template": [{"template": "a"}]}},
            r"says chat_template = .*; expected a text, or a",
        ),
        ({"tokenizer_config": {"chat_template": 3}}, "says chat_template = 3; expected a text, or a list"),
        ({"config": {"eos_token_id": "12"}}, r"/config\.json' says eos_token_id\.0 = '12'; expected a valid int"),
        ({"config": {"eos_token_id": [3, None]}}, r"says eos_token_id\.1 = None; expected a valid integer"),
    ],
)
def test_files_beside_the_tokenizer_that_are_broken_are_named(files: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=why):
        tokenizer_of(folder(tmp_path, **files))


def test_the_package_that_it_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ClearheadError, match=r"needs tokenizers; get it with: pip install 'clearhead\[hf\]'"):
        _of("minilm")


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_a_watch_reads_tokens_as_it_does_by_transformers(name: str) -> None:
    ours, theirs = _of(name), open_model(name).tokenizer
    text = "Hello, <|im_start|>world!\nIt's 10 °C — “so”. 日本 [SEP] unaffable"
    ids = torch.tensor(ours.encode(text))
    assert isinstance(ours, words.Tokenizer)
    assert words.texts(ours, ids, len(ids)) == words.texts(theirs, ids, len(ids))
    assert words.kinds(ours, ids) == words.kinds(theirs, ids)
