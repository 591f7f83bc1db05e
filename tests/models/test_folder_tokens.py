"""A folder without tokenizer.json gives the tokens that Transformers makes of its other files."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import (
    BertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    MarianTokenizer,
    Qwen2Tokenizer,
    T5Tokenizer,
    WhisperTokenizer,
)

from clearhead import ClearheadError
from clearhead.models.known import KNOWN
from clearhead.models.loading import load
from clearhead.models.tokens import Tokenizer, Unread, tokenizer_of
from tests.models.families.parity import Pair
from tests.models.families.test_gpt_oss import CONFIGS
from tests.models.test_gguf_tokens import CORPUS, learned
from tests.models.texts import TEXTS


def put(folder: Path, **files: Any) -> Path:
    """JSON files."""
    for name, said in files.items():
        (folder / f"{name}.json").write_text(json.dumps(said))
    return folder


def of(folder: Path) -> Tokenizer:
    tokenizer = tokenizer_of(folder)
    assert tokenizer is not None
    return tokenizer


def assert_same(ours: Tokenizer, theirs: Any, texts: list[str] = TEXTS) -> None:
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, text
        assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def byte_pairs(folder: Path, kind: str, *added: str, **files: Any) -> Path:
    """vocab.json and merges.txt, learned on the texts."""
    vocabulary, merges = learned(kind)
    vocabulary |= {token: len(vocabulary) + n for n, token in enumerate(("<|endoftext|>", *added))}
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return put(folder, vocab=vocabulary, **files)


@pytest.mark.parametrize(
    "said", [{"config": {"model_type": "gpt2"}}, {"tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"}}]
)
def test_gpt_2s_tokens(said: dict[str, Any], tmp_path: Path) -> None:
    ours = of(byte_pairs(tmp_path, "gpt-2", **said))
    assert_same(ours, GPT2Tokenizer.from_pretrained(tmp_path))
    assert ours.ends == (ours.eos_token_id,) == (len(learned("gpt-2")[0]),)
    assert ours.encode("one<|endoftext|>two")[-2:] != ours.encode("one<|endoftext|>")[-2:]


def test_qwens_tokens(tmp_path: Path) -> None:
    more = {"<|im_start|>": 901, "<|im_end|>": 902}
    said = {"eos_token": "<|im_end|>", "additional_special_tokens": list(more)}
    folder = byte_pairs(tmp_path, "qwen2", config={"model_type": "qwen3"}, tokenizer_config=said, added_tokens=more)
    ours = of(folder)
    assert_same(ours, Qwen2Tokenizer.from_pretrained(tmp_path))
    assert ours.encode("<|im_start|>one<|im_end|>")[0::2] == [901, 902]
    assert ours.ends == (902,)


def test_whispers_tokens(tmp_path: Path) -> None:
    size = len(learned("gpt-2")[0]) + 1
    names = ["<|startoftranscript|>", "<|en|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"]
    entries = {
        str(size + n): {"content": name, "special": n < 3, "lstrip": False, "rstrip": False, "normalized": False}
        for n, name in enumerate(names)
    }
    folder = byte_pairs(
        tmp_path, "gpt-2", config={"model_type": "whisper"}, tokenizer_config={"added_tokens_decoder": entries}
    )
    ours, theirs = of(folder), WhisperTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text).input_ids
    assert ours.encode("")[:2] == [size, size + 2]
    assert ours.decode(ours.encode("one<|0.02|>two")) == "one<|0.02|>two"


WORDS = json.loads((KNOWN["minilm"].path or Path()).joinpath("tokenizer.json").read_text())["model"]["vocab"]


@pytest.mark.parametrize(
    "said", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_berts_tokens(said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(WORDS, key=WORDS.__getitem__)) + "\n")
    ours = of(put(tmp_path, config={"model_type": "bert"}, tokenizer_config=said))
    assert_same(ours, BertTokenizer.from_pretrained(tmp_path))
    assert ours.cls_token_id == WORDS["[CLS]"]
    if not said:
        assert ours.encode("Some Ünïcödé text") == of(KNOWN["minilm"].path or Path()).encode("Some Ünïcödé text")


def trained(path: Path, kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece file, learned on the texts."""
    like_llama = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    like_llama |= {"vocab_size": 900}
    like_t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 450}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in CORPUS if "\n" not in text and "\0" not in text),
        model_writer=model,
        model_type=kind,
        minloglevel=3,
        **({"character_coverage": 0.98} | (like_llama if kind == "bpe" else like_t5) | options),
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


