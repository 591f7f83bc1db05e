"""MPT computes here what it computes in Transformers; what Transformers leaves out of it, as MosaicML defines it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MptConfig
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from clearhead import ClearheadError
from clearhead.models.families.mpt import config
from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {"vocab_size": 61, "d_model": 48, "n_layers": 3, "max_seq_len": 64}
CONFIGS = {
    "plain": MptConfig(**SMALL, n_heads=8),
    "clipped": MptConfig(**SMALL, n_heads=6, attn_config={"clip_qkv": 0.5, "softmax_scale": 2.0}),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("mpt"))


class TestMPT(Decoder):
    """Each of its variants."""


@pytest.mark.parametrize("kept", [{"softmax_scale": 2.0}, {"clip_qkv": 0.5}])
def test_the_clip_and_the_scale_matter(kept: dict[str, Any], tmp_path: Path) -> None:
    changed = MptConfig(**SMALL, n_heads=6, attn_config=kept).attn_config
    assert_matters(Pair(CONFIGS["clipped"], tmp_path), attn_config=changed)


@pytest.mark.parametrize("heads", [8, 6])
def test_its_slopes_are_as_steep_as_the_config_says(heads: int) -> None:
    theirs = MptConfig(**SMALL, n_heads=heads, attn_config={"alibi_bias_max": 16}).to_dict()
    bias = build_mpt_alibi_tensor(heads, 5, alibi_bias_max=16)  # of the last query, with keys 4 to 0 places back
    torch.testing.assert_close(config(theirs).position.slopes, -bias[:, 0, -2])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"no_bias": False}, "no_bias = False; expected True"),
        ({"logit_scale": 0.5}, "logit_scale = 0.5; expected None"),
        ({"attn_config": {"alibi": False}}, "alibi = False; expected True"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "expected 'multihead_attention'"),
    ],
)
def test_what_is_not_done_is_said(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        config(MptConfig(**SMALL, n_heads=8, **told).to_dict())
