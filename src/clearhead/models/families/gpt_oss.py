"""GPT-OSS: each head has a sink, and every other layer a window of 128 keys.

The sink is a learned logit in the softmax's denominator, w[i,j] = exp s[i,j] / (exp sink_h + Σ exp s[i,j]): a head that
finds nothing can leave its weight there, not on the first token (OpenAI 2025, after Xiao et al. 2023). 64 query heads
share 8 key/value heads, RoPE is stretched by YaRN, a token's feed-forward is four experts of 32 or 128, with biases.
"""

from dataclasses import replace
from functools import partial

from clearhead.models.config import Config
from clearhead.models.families import llama
from clearhead.models.families.family import Family, Theirs, by_turns, expect
from clearhead.models.parts import Interleaved, Transposed
from clearhead.models.transformer import Transformer
from clearhead.nn.experts import Experts


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, swiglu_alpha=1.702, swiglu_limit=7.0)
    experts = partial(
        Experts,
        hidden=theirs["intermediate_size"],
        experts=theirs["num_local_experts"],
        top_k=theirs["num_experts_per_tok"],
        activation="clamped_swiglu",
        bias=True,
    )
    return replace(llama.config({"attention_bias": True, **theirs}, by_turns(theirs), sinks=True), feed_forward=experts)


THEIRS, OURS = "model.layers.{n}.mlp.", "stack.blocks.{n}.feed_forward."
NAMES = replace(
    llama.NAMES,
    weights={
        **llama.NAMES.weights,
        "stack.blocks.{n}.attention.sinks": "model.layers.{n}.self_attn.sinks",
        f"{OURS}router.weight": f"{THEIRS}router.weight",
        f"{OURS}router.bias": f"{THEIRS}router.bias",
        # Gate and up take turns, and inputs are rows.
        f"{OURS}up": Interleaved(Transposed(f"{THEIRS}experts.gate_up_proj"), count=2, each_row=True, dim=1),
        f"{OURS}up_bias": Interleaved(f"{THEIRS}experts.gate_up_proj_bias", count=2, each_row=True, dim=1),
        f"{OURS}down": Transposed(f"{THEIRS}experts.down_proj"),
        f"{OURS}down_bias": f"{THEIRS}experts.down_proj_bias",
    },
)

GPT_OSS = Family(("gpt_oss",), lambda theirs: Transformer(config(theirs)), NAMES)