MARIAN = {"pad_id": -1, "bos_id": -1, "eos_id": 0, "unk_id": 1}
PLAIN = [text for text in TEXTS if "<s>" not in text and "\0" not in text]
"""Without what SentencePiece takes for text, and for a text's end."""
JAMO = [text for text in TEXTS if re.search("[\u1100-\u11ff]", text)]
"""Korean letters by themselves, which SentencePiece joins into characters, and the package tokenizers does not."""


def test_llama_2s_tokens(tmp_path: Path) -> None:
    piece = trained(tmp_path / "tokenizer.model", "bpe", allow_whitespace_only_pieces=True, split_digits=True)
    ours = of(put(tmp_path, config={"model_type": "llama"}, tokenizer_config={"add_bos_token": True}))
    theirs = LlamaTokenizer.from_pretrained(tmp_path)
    for text in PLAIN:
        assert ours.encode(text) == [1, *piece.encode(text)], text
        assert ours.decode(ours.encode(text)) == text
        if not text.startswith(" "):  # where Transformers 5 leaves one out, unlike SentencePiece
            assert ours.encode(text) == theirs(text).input_ids, text
    assert ours.encode("<s>one</s>", special=False)[:: len(piece.encode("one")) + 1] == [1, 2]


@pytest.mark.parametrize(
    "said", [{"legacy": False}, {"add_prefix_space": False}, {"legacy": False, "add_prefix_space": False}]
)
def test_llama_2s_space_before_a_text_is_put_where_the_folder_says(said: dict[str, Any], tmp_path: Path) -> None:
    trained(tmp_path / "tokenizer.model", "bpe", allow_whitespace_only_pieces=True)
    folder = put(tmp_path, config={"model_type": "llama"}, tokenizer_config={"add_bos_token": True, **said})
    assert_same(of(folder), LlamaTokenizer.from_pretrained(tmp_path), [*PLAIN, "one<s>two", "<s>one</s>", "a <s>  b"])


@pytest.mark.parametrize(
    ("model", "cut", "theirs"), [("gpt2", "gpt-2", GPT2Tokenizer), ("qwen2", "qwen2", Qwen2Tokenizer)]
)
def test_a_space_stands_before_a_text_if_the_folder_says_so(model: str, cut: str, theirs: Any, tmp_path: Path) -> None:
    folder = byte_pairs(tmp_path, cut, config={"model_type": model}, tokenizer_config={"add_prefix_space": True})
    ours = of(folder)
    assert_same(ours, theirs.from_pretrained(folder))
    assert ours.convert_ids_to_tokens(ours.encode("ab"))[0].startswith("Ġ")


def test_marians_tokens(tmp_path: Path) -> None:
    source, target = (
        trained(tmp_path / f"{side}.spm", "unigram", vocab_size=size, **MARIAN)
        for side, size in {"source": 400, "target": 450}.items()
    )
    pieces = [
        "</s>",
        "<unk>",
        *(piece.id_to_piece(n) for piece in (source, target) for n in range(2, piece.vocab_size())),
    ]
    names = dict.fromkeys([*pieces, ">>fr<<", "<pad>"])
    vocabulary = {piece: n for n, piece in enumerate(names)}
    ours = of(put(tmp_path, vocab=vocabulary, config={"model_type": "marian"}))
    with pytest.warns(UserWarning, match="sacremoses"):
        theirs = MarianTokenizer.from_pretrained(tmp_path)
    known = [text for text in PLAIN if text not in JAMO and source.unk_id() not in source.encode(text)]
    assert len(known) > 20
    assert len(vocabulary) > 410  # and the target has some of its own
    for text in [*known, ">>fr<< one two"]:
        assert ours.encode(text) == theirs(text).input_ids, text
    assert ours.encode(">>fr<<", special=False) == [vocabulary[">>fr<<"]]
    written = [vocabulary[target.id_to_piece(n)] for n in target.encode("Hello there, world")]
    assert ours.decode([*written, 0]) == theirs.decode([*written, 0], skip_special_tokens=True) == "Hello there, world"
    trained(tmp_path / "source.spm", "bpe")
    with pytest.raises(ClearheadError, match=r"source\.spm' are of type 2 \(BPE\); of Marian's Clearhead reads 1"):
        tokenizer_of(tmp_path)


def test_gemmas_tokens(tmp_path: Path) -> None:
    pieces = {"bos_piece": "<bos>", "eos_piece": "<eos>", "pad_piece": "<pad>", "user_defined_symbols": ["<turn>"]}
    piece = trained(
        tmp_path / "tokenizer.model", "bpe", **pieces, pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False
    )
    ours = of(put(tmp_path, config={"model_type": "gemma2"}))
    for text in ["<turn>one", *PLAIN]:
        assert ours.encode(text) == [2, *piece.encode(text)], text
        assert ours.decode(ours.encode(text)) == text
    assert ours.bos_token_id == 2


