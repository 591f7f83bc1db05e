"""The original encoder–decoder, and Marian, whose checkpoints are of it: three uses of one multi-head attention.

Tokens of the source see one another; tokens of the target see those before; and each token of the target sees the whole
source (Vaswani et al. 2017). Order is told by sines and cosines added to the tokens, which are the embedding times √E,
so that the positions don't drown them. A norm follows each residual; the stack has none at its end. One matrix embeds
both texts and makes the logits. Marian puts all sines before all cosines and adds a bias to the logits.
"""

from dataclasses import replace
from functools import partial

from clearhead.attend import causal, full
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Leading, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, LayerNorm, MultiHeadAttention, Sinusoidal


def base(vocabulary: int = 37_000) -> Config:
    """The paper's base model (Table 3).

    >>> base().layers
    6
    """
    return original(vocabulary, 512, heads=8, hidden=2048)


def big(vocabulary: int = 37_000) -> Config:
    """The paper's big model (Table 3).

    >>> big().width, big().dropout
    (1024, 0.3)
    """
    return original(vocabulary, 1024, heads=16, hidden=4096, dropout=0.3)


def original(vocabulary: int, width: int, *, heads: int, hidden: int, layers: int = 6, dropout: float = 0.1) -> Config:
    """The paper's model, of any size."""
    encoder = _side(width, heads, hidden, layers, dropout)
    return replace(encoder, vocabulary=vocabulary, pattern=causal(), head="tied", encoder=encoder)


def _side(width: int, heads: int, hidden: int, layers: int, dropout: float) -> Config:
    """The encoder; the decoder differs in its pattern and its memory alone."""
    return Config(
        width=width,
        layers=layers,
        attention=partial(MultiHeadAttention, heads=heads),
        pattern=full(),
        position=Sinusoidal(width),
        feed_forward=partial(FeedForward, hidden=hidden, activation="relu"),
        norm=LayerNorm,
        norm_at="after",
        final_norm=False,
        dropout=dropout,
        embedding_scale=width**0.5,
        head=None,
    )


def marian(theirs: Theirs) -> Config:
    """The description of a Marian model."""
    expect(theirs, share_encoder_decoder_embeddings=True, tie_word_embeddings=True)
    encoder, decoder = (_marian(theirs, side) for side in ("encoder", "decoder"))
    return replace(
        decoder,
        vocabulary=theirs["vocab_size"],
        context=theirs["max_position_embeddings"],
        pattern=causal(),
        head="tied",
        head_bias=True,
        encoder=encoder,
        start=theirs["decoder_start_token_id"],
    )


def _marian(theirs: Theirs, side: str) -> Config:
    width, hidden, heads = theirs["d_model"], theirs[f"{side}_ffn_dim"], theirs[f"{side}_attention_heads"]
    return replace(
        _side(width, heads, hidden, theirs[f"{side}_layers"], theirs["dropout"]),
        attention=partial(MultiHeadAttention, heads=heads, dropout=theirs.get("attention_dropout", 0.0)),
        position=Sinusoidal(width, layout="halves"),
        feed_forward=partial(FeedForward, hidden=hidden, activation=activation(theirs["activation_function"])),
        embedding_scale=width**0.5 if theirs["scale_embedding"] else 1.0,
    )


def _layers(ours: str, theirs: str, *, decoder: bool = False) -> dict[str, str | Part]:
    layer, block = f"{theirs}layers.{{n}}.", f"{ours}blocks.{{n}}."
    names: dict[str, str | Part] = {}
    for kind in ("weight", "bias"):
        for attention, other in (("attention", "self_attn"), ("cross", "encoder_attn"))[: 2 if decoder else 1]:
            names |= {
                f"{block}{attention}.qkv.{kind}": Grouped(*(f"{layer}{other}.{x}_proj.{kind}" for x in "qkv")),
                f"{block}{attention}.out.{kind}": f"{layer}{other}.out_proj.{kind}",
                f"{block}{attention}_norm.{kind}": f"{layer}{other}_layer_norm.{kind}",
            }
        names |= {
            f"{block}feed_forward.up.{kind}": f"{layer}fc1.{kind}",
            f"{block}feed_forward.down.{kind}": f"{layer}fc2.{kind}",
            f"{block}feed_forward_norm.{kind}": f"{layer}final_layer_norm.{kind}",
        }
    return names


NAMES = Names(
    _layers("encoder.stack.", "model.encoder.")
    | _layers("stack.", "model.decoder.", decoder=True)
    | {"tokens.weight": "model.shared.weight", "head_bias": Leading("final_logits_bias", 1)},
    ignored=("*.embed_positions.weight",),
    copies={
        f"{copy}.weight": "model.shared.weight"
        for copy in ("lm_head", "model.encoder.embed_tokens", "model.decoder.embed_tokens")
    },
)

MARIAN = Family(("marian",), lambda theirs: Transformer(marian(theirs)), NAMES)
