"""GPT-NeoX computes here what it computes in Transformers."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GPTNeoXConfig

from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "a quarter turned": GPTNeoXConfig(**SMALL),
    "half turned": GPTNeoXConfig(
        **SMALL, rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    ),
    "one after the other": GPTNeoXConfig(**SMALL, use_parallel_residual=False, attention_bias=False),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("neox"))


class TestGPTNeoX(Decoder):
    """Each of its variants."""


@pytest.mark.parametrize(
    "changed",
    [
        {"use_parallel_residual": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}},
    ],
)
def test_what_is_its_own_matters(changed: dict[str, Any], tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["a quarter turned"], tmp_path), **changed)


def test_an_old_config_says_how_much_turns_by_another_name(tmp_path: Path) -> None:
    from clearhead.models.families.neox import config

    new = CONFIGS["half turned"].to_diff_dict()
    old = {name: value for name, value in new.items() if name != "rope_parameters"}
    assert config(old | {"rotary_pct": 0.5, "rotary_emb_base": 100}).position.turned == 8
    assert config(old).position.turned == 4
