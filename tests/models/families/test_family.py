"""What goes for every family: a head that is tied is the embedding, and layers slide where the config says so."""

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, MarianConfig, MistralConfig, Qwen2Config, T5Config, ViTConfig

from clearhead.attend import causal, window
from clearhead.errors import ClearheadError
from clearhead.models.families import FAMILIES
from clearhead.models.families.family import by_turns
from clearhead.models.names import to_ours, to_theirs
from clearhead.nn import MultiHeadAttention
from tests.models.families import (
    test_bert,
    test_bloom,
    test_gpt2,
    test_llama,
    test_mpt,
    test_neox,
    test_original,
    test_t5,
    test_vit,
    test_whisper,
)

TIED: dict[str, Any] = {
    "bloom": test_bloom.CONFIGS["6 heads"],
    "gpt2": test_gpt2.CONFIGS["plain"],
    "llama": test_llama.CONFIGS["3"],
    "mpt": test_mpt.CONFIGS["clipped"],
    "neox": test_neox.CONFIGS["a quarter turned"],
}


@pytest.mark.parametrize("name", TIED)
def test_a_head_of_its_own_is_named_where_the_config_says_that_it_is_tied(name: str) -> None:
    said = TIED[name].to_dict() | {"tie_word_embeddings": True}
    family = FAMILIES[said["model_type"]]
    model, names = family.build(said), family.names_of(said)
    ((head, embedding),) = names.copies.items()
    theirs = to_theirs(names, model)
    assert head not in theirs
    to_ours(names, theirs | {head: theirs[embedding].clone()}, model)
    with pytest.raises(ClearheadError, match=rf"1 tied by the config, but unlike: {head} is not {embedding}\."):
        to_ours(names, theirs | {head: torch.randn_like(theirs[embedding])}, model)


def test_layers_that_all_see_everything_need_no_window() -> None:
    for said in ({}, {"sliding_window": None}):
        patterns = by_turns({"model_type": "gemma2", "layer_types": ["full_attention"] * 3} | said)
        assert [type(pattern) for pattern in patterns] == [causal] * 3


def test_layers_that_slide_want_a_window() -> None:
    kinds = {"model_type": "gemma2", "layer_types": ["sliding_attention", "full_attention"]}
    sliding, whole = by_turns(kinds | {"sliding_window": 7})
    assert isinstance(sliding, window) and sliding.left == 6 and isinstance(whole, causal)
    with pytest.raises(ClearheadError, match=r"config\.json of a gemma2 model: got no 'sliding_window'"):
        by_turns(kinds)


UNSAID: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mistral": (MistralConfig(), ("sliding_window",)),
    "gemma2": (Gemma2Config(), ("attn_logit_softcapping", "final_logit_softcapping")),
    "qwen2": (Qwen2Config(use_sliding_window=True, max_window_layers=1), ("sliding_window",)),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_a_config_leaves_out_is_as_in_transformers(name: str) -> None:
    config, keys = UNSAID[name]
    said = config.to_dict() | {"num_hidden_layers": 2, "layer_types": config.to_dict().get("layer_types", [])[:2]}
    for key in keys:
        assert said[key] is not None
        unsaid = {other: value for other, value in said.items() if other != key}
        with torch.device("meta"):
            one, other = (FAMILIES[name].build(x) for x in (said, unsaid))
        assert repr(one) == repr(other)
        assert repr(one.stack.patterns) == repr(other.stack.patterns)
        assert one.config.logit_softcap == other.config.logit_softcap
        assert [block.attention.softcap for block in one.stack.blocks] == [
            block.attention.softcap for block in other.stack.blocks
        ]


DROPS: dict[str, tuple[Any, str]] = {
    "bert": (test_bert.SMALL_BERT, "attention_probs_dropout_prob"),
    "marian": (MarianConfig(**test_original.SMALL), "attention_dropout"),
    "t5": (T5Config(**test_t5.SMALL), "dropout_rate"),
    "vit": (ViTConfig(**test_vit.SMALL), "attention_probs_dropout_prob"),
    "whisper": (test_whisper.CONFIG, "attention_dropout"),
} | {
    name: (config, {"gpt2": "attn_pdrop"}.get(name, "attention_dropout"))
    for name, config in TIED.items()
    if name != "mpt"
}


@pytest.mark.parametrize("name", DROPS)
def test_weights_are_dropped_as_often_as_the_config_says(name: str) -> None:
    config, key = DROPS[name]
    said = config.to_dict() | {key: 0.37}
    model = FAMILIES[said["model_type"]].build(said)
    attentions = [layer for layer in model.modules() if isinstance(layer, MultiHeadAttention)]
    assert attentions and {layer.dropout for layer in attentions} == {0.37}
