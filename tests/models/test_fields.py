"""What a model's files say is checked field by field, before anything is built: a sentence names what is wrong."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers

import clearhead as ch
from clearhead.models.families import FAMILIES
from clearhead.models.fields import ModelConfig, check

LLAMA: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"vocab_size": 11, "max_position_embeddings": 8, "pad_token_id": None}
DAMAGE: tuple[Any, ...] = ("x" * 500, -1, 0, 10**9, 10**30, 1.5, True, [], [1], {}, {"a": 1}, None, float("nan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"hidden_size": "wide"}, "hidden_size = 'wide'; expected a valid integer"),
        ({"hidden_size": True}, "hidden_size = True; expected a valid integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000; expected less than or equal to 10000"),
        ({"num_hidden_layers": 9999}, "num_hidden_layers = 9,?999; expected at most"),
        ({"head_dim": 10**9}, "head_dim = 1000000000; expected less than or equal to 65536"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan; expected a finite number"),
        ({"hidden_act": ["x" * 500]}, r"hidden_act = \['x{55}\.\.\.; expected a valid string"),
        ({"rope_parameters": {"factor": 10**30}}, r"rope_parameters\.factor = 10{30}; expected less than or equal to"),
        ({"rope_parameters": [1]}, r"rope_parameters = \[1\]; expected a valid dictionary"),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind_or_size_is_named(folder: Path, said: dict[str, Any], why: str) -> None:
    file = folder / "config.json"
    whole = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(whole) | said))
        with pytest.raises(ch.ClearheadError, match=f"config.json' says {why}") as caught:
            ch.models.load(folder)
        if "at most" not in why:
            with pytest.raises(ch.ClearheadError, match=f"config.json' says {why}"):
                ch.open_model(folder)
        assert len(str(caught.value)) < 700
    finally:
        file.write_text(whole)


def test_a_damaged_config_loads_or_is_a_sentence(folder: Path) -> None:
    file, draw = folder / "config.json", random.Random(0)
    whole = file.read_text()
    try:
        for name in (config := json.loads(whole)):
            for value in draw.sample(DAMAGE, 4):
                file.write_text(json.dumps(config | {name: value}))
                with contextlib.suppress(ch.ClearheadError):
                    ch.models.load(folder)
    finally:
        file.write_text(whole)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_what_transformers_writes_by_default_is_accepted(kind: str) -> None:
    config = json.loads(transformers.AutoConfig.for_model(kind).to_json_string(use_diff=False))
    check(ModelConfig, config, "config.json")