@pytest.mark.parametrize(
    ("said", "ends"), [({}, (1, None)), ({"add_eos_token": True}, (1, 2)), ({"add_bos_token": False}, (None, None))]
)
def test_the_ends_are_added_as_the_folder_says(said: dict[str, Any], ends: tuple[Any, Any], tmp_path: Path) -> None:
    piece = trained(tmp_path / "tokenizer.model", "bpe")
    ours = of(put(tmp_path, config={"model_type": "llama"}, tokenizer_config=said))
    first, last = ends
    assert ours.encode("two") == [*([first] if first else []), *piece.encode("two"), *([last] if last else [])]


def test_t5s_tokens(tmp_path: Path) -> None:
    piece = trained(tmp_path / "spiece.model", "unigram")
    ours = of(put(tmp_path, config={"model_type": "t5"}))
    theirs = T5Tokenizer.from_pretrained(tmp_path)
    for text in PLAIN:
        assert ours.encode(text) == theirs(text).input_ids, text
        if text not in JAMO:
            assert ours.encode(text) == [*piece.encode(text), 1], text
            assert ours.decode(ours.encode(text)) == piece.decode(piece.encode(text)).replace(" ⁇ ", ""), text
    assert ours.encode("<extra_id_0>", special=False) == [549]
    assert ours.encode("<extra_id_99>", special=False) == [450]


def test_a_class_that_is_not_known_is_named(tmp_path: Path) -> None:
    folder = byte_pairs(tmp_path, "gpt-2", config={"model_type": "clip"})
    with pytest.raises(ClearheadError, match=r"has no tokenizer\.json, and its tokenizer is clip's; of other files"):
        tokenizer_of(folder)
    put(folder, tokenizer_config={"tokenizer_class": "CLIPTokenizer"})
    with pytest.raises(ClearheadError, match=r"is CLIPTokenizer; .*makes GPT2Tokenizer, .*\.save_pretrained\('.*'\)"):
        tokenizer_of(folder)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"vocab": {"a": 0}}, r"would be number 1; expected 7|cannot be read"),
        ({"vocab": [1]}, r"holds \[1\]; expected an object"),
        ({"special_tokens_map": None}, r"special_tokens_map\.json' holds null; expected an object"),
        (
            {"special_tokens_map": {"unk_token": {}}},
            r"_map\.json' says unk_token = \{\}; expected a text",
        ),
        (
            {"tokenizer_config": {"tokenizer_class": 3}},
            r"_config\.json' says tokenizer_class = 3; expected a valid",
        ),
        ({"config": {}}, r"its tokenizer is one that neither tokenizer_config\.json nor config\.json names; of oth"),
        ({"added_tokens": {"<x>": 7}}, r"The token '<x>' in '.*' would be number \d+; expected 7\. The files are not"),
    ],
)
def test_files_that_are_broken_are_named(files: dict[str, Any], why: str, tmp_path: Path) -> None:
    folder = put(byte_pairs(tmp_path, "gpt-2", config={"model_type": "gpt2"}), **files)
    with pytest.raises(ClearheadError, match=why):
        tokenizer_of(folder)


def test_ends_that_are_in_no_vocabulary_are_named(tmp_path: Path) -> None:
    folder = byte_pairs(tmp_path, "gpt-2", config={"model_type": "whisper"})
    with pytest.raises(ClearheadError, match=r"but <\|startoftranscript\|>, <\|notimestamps\|> is in no vocabulary"):
        tokenizer_of(folder)


def test_a_tokenizer_that_cannot_be_read_is_complained_of_when_it_is_wanted(tmp_path: Path) -> None:
    pair = Pair(CONFIGS["as it is"], tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"YQ== 0\nYg== 1\n")
    put(tmp_path, tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    model = load(tmp_path)
    assert model(pair.tokens).shape == pair.ours(pair.tokens).shape
    assert isinstance(model.tokenizer, Unread)
    with pytest.raises(ClearheadError, match=r"tokenizer\.model' cannot be read as a file of SentencePiece"):
        model.generate("one")
    with pytest.raises(ClearheadError, match="cannot be read as a file of SentencePiece"):
        _ = model.tokenizer.ends
    model.tokenizer = None
    assert len(model.generate([3, 4], max_new_tokens=2).tokens) == 2
