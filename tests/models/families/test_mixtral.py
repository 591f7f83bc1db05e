"""Mixtral computes here what it computes in Transformers; its checkpoints keep each expert by itself."""

from pathlib import Path

import pytest
from transformers import MixtralConfig

from clearhead.attend import causal, window
from clearhead.models.families.mixtral import config
from clearhead.models.weights import open_weights
from tests.models.families.parity import Decoder, Pair, assert_matters
from tests.models.weights.test_gguf_model import write_model

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_local_experts": 5,
}
CONFIGS = {
    "two experts": MixtralConfig(**SMALL, num_experts_per_tok=2),
    "three, and a window": MixtralConfig(**SMALL, num_experts_per_tok=3, sliding_window=4),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("mixtral"))


class TestMixtral(Decoder):
    """Each of its variants."""


def test_a_config_that_says_no_window_has_none(tmp_path: Path) -> None:
    said = CONFIGS["two experts"].to_dict()
    del said["sliding_window"]
    assert repr(config(said).pattern) == repr(causal())
    assert repr(config({**said, "sliding_window": 4}).pattern) == repr(window(4))
    _, file = write_model(tmp_path, "mixtral")
    assert repr(config(open_weights(file).config).pattern) == repr(causal())


def test_the_number_of_experts_matters(tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["two experts"], tmp_path), num_experts_per_tok=1)
