"""Mistral computes here what it computes in Transformers, its window and all."""

from pathlib import Path

import pytest
from transformers import MistralConfig

from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS = {"0.1": MistralConfig(**SMALL, sliding_window=4), "0.2": MistralConfig(**SMALL, sliding_window=None)}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("mistral"))


class TestMistral(Decoder):
    """With a window and without."""


def test_the_window_matters(tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["0.1"], tmp_path), sliding_window=None)
