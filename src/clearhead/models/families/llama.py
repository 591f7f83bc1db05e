"""Llama 2 and 3, and SmolLM2: grouped-query attention, positions by RoPE, nothing with a bias.

Several query heads share one key/value head, so that the cache is smaller by as much (Ainslie et al. 2023): SmolLM2
has 9 on 3. Positions turn q and k (Su et al. 2021); Llama 3 stretches the slow turns for texts beyond those of its
training (Grattafiori et al. 2024). Mistral, Qwen and Mixtral are built upon it.
"""

from functools import partial
from typing import Any

from clearhead.attend import Pattern, causal
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Joined, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, MultiHeadAttention, RMSNorm
from clearhead.nn.positions.rope_config import rotary_of


def config(theirs: Theirs, pattern: Pattern | tuple[Pattern, ...] = causal(), **attention: Any) -> Config:  # noqa: B008
    """The description of a model of this family; a family that stands on it says its pattern and its attention."""
    expect(theirs, pretraining_tp=1)
    rope = {**theirs, **(theirs.get("rope_parameters") or theirs.get("rope_scaling") or {})}
    for name in ("partial_rotary_factor", "rotary_pct"):  # Transformers turns whole heads of these families
        expect({"model_type": theirs.get("model_type"), name: rope.get(name) or 1.0}, **{name: 1.0})
    width, heads = theirs["hidden_size"], theirs["num_attention_heads"]
    head_width = theirs.get("head_dim") or width // heads
    told = {
        "heads": heads,
        "kv_heads": theirs.get("num_key_value_heads") or heads,
        "head_width": head_width,
        "bias": theirs.get("attention_bias", False),
        "dropout": theirs.get("attention_dropout", 0.0),
    }
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=theirs["num_hidden_layers"],
        context=theirs["max_position_embeddings"],
        attention=partial(MultiHeadAttention, **told | attention),
        pattern=pattern,
        position=rotary_of(theirs, head_width),
        feed_forward=partial(
            FeedForward,
            hidden=theirs["intermediate_size"],
            activation=activation(theirs["hidden_act"]),
            gated=True,
            bias=theirs.get("mlp_bias", False),
        ),
        norm=partial(RMSNorm, eps=theirs["rms_norm_eps"]),
        head="tied" if theirs.get("tie_word_embeddings", False) else "own",
    )


def layers(what: str) -> dict[str, str | Part]:
    """Of each layer, all that ends in `what`: "weight" or "bias"."""
    theirs, ours = "model.layers.{n}.", "stack.blocks.{n}."
    return {
        f"{ours}attention_norm.{what}": f"{theirs}input_layernorm.{what}",
        f"{ours}attention.qkv.{what}": Grouped(*(f"{theirs}self_attn.{x}_proj.{what}" for x in "qkv")),
        f"{ours}attention.q_norm.{what}": f"{theirs}self_attn.q_norm.{what}",
        f"{ours}attention.k_norm.{what}": f"{theirs}self_attn.k_norm.{what}",
        f"{ours}attention.out.{what}": f"{theirs}self_attn.o_proj.{what}",
        f"{ours}feed_forward_norm.{what}": f"{theirs}post_attention_layernorm.{what}",
        f"{ours}feed_forward.up.{what}": Joined(f"{theirs}mlp.gate_proj.{what}", f"{theirs}mlp.up_proj.{what}"),
        f"{ours}feed_forward.down.{what}": f"{theirs}mlp.down_proj.{what}",
    }


NAMES = Names(
    {
        "tokens.weight": "model.embed_tokens.weight",
        **layers("weight"),
        **layers("bias"),
        "stack.norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    ignored=("*.rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    prefix="model.",
)

LLAMA = Family(("llama",), lambda theirs: Transformer(config(theirs)), NAMES)
