"""RoPE from a config.json: every spelling of Transformers 4 and 5, and what is missing or unknown said."""

from typing import Any

import pytest

from clearhead.errors import ClearheadError
from clearhead.nn.positions import Rotary, rotary_of
from clearhead.nn.positions.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Scaling, YaRN

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LISTS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({}, Scaling()),
        ({"rope_scaling": None}, Scaling()),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, Linear(2.0)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, Linear(2.0)),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 64}, DynamicNTK(2.0, 64)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "max_position_embeddings": 131072}, Llama3()),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 64}, YaRN(4.0, 64)),
        (  # the factor is by the lengths
            {
                "rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 32, "beta_fast": None},
                "max_position_embeddings": 128,
            },
            YaRN(4.0, 32),
        ),
        (  # Phi-3, as it was and as it is
            {
                "rope_scaling": {"type": "su", **LISTS},
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 128,
            },
            LongRoPE((1.0,) * 4, (2.0,) * 4, 32, 4.0),
        ),
        (
            {
                "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 99, **LISTS},
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 128,
            },
            LongRoPE((1.0,) * 4, (2.0,) * 4, 32, 4.0),
        ),
    ],
)
def test_a_scaling_is_read_from_either_spelling(config: dict[str, Any], scaling: Scaling) -> None:
    assert rotary_of(config, 8).scaling == scaling


@pytest.mark.parametrize(
    ("config", "base", "turned"),
    [
        ({}, 10_000.0, 64),
        ({"rope_theta": 1_000_000}, 1_000_000.0, 64),
        ({"rope_parameters": {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5}}, 500_000.0, 32),
        ({"rotary_emb_base": 25_000, "rotary_pct": 0.25}, 25_000.0, 16),
        ({"rope_theta": 5e5, "partial_rotary_factor": 0.25, "rope_scaling": None}, 5e5, 16),
    ],
)
def test_base_and_part_are_read_from_every_spelling(config: dict[str, Any], base: float, turned: int) -> None:
    rotary = rotary_of(config, 64)
    assert (rotary.base, rotary.turned, rotary.layout) == (base, turned, "halves")


def test_kinds_of_layers_have_their_own() -> None:
    config = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    assert rotary_of(config, 8, layers="full_attention").scaling == Linear(8.0)
    near = rotary_of(config, 8, layers="sliding_attention", layout="pairs")
    assert (near.base, near.scaling, near.layout) == (1e4, Scaling(), "pairs")
    with pytest.raises(ClearheadError, match=r"got layers=None; expected one of full_attention, sliding_attention"):
        rotary_of(config, 8)


def test_models_of_transformers_are_read_from_what_their_configs_save() -> None:
    transformers = pytest.importorskip("transformers")
    neox = transformers.GPTNeoXConfig(rotary_pct=0.5, rotary_emb_base=5000).to_dict()
    assert repr(rotary_of(neox, 64)) == repr(Rotary(64, 5000.0, turned=32))
    oss = rotary_of(transformers.GptOssConfig().to_dict(), 64)
    assert oss.scaling == YaRN(32.0, 4096, truncate=False) and oss.base == 150_000
    assert rotary_of(transformers.LlamaConfig().to_dict(), 64).scaling == Scaling()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"type": "mrope"}}, "got RoPE of type 'mrope'; expected one of default, linear, dynamic"),
        ({"rope_scaling": {"type": "linear"}}, "got RoPE of type 'linear' without 'factor'; expected it in the config"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' without 'max_position_embeddings'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "'llama3' without 'original_max_position_embeddings'",
        ),
        ({"rope_scaling": {"type": "longrope"}, "max_position_embeddings": 8}, "'longrope' without 'short_factor'"),
    ],
)
def test_what_is_unknown_or_missing_is_said(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        rotary_of(config, 8)
