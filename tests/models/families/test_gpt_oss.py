"""GPT-OSS computes here what it computes in Transformers, its sinks, windows, YaRN and experts and all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GptOssConfig

from clearhead import ClearheadError
from clearhead.models.families.gpt_oss import config
from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.2}
CONFIGS = {
    "as it is": GptOssConfig(**SMALL),
    "shorter": GptOssConfig(
        **SMALL, rope_parameters=YARN | {"truncate": False, "original_max_position_embeddings": 16}
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("gpt_oss"))


class TestGPTOSS(Decoder):
    """With the turns of the real ones, and with others that matter in short texts."""


@pytest.mark.parametrize(
    "changed",
    [
        {"layer_types": ["full_attention"] * 4},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ],
)
def test_what_is_its_own_matters(changed: dict[str, Any], tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["shorter"], tmp_path), **changed)


@torch.no_grad()
def test_the_sinks_matter(tmp_path: Path) -> None:
    pair = Pair(CONFIGS["shorter"], tmp_path)
    with_sinks = pair.ours(pair.tokens)
    for block in pair.ours.stack.blocks:
        block.attention.sinks.fill_(-1e4)
    assert (pair.ours(pair.tokens) - with_sinks).abs().max() > 0.01 * with_sinks.abs().max()


def test_packed_weights_are_refused_in_a_sentence() -> None:
    theirs = CONFIGS["as it is"].to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    with pytest.raises(ClearheadError, match=r"quantization_config = .*; expected None, as no other is done here"):
        config(theirs)
