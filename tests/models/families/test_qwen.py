"""Qwen 2 and 3 compute here what they compute in Transformers."""

from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen3Config

from clearhead import ClearheadError
from clearhead.models.families.qwen import config
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
WINDOWED = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
CONFIGS = {
    "2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "2 windowed": Qwen2Config(**SMALL, **WINDOWED),
    "3": Qwen3Config(**SMALL, head_dim=12, tie_word_embeddings=True),
    "3 windowed, with biases": Qwen3Config(**SMALL, **WINDOWED, head_dim=12, attention_bias=True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("qwen"))


class TestQwen(Decoder):
    """Each of its variants."""


@pytest.mark.parametrize("name", ["2 windowed", "3 windowed, with biases"])
def test_the_window_matters_and_is_in_the_upper_layers(name: str, tmp_path: Path) -> None:
    pair = Pair(CONFIGS[name], tmp_path)
    assert list(map(repr, pair.ours.stack.patterns)) == ["causal()", "window(4)", "window(4)"]
    assert_matters(pair, layer_types=["full_attention"] * 3)


def test_a_window_that_is_not_used_is_none() -> None:
    theirs = CONFIGS["2"].to_dict() | {"sliding_window": 4, "use_sliding_window": False}
    assert repr(config(theirs).pattern) == "causal()"


def test_a_kind_of_layer_that_is_not_known_is_named() -> None:
    theirs = CONFIGS["2 windowed"].to_dict() | {"layer_types": ["linear_attention", "full_attention"]}
    with pytest.raises(ClearheadError, match="got layer_types with linear_attention; expected full_attention and slid"):
        config(theirs)
