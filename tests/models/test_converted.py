"""GGUF files are converted once for each content, and read by the tokenizer that `load` gives."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models import converted
from clearhead.models.checkpoints import open_model
from clearhead.models.converted import cache_folder, clear_cache, copies
from clearhead.models.weights import Weights
from clearhead.models.weights.gguf_file import read_gguf
from tests.models.test_checkpoints import logits
from tests.models.weights.writing import write

NUMBERS: dict[str, Any] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 32,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
}


def shapes_of(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The weights of a Llama of these numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (vocabulary, 32),
        "output_norm": (32,),
        "output": (vocabulary, 32),
    }
    block: dict[str, tuple[int, ...]] = {"attn_norm": (32,), "ffn_norm": (32,)}
    block |= dict.fromkeys(("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), (32, 32))
    block |= {"attn_k": (16, 32), "attn_v": (16, 32)}
    return shapes | {f"blk.{n}.{name}": shape for n in range(2) for name, shape in block.items()}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a tiny Llama whose tokens are the characters of ASCII."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens = [chr(code) for code in range(33, 127)] + ["Ġ", "Ġa", "<|end|>"]
    random = np.random.default_rng(0)
    shapes = shapes_of(len(tokens))
    tensors = {f"{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    said = {f"llama.{key}": value for key, value in NUMBERS.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["Ġ a"],
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
        "tokenizer.ggml.bos_token_id": len(tokens) - 1,
    }
    return write(path, tensors, said)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEARHEAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(written: Path, cache: Path, tmp_path: Path) -> Path:
    """The GGUF file, at a place of its own and not converted yet."""
    return Path(shutil.copy(written, tmp_path))


def test_a_gguf_file_is_converted_once(tiny: Path, cache: Path) -> None:
    said: list[str] = []
    first = open_model(str(tiny), report=said.append)
    second = open_model(str(tiny), report=said.append)
    assert [re.split("[ ,]", what)[0] for what in said] == ["converting", "opening", "opening"]
    assert (first.architecture, first.context) == ("LlamaForCausalLM", 64)
    assert torch.equal(logits(first, "a cat"), logits(second, "a cat"))
    assert [path.name.split("-")[0] for path in cache.iterdir()] == ["gguf"]


def test_the_copy_has_the_weights_of_the_file(tiny: Path) -> None:
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny).tensors}
    model = open_model(str(tiny)).model.model
    assert np.array_equal(stored["token_embd.weight"], model.embed_tokens.weight.detach().numpy())
    assert np.array_equal(stored["blk.1.ffn_up.weight"], model.layers[1].mlp.up_proj.weight.detach().numpy())


def test_the_same_bytes_have_one_copy_wherever_they_lie_and_other_bytes_another(
    tiny: Path, cache: Path, tmp_path: Path
) -> None:
    open_model(str(tiny))
    os.utime(tiny, ns=(0, 0))
    (tmp_path / "other").mkdir()
    open_model(shutil.copy(tiny, tmp_path / "other" / "name.gguf"))
    assert len(list(cache.iterdir())) == 1
    data = bytearray(tiny.read_bytes())
    data[-1] ^= 1  # in the last weight
    tiny.write_bytes(data)
    open_model(str(tiny))
    assert len(list(cache.iterdir())) == 2


def test_a_conversion_removes_copies_of_earlier_forms_and_those_unused_for_a_month(tiny: Path, cache: Path) -> None:
    cache.mkdir()
    day = 24 * 3600
    names = [
        "tiny-0123456789abcdef",
        "gguf-0-" + "0" * 32,
        "gguf-1-" + "1" * 32,
        "gguf-1-" + "2" * 32,
        "mine-" + "a" * 16,
    ]
    for name, age in zip(names, (0, 0, 31, 29, 99), strict=True):
        (cache / name).mkdir()
        if name != names[-1]:
            (cache / name / "config.json").write_text("{}")
        os.utime(cache / name, (time.time() - age * day,) * 2)
    assert copies() == sorted(cache / name for name in names[:-1])
    open_model(str(tiny))
    left = sorted(path.name for path in cache.iterdir())
    assert len(left) == 3 and set(names[3:]) < set(left)


def test_clearing_the_cache_removes_copies_alone(tiny: Path, cache: Path) -> None:
    open_model(str(tiny))
    (cache / "SmolLM2.gguf").write_bytes(b"mine")
    (cache / "a folder").mkdir()
    size = sum(file.stat().st_size for copy in copies() for file in copy.iterdir())
    assert clear_cache() == size > 10_000
    assert sorted(path.name for path in cache.iterdir()) == ["SmolLM2.gguf", "a folder"]
    assert clear_cache() == 0


def test_large_models_are_written_in_shards(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logits(open_model(str(tiny)), "a cat")
    clear_cache()
    monkeypatch.setattr(converted, "SHARD", 20_000)
    assert torch.equal(logits(open_model(str(tiny)), "a cat"), whole)
    (copy,) = copies()
    assert len(list(copy.glob("model-*-of-*.safetensors"))) > 3


def sentencepiece(path: Path, **said: Any) -> Path:
    """A tiny Llama whose tokens are SentencePiece's."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "▁a", "▁b", "bc", "<x>"]
    tensors = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes_of(len(tokens)).items()}
    metadata = {f"llama.{key}": value for key, value in NUMBERS.items()} | {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(n) for n in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (len(tokens) - 4), 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return write(path, tensors, metadata | {f"tokenizer.ggml.{key}": value for key, value in said.items()})


@pytest.mark.parametrize(
    "said", [{}, {"add_space_prefix": False}, {"add_bos_token": False, "add_eos_token": True}], ids=str
)
def test_a_file_has_one_tokenizer_whichever_way_it_is_opened(said: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    path = str(sentencepiece(tmp_path / "pieces.gguf", **said))
    generates, looks = ch.models.load(path).tokenizer, open_model(path).tokenizer
    for text in ("a", " a b", "abc bc", "a<x>b", "a<x> b</s>", "<s>a  b", "½"):
        assert looks(text).input_ids == generates.encode(text), text  # type: ignore[union-attr,operator]
        assert looks(text, add_special_tokens=False).input_ids == generates.encode(text, special=False)  # type: ignore[union-attr,operator]
    assert (looks.bos_token, looks.eos_token, looks.unk_token) == ("<s>", "</s>", "<unk>")
    assert looks.is_fast
    assert looks.decode([4, 8], skip_special_tokens=True) == generates.decode([4, 8])  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "half"])
