"""GPT-NeoX and Pythia: RoPE on a quarter of each head, attention and feed-forward side by side.

Only the first 25 % of a head's dimensions turn; the rest compare what tokens are, wherever they stand. Both layers
read the same tokens, through norms of their own, and x + both comes out (Black et al. 2022, after GPT-J). Its
checkpoints order the rows of q, k and v head by head.
"""

from functools import partial

from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation
from clearhead.models.names import Names
from clearhead.models.parts import Interleaved, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, LayerNorm, MultiHeadAttention
from clearhead.nn.positions.rope_config import rotary_of


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    width, heads = theirs["hidden_size"], theirs["num_attention_heads"]
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=theirs["num_hidden_layers"],
        context=theirs["max_position_embeddings"],
        attention=partial(
            MultiHeadAttention,
            heads=heads,
            bias=theirs.get("attention_bias", True),
            dropout=theirs.get("attention_dropout", 0.0),
        ),
        position=rotary_of({"rotary_pct": 0.25, **theirs}, width // heads),
        feed_forward=partial(
            FeedForward, hidden=theirs["intermediate_size"], activation=activation(theirs["hidden_act"])
        ),
        norm=partial(LayerNorm, eps=theirs["layer_norm_eps"]),
        parallel=theirs.get("use_parallel_residual", True),
        dropout=theirs.get("hidden_dropout", 0.0),
        head="tied" if theirs.get("tie_word_embeddings", False) else "own",
    )


def layers(what: str) -> dict[str, str | Part]:
    """Of each layer and of the last norm, all that ends in `what`: "weight" or "bias"."""
    theirs, ours = "gpt_neox.layers.{n}.", "stack.blocks.{n}."
    return {
        f"{ours}attention_norm.{what}": f"{theirs}input_layernorm.{what}",
        f"{ours}attention.qkv.{what}": Interleaved(f"{theirs}attention.query_key_value.{what}"),
        f"{ours}attention.out.{what}": f"{theirs}attention.dense.{what}",
        f"{ours}feed_forward_norm.{what}": f"{theirs}post_attention_layernorm.{what}",
        f"{ours}feed_forward.up.{what}": f"{theirs}mlp.dense_h_to_4h.{what}",
        f"{ours}feed_forward.down.{what}": f"{theirs}mlp.dense_4h_to_h.{what}",
        f"stack.norm.{what}": f"gpt_neox.final_layer_norm.{what}",
    }


NAMES = Names(
    {
        "tokens.weight": "gpt_neox.embed_in.weight",
        **layers("weight"),
        **layers("bias"),
        "head.weight": "embed_out.weight",
    },
    ignored=("*.rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias"),
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
    prefix="gpt_neox.",
)

NEOX = Family(("gpt_neox",), lambda theirs: Transformer(config(theirs)), NAMES)
