"""Damaged files of every kind load or are refused in a sentence; nothing else is raised, and the process lives on."""

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models.tokens import tokenizer_of
from tests.models.damage import CHARSMAP, GGUF, KINDS, damaged, folder_of, tokenizer, weights
from tests.models.weights.writing import write

HUGE = struct.pack("<I", 2**32 - 4) + b"abcd"
"""A map of characters whose header claims a trie of 4 GiB, for which `tokenizers` would take 8 GiB."""
BROKEN = struct.pack("<I", 1024) + b"\xff" * 1024 + b"a\0"
"""One of the right size, whose trie points beyond its end."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the child bounds its memory by what /proc says")
def test_damaged_files_of_every_kind_load_or_are_refused_in_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.damage", "--files", str(20 * len(KINDS))], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["faults"] == []
    assert said["ended"].keys() == KINDS.keys()
    assert all(refused > 0 for refused, _ in said["ended"].values())


def with_charsmap(path: Path, charsmap: bytes) -> Path:
    said = tokenizer("unigram")
    said["normalizer"]["normalizers"][0]["precompiled_charsmap"] = base64.b64encode(charsmap).decode()
    return folder_of(path, **{"tokenizer.json": said})


def test_a_map_of_characters_larger_than_it_is_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = with_charsmap(tmp_path / "a", HUGE)
    wanted = r"precompiled_charsmap = .*; expected the size of a trie, and a trie of that size"
    with pytest.raises(ClearheadError, match=rf"tokenizer\.json' says normalizer\.normalizers\.0\.{wanted}"):
        ch.models.load(folder).tokenizer.encode("a")
    with pytest.raises(ClearheadError, match=wanted):
        ch.open_model(folder)
    file = write(tmp_path / "a.gguf", {}, GGUF | {"tokenizer.ggml.precompiled_charsmap": list(HUGE)})
    with pytest.raises(ClearheadError, match=wanted):
        tokenizer_of(file)


def test_a_tokenizer_that_panics_as_it_encodes_is_named_as_broken(tmp_path: Path) -> None:
    whole, folder = with_charsmap(tmp_path / "a", CHARSMAP), with_charsmap(tmp_path / "b", BROKEN)
    assert ch.models.load(whole).tokenizer.encode("the cat")
    with pytest.raises(ClearheadError, match=r"The tokenizer cannot encode this text \(index out of bounds.*is broken"):
        ch.models.load(folder).tokenizer.encode("the cat")
    with pytest.raises(ClearheadError, match=r"The tokenizer of '.*' cannot encode this text \(index out of bounds"):
        ch.open_model(folder).inputs("the cat")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"eos_token_id": 8}, "eos_token_id = 8; expected less than 8, the number of tokens"),
        ({"unknown_token_id": 2**32 - 1}, "unknown_token_id = 4294967295; expected less than"),
        ({"scores": [-1.0] * 7}, r"scores = \[.*; expected one for each of the 8 tokens"),
        ({"token_type": [1] * 9}, r"token_type = \[.*; expected one for each of the 8 tokens"),
        ({"token_type": "x"}, "token_type = 'x'; expected a valid list"),
        ({"scores": [float("nan")] * 8}, r"scores\.0 = nan; expected a finite number"),
        ({"merges": [1]}, r"merges\.0 = 1; expected a valid string"),
        ({"add_bos_token": 1}, "add_bos_token = 1; expected a valid boolean"),
        ({"model": "x" * 500}, r"model = 'x{56}\.\.\.; expected"),
    ],
    ids=str,
)
def test_what_a_gguf_file_says_of_its_tokenizer_fits_together(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    named = {f"tokenizer.ggml.{key}": value for key, value in said.items()}
    with pytest.raises(ClearheadError, match=rf"a\.gguf' says tokenizer\.ggml\.{why}"):
        tokenizer_of(write(tmp_path / "a.gguf", {}, GGUF | named))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"llama.block_count": 10**9}, "block_count = 1000000000; expected less than or equal to 10000"),
        ({"llama.block_count": 9999}, "block_count = 9999; expected at most 1, as there are no more tensors"),
        ({"llama.attention.head_count": "2"}, "attention.head_count = '2'; expected a valid integer"),
        ({"llama.attention.key_length": 10**9}, "attention.key_length = 1000000000; expected less than"),
        ({"llama.rope.freq_base": 0.0}, r"rope.freq_base = 0\.0; expected greater than 0"),
        ({"llama.rope.scaling.factor": [1.5]}, r"rope.scaling.factor = \[1\.5\]; expected a valid number"),
    ],
    ids=str,
)
def test_what_a_gguf_file_says_of_its_model_is_named_by_its_own_fields(
    said: dict[str, Any], why: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.gguf", {"token_embd.weight": torch.ones(8, 16).numpy()}, GGUF | said)
    with pytest.raises(ClearheadError, match=rf"a\.gguf' says llama\.{why}"):
        ch.models.load(file)


def test_a_gguf_file_that_does_not_say_how_many_heads_there_are_is_refused(tmp_path: Path) -> None:
    said = {key: value for key, value in GGUF.items() if key != "llama.attention.head_count"}
    tensors = {"token_embd.weight": torch.ones(8, 16).numpy(), "blk.0.attn_q.weight": torch.ones(16, 16).numpy()}
    file = write(tmp_path / "a.gguf", tensors, said)
    with pytest.raises(ClearheadError, match=r"a\.gguf' does not say llama\.attention\.head_count of its model"):
        ch.models.load(file)


@pytest.mark.parametrize(
    "weight",
    [torch.ones(1).expand(10**9), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), [1.0]],
    ids=["repeated", "sparse", "meta", "list"],
)
def test_a_pickle_holds_tensors_whose_numbers_are_all_there(weight: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", **{"model.safetensors": "left out"})
    torch.save(weights() | {"model.norm.weight": weight}, folder / "pytorch_model.bin")
    with pytest.raises(
        ClearheadError, match=r"pytorch_model\.bin' .*(expected a model's state_dict|more than weights)"
    ):
        ch.models.load(folder)


def test_long_names_are_cut_in_messages(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", **{"model.safetensors": "left out"})
    torch.save(weights() | {f"{n}{'x' * 100_000}": torch.ones(1) for n in range(3)}, folder / "pytorch_model.bin")
    with pytest.raises(ClearheadError, match=r"3 not expected: 0x+\.\.\.; 1x+\.\.\.; 2x+\.\.\.\.") as caught:
        ch.models.load(folder)
    assert len(str(caught.value)) < 1000


def test_what_another_package_says_can_be_printed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    header = b'{"w": {"dtype": "F\x7f", "shape": [1], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ClearheadError, match=r"cannot be read as safetensors \(.*F\\x7f") as caught:
        ch.models.load(folder)
    assert str(caught.value).isprintable()


def test_damage_changes_one_value_or_leaves_it_out() -> None:
    import random

    whole = {"a": {"b": [1, 2]}}
    assert damaged(whole, None) == whole
    assert any(damaged(whole, random.Random(n)) != whole for n in range(3))
    assert whole == {"a": {"b": [1, 2]}}
