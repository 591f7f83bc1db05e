"""T5: an encoder–decoder that knows order by a learned bias for each bucket of distances, shared by all its layers.

Its scores are q · k as they are, without 1/√D, which T5 takes into the weights that it begins with (Raffel et al.
2020). Near distances have a bias each, farther ones share one, and beyond 128 all are alike, so that longer texts can
be read. The encoder sees both sides of a token, the decoder its past; each has a table of its own, and the
cross-attention between them has none. Nothing has a bias vector, and norms are by root mean square. T5 1.1 gates its
feed-forward layers and no longer scales the tokens before the head (Shazeer 2020).
"""

from dataclasses import replace
from functools import partial

from clearhead.attend import causal, full
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Joined, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import T5 as Buckets
from clearhead.nn import FeedForward, MultiHeadAttention, RMSNorm


def decodes(theirs: Theirs) -> bool:
    """Whether there is a decoder: checkpoints of an encoder alone have the same type, and say it in one of two ways."""
    alone = "T5EncoderModel" in (theirs.get("architectures") or ())
    return bool(theirs.get("is_encoder_decoder", True)) and not alone


def encoder(theirs: Theirs) -> Config:
    """The description of an encoder alone."""
    *gated, feed_forward = theirs.get("feed_forward_proj", "relu").split("-")
    if gated and feed_forward == "gelu":
        feed_forward = "gelu_new"
    heads = theirs["num_heads"]
    return Config(
        vocabulary=theirs["vocab_size"],
        width=theirs["d_model"],
        layers=theirs["num_layers"],
        attention=partial(
            MultiHeadAttention,
            heads=heads,
            head_width=theirs["d_kv"],
            scale=1.0,
            bias=False,
            dropout=theirs["dropout_rate"],
        ),
        pattern=full(),
        position=_buckets(theirs, bidirectional=True),
        feed_forward=partial(
            FeedForward,
            hidden=theirs["d_ff"],
            activation=activation(feed_forward),
            gated=bool(gated),
            bias=False,
        ),
        norm=partial(RMSNorm, eps=theirs["layer_norm_epsilon"]),
        dropout=theirs["dropout_rate"],
        head=None,
    )


def config(theirs: Theirs) -> Config:
    """The description of an encoder–decoder."""
    tied = theirs.get("tie_word_embeddings", True)
    return replace(
        encoder(theirs),
        layers=theirs.get("num_decoder_layers") or theirs["num_layers"],
        pattern=causal(),
        position=_buckets(theirs, bidirectional=False),
        head="tied" if tied else "own",
        head_scale=theirs["d_model"] ** -0.5 if theirs.get("scale_decoder_outputs", tied) else 1.0,
        encoder=encoder(theirs),
        start=theirs.get("decoder_start_token_id", theirs["pad_token_id"]),
    )


def _buckets(theirs: Theirs, *, bidirectional: bool) -> Buckets:
    distance = theirs.get("relative_attention_max_distance", 128)
    return Buckets(theirs["num_heads"], theirs["relative_attention_num_buckets"], distance, bidirectional=bidirectional)


def names(theirs: Theirs) -> Names:
    """How its checkpoints name the weights: an encoder alone has the same names as one beside a decoder."""
    *gated, _ = theirs.get("feed_forward_proj", "relu").split("-")
    if not decodes(theirs):
        return Names({"tokens.weight": "shared.weight"} | _stack("stack.", "encoder.", gated), IGNORED, COPIES)
    return Names(
        {"tokens.weight": "shared.weight", "head.weight": "lm_head.weight"}
        | _stack("encoder.stack.", "encoder.", gated)
        | _stack("stack.", "decoder.", gated, decoder=True),
        IGNORED,
        COPIES,
    )


IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""The first checkpoints have it; it was never used."""
COPIES = {f"{copy}.weight": "shared.weight" for copy in ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens")}


def _stack(ours: str, theirs: str, gated: list[str], *, decoder: bool = False) -> dict[str, str | Part]:
    block, layer = f"{ours}blocks.{{n}}.", f"{theirs}block.{{n}}.layer."
    attention, feed_forward = f"{layer}0.SelfAttention", f"{layer}{2 if decoder else 1}"
    up = [f"{feed_forward}.DenseReluDense.{wi}.weight" for wi in (("wi_0", "wi_1") if gated else ("wi",))]
    names: dict[str, str | Part] = {
        f"{block}attention_norm.weight": f"{layer}0.layer_norm.weight",
        f"{block}attention.qkv.weight": Grouped(*(f"{attention}.{x}.weight" for x in "qkv")),
        f"{block}attention.out.weight": f"{attention}.o.weight",
        f"{block}feed_forward_norm.weight": f"{feed_forward}.layer_norm.weight",
        f"{block}feed_forward.up.weight": Joined(*up),
        f"{block}feed_forward.down.weight": f"{feed_forward}.DenseReluDense.wo.weight",
        f"{ours}position.table": f"{theirs}block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"{ours}norm.weight": f"{theirs}final_layer_norm.weight",
    }
    if decoder:
        cross = f"{layer}1.EncDecAttention"
        names |= {
            f"{block}cross_norm.weight": f"{layer}1.layer_norm.weight",
            f"{block}cross.qkv.weight": Grouped(*(f"{cross}.{x}.weight" for x in "qkv")),
            f"{block}cross.out.weight": f"{cross}.o.weight",
        }
    return names


T5 = Family(("t5",), lambda theirs: Transformer(config(theirs) if decodes(theirs) else encoder(theirs)), names)
