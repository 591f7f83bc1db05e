"""BERT: an encoder, whose tokens all see one another, and which says what stands behind a mask.

Nothing is causal; only padding is out of sight (Devlin et al. 2019). A token is its word, its place and its segment
(the first text of a pair or the second), summed and normed. Norms come after each residual, as in the first
transformer. MiniLM is a small BERT; a sentence's vector is the mean of its tokens' (`embed`).
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import full
from clearhead.errors import ClearheadError
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Part
from clearhead.models.transformer import Transformer
from clearhead.nn import FeedForward, LayerNorm, Learned, MultiHeadAttention
from clearhead.nn.feed_forward import ACTIVATIONS


class Bert(Transformer):
    """BERT with what stands on it: a pooler on the first token, or a head that guesses masked words."""

    def __init__(self, config: Config, activation: str = "gelu") -> None:
        super().__init__(config)
        width = config.width
        if config.head is None:
            self.pooler = nn.Linear(width, width)
        else:
            self.f = ACTIVATIONS[activation]
            self.transform = nn.Linear(width, width)
            self.transform_norm = config.norm(width)

    def logits(self, x: Float[Tensor, "*tokens E"]) -> Float[Tensor, "*tokens out"]:
        """Of each word at each place; the vectors themselves where there is no head."""
        if self.config.head is None:
            return x
        return super().logits(self.transform_norm(self.f(self.transform(x))))

    def pooled(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        lengths: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B E"]:
        """tanh(W x + b) of each text's first token, of which BERT told whether the second text follows the first."""
        if self.config.head is not None:
            raise ClearheadError("pooled: this BERT guesses masked words; only a plain BertModel has a pooler.")
        return torch.tanh(self.pooler(self.hidden(tokens, lengths=lengths, segments=segments)[:, 0]))


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    expect(theirs, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    width, dropout = theirs["hidden_size"], theirs.get("hidden_dropout_prob", 0.1)
    guesses = (theirs.get("architectures") or ["BertModel"])[0] in ("BertForMaskedLM", "BertForPreTraining")
    return Config(
        vocabulary=theirs["vocab_size"],
        width=width,
        layers=theirs["num_hidden_layers"],
        context=theirs["max_position_embeddings"],
        attention=partial(
            MultiHeadAttention,
            heads=theirs["num_attention_heads"],
            dropout=theirs.get("attention_probs_dropout_prob", 0.1),
        ),
        pattern=full(),
        position=Learned(theirs["max_position_embeddings"], width),
        segments=theirs["type_vocab_size"],
        embedding_norm=True,
        feed_forward=partial(
            FeedForward, hidden=theirs["intermediate_size"], activation=activation(theirs["hidden_act"])
        ),
        norm=partial(LayerNorm, eps=theirs["layer_norm_eps"]),
        norm_at="after",
        final_norm=False,
        dropout=dropout,
        head="tied" if guesses else None,
        head_bias=guesses,
    )


def layers(what: str) -> dict[str, str | Part]:
    """Of each layer, and of what stands before and behind them, all that ends in `what`: "weight" or "bias"."""
    theirs, ours = "bert.encoder.layer.{n}.", "stack.blocks.{n}."
    return {
        f"embedding_norm.{what}": f"bert.embeddings.LayerNorm.{what}",
        f"{ours}attention.qkv.{what}": Grouped(
            *(f"{theirs}attention.self.{x}.{what}" for x in ("query", "key", "value"))
        ),
        f"{ours}attention.out.{what}": f"{theirs}attention.output.dense.{what}",
        f"{ours}attention_norm.{what}": f"{theirs}attention.output.LayerNorm.{what}",
        f"{ours}feed_forward.up.{what}": f"{theirs}intermediate.dense.{what}",
        f"{ours}feed_forward.down.{what}": f"{theirs}output.dense.{what}",
        f"{ours}feed_forward_norm.{what}": f"{theirs}output.LayerNorm.{what}",
        f"pooler.{what}": f"bert.pooler.dense.{what}",
        f"transform.{what}": f"cls.predictions.transform.dense.{what}",
        f"transform_norm.{what}": f"cls.predictions.transform.LayerNorm.{what}",
    }


NAMES = Names(
    {
        "tokens.weight": "bert.embeddings.word_embeddings.weight",
        "stack.position.table": "bert.embeddings.position_embeddings.weight",
        "segments.weight": "bert.embeddings.token_type_embeddings.weight",
        **layers("weight"),
        **layers("bias"),
        "head_bias": "cls.predictions.bias",
    },
    ignored=("*embeddings.position_ids", "bert.pooler.*", "cls.seq_relationship.*"),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    endings={".gamma": ".weight", ".beta": ".bias"},
    prefix="bert.",
)


def build(theirs: Theirs) -> Bert:
    """The model of a config."""
    return Bert(config(theirs), activation(theirs["hidden_act"]))


BERT = Family(("bert",), build, NAMES)
