"""GPT-2 computes here what it computes in Transformers."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from clearhead import ClearheadError
from clearhead.models.families.gpt2 import config
from tests.models.families.parity import Decoder, Pair, assert_matters

SMALL = {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
CONFIGS = {
    "plain": GPT2Config(**SMALL),
    "unscaled": GPT2Config(**SMALL, scale_attn_weights=False, n_inner=40, activation_function="relu"),
    "own head": GPT2Config(**SMALL, tie_word_embeddings=False),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(CONFIGS[request.param], tmp_path_factory.mktemp("gpt2"))


class TestGPT2(Decoder):
    """Each of its variants."""


def test_the_scale_matters(tmp_path: Path) -> None:
    assert_matters(Pair(CONFIGS["unscaled"], tmp_path), scale_attn_weights=True)


def test_a_text_longer_than_its_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match="position 32, counted from 0; expected none beyond 31"):
        Pair(CONFIGS["plain"], tmp_path).ours(torch.zeros(1, 33, dtype=torch.int64))


def test_what_is_not_done_is_said() -> None:
    theirs = GPT2Config(**SMALL, scale_attn_by_inverse_layer_idx=True).to_dict()
    with pytest.raises(ClearheadError, match="got scale_attn_by_inverse_layer_idx = True; expected False"):
        config(theirs)
