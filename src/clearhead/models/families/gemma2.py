"""Gemma 2: scores and logits under a soft cap, a window in every other layer, norms before and after each layer.

A score s becomes c · tanh(s / c) with c = 50, a logit likewise with 30, so that none runs away in training. Layers
take turns: one sees 4,096 keys, the next all of them. The scale on q · k is 1/√(E/H), not 1/√D, in the 27B model.
Norms multiply by 1 + weight, and embeddings by √E (Gemma Team 2024).
"""

from dataclasses import replace
from functools import partial

from clearhead.models.config import Config
from clearhead.models.families import llama
from clearhead.models.families.family import Family, Theirs, by_turns, expect
from clearhead.models.transformer import Transformer
from clearhead.nn import RMSNorm


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, use_bidirectional_attention=None)
    described = llama.config(
        {"tie_word_embeddings": True, **theirs, "hidden_act": theirs["hidden_activation"]},
        by_turns(theirs),
        scale=theirs.get("query_pre_attn_scalar", 256) ** -0.5,
        softcap=theirs.get("attn_logit_softcapping", 50.0),
    )
    return replace(
        described,
        norm=partial(RMSNorm, eps=theirs["rms_norm_eps"], offset=1.0),
        norm_at="both",
        embedding_scale=theirs["hidden_size"] ** 0.5,
        logit_softcap=theirs.get("final_logit_softcapping", 30.0),
    )


LAYER, OURS = "model.layers.{n}.", "stack.blocks.{n}."
NAMES = replace(
    llama.NAMES,
    weights={
        **llama.NAMES.weights,
        f"{OURS}attention_norm_after.weight": f"{LAYER}post_attention_layernorm.weight",
        f"{OURS}feed_forward_norm.weight": f"{LAYER}pre_feedforward_layernorm.weight",
        f"{OURS}feed_forward_norm_after.weight": f"{LAYER}post_feedforward_layernorm.weight",
    },
)

GEMMA2 = Family(("gemma2",), lambda theirs: Transformer(config(theirs)), NAMES)
