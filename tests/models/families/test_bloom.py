"""BLOOM computes here what it computes in Transformers."""

import pytest
from transformers import BloomConfig

from clearhead import ClearheadError
from clearhead.models.families.bloom import config
from tests.models.families.parity import Decoder, Pair

SMALL = {"vocab_size": 61, "hidden_size": 48, "n_layer": 3}
CONFIGS = {
    "8 heads": BloomConfig(**SMALL, n_head=8),
    "6 heads": BloomConfig(**SMALL, n_head=6),
}
"""6 is no power of two: the slopes of the last two heads lie between the others'."""


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("bloom"))


class TestBloom(Decoder):
    """With both kinds of slopes."""


def test_an_old_config_has_other_names() -> None:
    old = {"model_type": "bloom", "vocab_size": 61, "n_embed": 48, "num_attention_heads": 6, "num_hidden_layers": 2}
    described = config(old | {"layer_norm_epsilon": 1e-5})
    assert (described.width, described.layers) == (48, 2)


def test_what_is_missing_or_not_done_is_said() -> None:
    with pytest.raises(ClearheadError, match=r"config\.json of a bloom model: got no 'n_head'; expected it there"):
        config({"model_type": "bloom", "hidden_size": 48})
    with pytest.raises(ClearheadError, match="got apply_residual_connection_post_layernorm = True; expected False"):
        config({"model_type": "bloom", "apply_residual_connection_post_layernorm": True})
