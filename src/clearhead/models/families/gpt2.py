"""GPT-2: learned positions, as many key/value heads as heads, a bias everywhere.

A token's place is a learned vector, added to it before the first layer; there is none beyond the 1,024th. Norms come
before each layer, and once more at the end (Radford et al. 2019). Its checkpoints keep weights as (in, out), q, k and
v side by side.
"""

from functools import partial

from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Transposed
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, LayerNorm, Learned, MultiHeadAttention


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width, length = theirs["n_embd"], theirs["n_positions"]
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=theirs["n_layer"],
        context=length,
        attention=partial(
            MultiHeadAttention,
            heads=theirs["n_head"],
            scale=None if theirs.get("scale_attn_weights", True) else 1.0,
            dropout=theirs.get("attn_pdrop", 0.1),
        ),
        position=Learned(length, width),
        feed_forward=partial(
            FeedForward,
            hidden=theirs.get("n_inner") or 4 * width,
            activation=activation(theirs.get("activation_function", "gelu_new")),
        ),
        norm=partial(LayerNorm, eps=theirs["layer_norm_epsilon"]),
        dropout=theirs.get("resid_pdrop", 0.1),
        head="tied" if theirs.get("tie_word_embeddings", True) else "own",
    )


LAYER, OURS = "transformer.h.{n}.", "stack.blocks.{n}."
LINEAR = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
NORMS = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
NAMES = Names(
    {
        "tokens.weight": "transformer.wte.weight",
        "stack.position.table": "transformer.wpe.weight",
        **{f"{OURS}{ours}.weight": Transposed(f"{LAYER}{theirs}.weight") for ours, theirs in LINEAR.items()},
        **{f"{OURS}{ours}.bias": f"{LAYER}{theirs}.bias" for ours, theirs in LINEAR.items()},
        **{f"{OURS}{ours}.weight": f"{LAYER}{theirs}.weight" for ours, theirs in NORMS.items()},
        **{f"{OURS}{ours}.bias": f"{LAYER}{theirs}.bias" for ours, theirs in NORMS.items()},
        "stack.norm.weight": "transformer.ln_f.weight",
        "stack.norm.bias": "transformer.ln_f.bias",
        "head.weight": "lm_head.weight",
    },
    ignored=("*.attn.bias", "*.attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
    prefix="transformer.",
)

GPT2 = Family(("gpt2",), lambda theirs: Transformer(config(theirs)), NAMES)
