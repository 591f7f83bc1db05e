"""Gemma 2 computes here what it computes in Transformers, its caps, windows, scales and norms and all."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config

from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.0,
}
CONFIGS = {
    "2": Gemma2Config(**SMALL),
    "the window above": Gemma2Config(
        **SMALL, layer_types=["full_attention", "full_attention", "full_attention", "sliding_attention"]
    ),
    "uncapped": Gemma2Config(**SMALL | {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("gemma2"))


class TestGemma2(Decoder):
    """Each of its variants."""


@pytest.mark.parametrize(
    "changed",
    [
        {"attn_logit_softcapping": None},
        {"final_logit_softcapping": None},
        {"query_pre_attn_scalar": 12},
        {"layer_types": ["full_attention"] * 4},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ],
)
def test_what_is_its_own_matters(changed: dict[str, Any], tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["2"], tmp_path), **changed)
