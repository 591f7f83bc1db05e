"""BERT computes here what it computes in Transformers, with its pooler or its head for masked words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForPreTraining

from clearhead import ClearheadError
from clearhead.models.families.bert import config
from tests.models.families.parity import LENGTHS, Encoder, Pair, assert_near, load, randomised

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
SMALL_BERT = BertConfig(**SMALL)
KINDS = {"plain": AutoModel, "masked words": AutoModelForMaskedLM}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(SMALL_BERT, tmp_path_factory.mktemp("bert"), KINDS[request.param])


class TestBert(Encoder):
    """With a pooler, and with a head."""

    @torch.no_grad()
    def test_its_segments_are_theirs(self, pair: Pair) -> None:
        segments = (torch.arange(pair.tokens.shape[1]) > 5).long().expand_as(pair.tokens)
        theirs = pair.output(pair.theirs(pair.tokens, token_type_ids=segments))
        assert_near(pair.ours(pair.tokens, segments=segments), theirs)
        assert (pair.ours(pair.tokens) - theirs).abs().max() > 0.1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(SMALL_BERT, tmp_path_factory.mktemp("bert"), AutoModel)


@torch.no_grad()
def test_what_it_pools_is_theirs(plain: Pair) -> None:
    theirs = plain.theirs(plain.tokens, attention_mask=plain.mask).pooler_output
    assert_near(plain.ours.pooled(plain.tokens, lengths=LENGTHS), theirs)


@torch.no_grad()
def test_a_model_from_pretraining_guesses_masked_words(tmp_path: Path) -> None:
    theirs = randomised(BertForPreTraining(SMALL_BERT)).eval()
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(3, 61, (2, 7))
    assert_near(load(tmp_path)(tokens), theirs(tokens).prediction_logits)


def test_a_head_for_masked_words_has_no_pooler(tmp_path: Path) -> None:
    pair = Pair(SMALL_BERT, tmp_path, AutoModelForMaskedLM)
    with pytest.raises(ClearheadError, match="guesses masked words; only a plain BertModel has a pooler"):
        pair.ours.pooled(pair.tokens)


@pytest.mark.parametrize("told", [{"is_decoder": True}, {"position_embedding_type": "relative_key"}])
def test_what_is_not_done_is_said(told: dict[str, Any]) -> None:
    with pytest.raises(ClearheadError, match=f"got {next(iter(told))} = .*, as no other is done here"):
        config(SMALL_BERT.to_dict() | told)


@torch.no_grad()
def test_an_old_checkpoint_calls_a_norms_weights_gamma_and_beta(tmp_path: Path) -> None:
    pair = Pair(SMALL_BERT, tmp_path, AutoModelForMaskedLM)
    expected = pair.ours(pair.tokens)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for name, weight in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(pair.tokens), expected)