def test_a_broken_copy_is_made_again(tiny: Path, cache: Path, file: str, damage: str) -> None:
    before = logits(open_model(str(tiny)), "a cat")
    (copy,) = cache.iterdir()
    if damage == "gone":
        (copy / file).unlink()
    else:
        os.truncate(copy / file, (copy / file).stat().st_size // 2)
    said: list[str] = []
    assert torch.equal(logits(open_model(str(tiny), report=said.append), "a cat"), before)
    assert any("is broken" in what and "made again" in what for what in said)


def test_a_conversion_that_fails_leaves_nothing_in_the_cache(tiny: Path, cache: Path) -> None:
    tiny.write_bytes(b"not a model")
    with pytest.raises(ClearheadError, match=r"tiny\.gguf' is no GGUF file that can be read: it begins with b'not "):
        open_model(str(tiny))
    assert not cache.exists()


def test_a_conversion_that_fails_half_way_leaves_nothing_in_the_cache(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ClearheadError, match=r"cannot be written \(.*No space left on device\); set CLEARHEAD_CACHE"):
        open_model(str(tiny))
    assert list(cache.iterdir()) == []


def test_if_another_process_was_first_its_copy_is_taken(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copy, target = converted._write, cache / "copy"

    def while_another_does(weights: Weights, folder: Path) -> None:
        write_copy(weights, folder)
        shutil.copytree(folder, target)

    monkeypatch.setattr(converted, "_write", while_another_does)
    converted.convert(tiny, read_gguf(tiny), target)
    assert list(cache.iterdir()) == [target]


def test_a_cache_that_cannot_be_written_says_how_to_name_another(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLEARHEAD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ClearheadError, match=r"cannot be written .*; set CLEARHEAD_CACHE"):
        open_model(str(tiny))


def test_the_cache_is_the_users_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARHEAD_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("CLEARHEAD_CACHE")
    assert cache_folder().name == "clearhead"
