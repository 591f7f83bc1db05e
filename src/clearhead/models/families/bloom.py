"""BLOOM: no positions but ALiBi, and a norm on the embeddings.

A score loses slope_h · (i − j), the head's own slope times how far back the key lies (Press et al. 2022), so that a
text may be longer than any of the training. The norm after the embedding made its training stable (BigScience 2022).
Its checkpoints order the rows of q, k and v head by head.
"""

from functools import partial

from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, expect, said
from clearhead.models.names import Names
from clearhead.models.parts import Interleaved, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import Alibi, FeedForward, LayerNorm, MultiHeadAttention


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, apply_residual_connection_post_layernorm=False)
    width, heads = said(theirs, "hidden_size", "n_embed"), said(theirs, "n_head", "num_attention_heads")
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=said(theirs, "n_layer", "num_hidden_layers"),
        attention=partial(MultiHeadAttention, heads=heads, dropout=theirs.get("attention_dropout", 0.0)),
        position=Alibi(heads),
        feed_forward=partial(FeedForward, hidden=4 * width, activation="gelu_tanh"),
        norm=partial(LayerNorm, eps=theirs["layer_norm_epsilon"]),
        dropout=theirs.get("hidden_dropout", 0.0),
        embedding_norm=True,
        head="tied" if theirs.get("tie_word_embeddings", True) else "own",
    )


def layers(what: str) -> dict[str, str | Part]:
    """Of each layer and of the norms around them, all that ends in `what`: "weight" or "bias"."""
    theirs, ours = "transformer.h.{n}.", "stack.blocks.{n}."
    return {
        f"embedding_norm.{what}": f"transformer.word_embeddings_layernorm.{what}",
        f"{ours}attention_norm.{what}": f"{theirs}input_layernorm.{what}",
        f"{ours}attention.qkv.{what}": Interleaved(f"{theirs}self_attention.query_key_value.{what}"),
        f"{ours}attention.out.{what}": f"{theirs}self_attention.dense.{what}",
        f"{ours}feed_forward_norm.{what}": f"{theirs}post_attention_layernorm.{what}",
        f"{ours}feed_forward.up.{what}": f"{theirs}mlp.dense_h_to_4h.{what}",
        f"{ours}feed_forward.down.{what}": f"{theirs}mlp.dense_4h_to_h.{what}",
        f"stack.norm.{what}": f"transformer.ln_f.{what}",
    }


NAMES = Names(
    {
        "tokens.weight": "transformer.word_embeddings.weight",
        **layers("weight"),
        **layers("bias"),
        "head.weight": "lm_head.weight",
    },
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    prefix="transformer.",
)

BLOOM = Family(("bloom",), lambda theirs: Transformer(config(theirs)), NAMES)
