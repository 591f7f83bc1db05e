"""GPT-OSS computes here what it computes in Transformers, its sinks, windows, YaRN and experts and all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM, Mxfp4Config

from clearhead.models.loading import load
from tests.models.families.parity import Decoder, Pair, assert_matters, assert_near

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


@torch.no_grad()
def test_packed_as_the_real_ones_it_says_what_theirs_says(tmp_path: Path) -> None:
    pair = Pair(GptOssConfig(**SMALL | {"hidden_size": 64, "intermediate_size": 32}), tmp_path)
    weights, generator = load_file(tmp_path / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, rows = weights.pop(name).shape
        blocks, scales = (experts, rows, inputs // 32, 16), (experts, rows, inputs // 32)
        weights[f"{name}_blocks"] = torch.randint(256, blocks, dtype=torch.uint8, generator=generator)
        weights[f"{name}_scales"] = torch.randint(122, 126, scales, dtype=torch.uint8, generator=generator)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"quantization_config": {"quant_method": "mxfp4"}}))
    theirs = GptOssForCausalLM.from_pretrained(
        tmp_path, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32, attn_implementation="eager"
    )
    there = theirs(pair.tokens).logits
    assert_near(load(tmp_path)(pair.tokens), there)
    assert (pair.ours(pair.tokens) - there).abs().max() > 0.1 * there.abs().max()
