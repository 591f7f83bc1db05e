"""MPT: ALiBi, and no bias anywhere, in its norms neither.

Its slopes fall from 2^(−m/H) down to 2^(−m); m is 8 as in the paper (Press et al. 2022), or 16 in the models for very
long texts, whose q, k and v are also clipped to ± 6 before they meet (MosaicML 2023). Transformers' own MPT takes m
for 8 whatever the config says; here the config is followed, as in MosaicML's code.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, expect
from clearhead.models.names import Names
from clearhead.models.transformer import Transformer
from clearhead.nn import Alibi, FeedForward, LayerNorm, MultiHeadAttention

STEEPNESS = 8
"""The m of ALiBi's paper."""


class Clipped(MultiHeadAttention):
    """Attention whose queries, keys and values are no larger than `clip`."""

    def __init__(self, *args: Any, clip: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clip = clip

    def _project(
        self, x: Float[Tensor, "B T E"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        q, k, v = super()._project(x)
        return q.clamp(-self.clip, self.clip), k.clamp(-self.clip, self.clip), v.clamp(-self.clip, self.clip)


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, no_bias=True, logit_scale=None)
    width, heads, told = theirs["d_model"], theirs["n_heads"], theirs.get("attn_config") or {}
    expect(
        {"model_type": "mpt", **told},
        attn_type="multihead_attention",
        alibi=True,
        prefix_lm=False,
        qk_ln=False,
        attn_uses_sequence_id=False,
    )
    position = Alibi(heads)
    position.slopes = position.slopes ** (told.get("alibi_bias_max", STEEPNESS) / STEEPNESS)
    clip = told.get("clip_qkv")
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=theirs["n_layers"],
        attention=partial(
            partial(Clipped, clip=clip) if clip else MultiHeadAttention,
            heads=heads,
            bias=False,
            scale=told.get("softmax_scale"),
            dropout=told.get("attn_pdrop", 0.0),
        ),
        position=position,
        feed_forward=partial(FeedForward, hidden=theirs.get("expansion_ratio", 4) * width, bias=False),
        norm=partial(LayerNorm, eps=theirs.get("layer_norm_epsilon", 1e-5), bias=False),
        dropout=theirs.get("resid_pdrop", 0.0),
    )


LAYER, OURS = "transformer.blocks.{n}.", "stack.blocks.{n}."
NAMES = Names(
    {
        "tokens.weight": "transformer.wte.weight",
        f"{OURS}attention_norm.weight": f"{LAYER}norm_1.weight",
        f"{OURS}attention.qkv.weight": f"{LAYER}attn.Wqkv.weight",
        f"{OURS}attention.out.weight": f"{LAYER}attn.out_proj.weight",
        f"{OURS}feed_forward_norm.weight": f"{LAYER}norm_2.weight",
        f"{OURS}feed_forward.up.weight": f"{LAYER}ffn.up_proj.weight",
        f"{OURS}feed_forward.down.weight": f"{LAYER}ffn.down_proj.weight",
        "stack.norm.weight": "transformer.norm_f.weight",
    },
    copies={"lm_head.weight": "transformer.wte.weight"},
    prefix="transformer.",
)

MPT = Family(("mpt",), lambda theirs: Transformer(config(theirs)), NAMES)
