"""Whisper: an encoder that listens and a decoder that writes down what it reads across, in any of a hundred languages.

Two convolutions make a token of every 20 ms of sound, 1,500 of 30 seconds; to these the decoder's cross-attention turns
at each word, and some of its heads say so well where the word was heard that it can be timed by them (Radford et al.
2022). The encoder's positions are sines and cosines, the decoder's are learned. Keys have no bias: it would add the
same to all scores of a query, and softmax takes that away again.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import causal, full
from clearhead.errors import ClearheadError
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Part
from clearhead.models.stack import Memory, Stack
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, LayerNorm, Learned, MultiHeadAttention, Sinusoidal


class Listener(nn.Module):
    """The encoder: log-mel frames `(B, bins, frames)` in, a token for each two of them out, `(B, frames / 2, E)`."""

    def __init__(self, config: Config, bins: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(bins, config.width, 3, padding=1)
        self.halve = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.stack = Stack(config)

    def forward(self, mel: Float[Tensor, "B bins frames"]) -> Float[Tensor, "B Ts E"]:
        """The sound's tokens after the last layer and its norm."""
        made: Tensor = self.stack(self.embed(mel))
        return made

    def embed(self, mel: Float[Tensor, "B bins frames"]) -> Float[Tensor, "B Ts E"]:
        """The sound's tokens before the first layer."""
        bins = self.near.in_channels
        if mel.shape[1] != bins:
            raise ClearheadError(
                f"Whisper: got sound {tuple(mel.shape)} of {mel.shape[1]} pitches; expected (B, {bins}, frames), "
                f"log_mel(sound, bins={bins})."
            )
        x = F.gelu(self.halve(F.gelu(self.near(mel.to(self.near.weight.dtype))))).mT
        return self.stack.position.add(x, torch.arange(x.shape[1], device=x.device)[None])


class Whisper(Transformer):
    """A `Transformer` whose source is no text but sound: `encode(log_mel(sound))`."""

    encoder: Any
    """A `Listener`."""

    def __init__(self, config: Config, listener: Listener) -> None:
        super().__init__(config)
        self.encoder = listener

    def encode(self, source: Float[Tensor, "B bins frames"], lengths: Int[Tensor, " B"] | None = None) -> Memory:
        """Sound, as the memory that the decoder reads; `lengths` is of its tokens, two frames each."""
        return self.stack.remember(self.encoder(source), lengths)


def whisper(theirs: Theirs) -> Whisper:
    """A model of this family."""
    expect(theirs, scale_embedding=False, tie_word_embeddings=True)
    width, places = theirs["d_model"], theirs["max_target_positions"]
    encoder = _stack(theirs, "encoder")
    decoder = replace(
        _stack(theirs, "decoder"),
        vocabulary=theirs["vocab_size"],
        context=places,
        pattern=causal(),
        position=Learned(places, width),
        head="tied",
        memory_width=width,
        start=theirs["decoder_start_token_id"],
    )
    return Whisper(decoder, Listener(encoder, theirs["num_mel_bins"]))


def _stack(theirs: Theirs, side: str) -> Config:
    width, hidden = theirs["d_model"], theirs[f"{side}_ffn_dim"]
    return Config(
        width=width,
        layers=theirs[f"{side}_layers"],
        attention=partial(
            MultiHeadAttention,
            heads=theirs[f"{side}_attention_heads"],
            dropout=theirs.get("attention_dropout", 0.0),
        ),
        pattern=full(),
        position=waves(theirs["max_source_positions"], width),
        feed_forward=partial(FeedForward, hidden=hidden, activation=activation(theirs["activation_function"])),
        norm=LayerNorm,
        dropout=theirs["dropout"],
        head=None,
    )


def waves(length: int, width: int) -> Learned:
    """The encoder's places, never trained: sines, then cosines, the slowest 1 / 10,000 radians a token.

    (Vaswani et al. 2017 stop a little short of that one.) A checkpoint has them, and they are read from there.
    """
    position = Learned(length, width)
    sinusoidal = Sinusoidal(width, base=10_000 ** (width / (width - 2)), layout="halves")
    position.table.data = sinusoidal.add(torch.zeros(1, length, width), torch.arange(length)[None])[0]
    return position.requires_grad_(False)


def _layers(ours: str, theirs: str, *, decoder: bool = False) -> dict[str, str | Part]:
    layer, block = f"{theirs}layers.{{n}}.", f"{ours}blocks.{{n}}."
    names: dict[str, str | Part] = {}
    for attention, other in (("attention", "self_attn"), ("cross", "encoder_attn"))[: 2 if decoder else 1]:
        q, k, v = (f"{layer}{other}.{x}_proj" for x in "qkv")
        names |= {
            f"{block}{attention}.qkv.weight": Grouped(f"{q}.weight", f"{k}.weight", f"{v}.weight"),
            f"{block}{attention}.qkv.bias": Grouped(f"{q}.bias", None, f"{v}.bias"),
        }
        for kind in ("weight", "bias"):
            names |= {
                f"{block}{attention}_norm.{kind}": f"{layer}{other}_layer_norm.{kind}",
                f"{block}{attention}.out.{kind}": f"{layer}{other}.out_proj.{kind}",
            }
    for kind in ("weight", "bias"):
        names |= {
            f"{block}feed_forward_norm.{kind}": f"{layer}final_layer_norm.{kind}",
            f"{block}feed_forward.up.{kind}": f"{layer}fc1.{kind}",
            f"{block}feed_forward.down.{kind}": f"{layer}fc2.{kind}",
            f"{ours}norm.{kind}": f"{theirs}layer_norm.{kind}",
        }
    return names


NAMES = Names(
    {
        **{f"encoder.near.{kind}": f"model.encoder.conv1.{kind}" for kind in ("weight", "bias")},
        **{f"encoder.halve.{kind}": f"model.encoder.conv2.{kind}" for kind in ("weight", "bias")},
        "encoder.stack.position.table": "model.encoder.embed_positions.weight",
        **_layers("encoder.stack.", "model.encoder."),
        "tokens.weight": "model.decoder.embed_tokens.weight",
        "stack.position.table": "model.decoder.embed_positions.weight",
        **_layers("stack.", "model.decoder.", decoder=True),
    },
    copies={"proj_out.weight": "model.decoder.embed_tokens.weight"},
)

WHISPER = Family(("whisper",), whisper, NAMES)
