"""Mixtral: Mistral, but each token's feed-forward is two experts of eight, chosen by a router.

The attention is Mistral's, its window left out in the models that were given away. Each layer's router takes the two
likeliest experts and weighs what they make by the softmax over the two (Jiang et al. 2024): of 47 billion weights a
token meets 13.
"""

from dataclasses import replace
from functools import partial

from clearhead.models.config import Config
from clearhead.models.families import llama, mistral
from clearhead.models.families.family import Family, Theirs, activation
from clearhead.models.parts import Each, Joined
from clearhead.models.transformer import Transformer
from clearhead.nn.experts import Experts


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    experts = partial(
        Experts,
        hidden=theirs["intermediate_size"],
        experts=theirs["num_local_experts"],
        top_k=theirs["num_experts_per_tok"],
        activation=activation(theirs["hidden_act"]),
    )
    unsaid = {"rope_theta": 1_000_000.0, "sliding_window": None}
    return replace(mistral.config({**unsaid, **theirs}), feed_forward=experts)


THEIRS, OURS = "model.layers.{n}.block_sparse_moe.", "stack.blocks.{n}.feed_forward."
NAMES = replace(
    llama.NAMES,
    weights={
        **llama.NAMES.weights,
        f"{OURS}router.weight": f"{THEIRS}gate.weight",
        f"{OURS}up": Each(Joined(f"{THEIRS}experts.{{e}}.w1.weight", f"{THEIRS}experts.{{e}}.w3.weight")),
        f"{OURS}down": Each(f"{THEIRS}experts.{{e}}.w2.weight"),
    },
)

MIXTRAL = Family(("mixtral",), lambda theirs: Transformer(config(theirs)), NAMES)
