"""ViT: an encoder of tokens that are squares of a picture, each seeing all others from the first layer on.

Where a convolution sees its neighbourhood, attention sees the whole picture at once; some heads stay near, others reach
across already in the lowest layers (Dosovitskiy et al. 2021, fig. 7). That squares are neighbours is nowhere said: it
is learned, by a vector for each place. A token that is no square gathers what is to be said of the picture.
"""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from clearhead.attend import full
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs, activation, expect
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Leading, Part
from clearhead.models.patches import Patches
from clearhead.models.stack import Stack
from clearhead.nn import FeedForward, LayerNorm, MultiHeadAttention

UNNAMED = (0, 1)
"""The classes of a config that names none."""


class ViT(nn.Module):
    """Pixels `(B, C, S, S)` in; out, of the class token, the classes' logits, or its vector through a layer and tanh.

    `config` is of the stack; `classes` is how many there are, None for a model that pools.
    """

    def __init__(self, config: Config, patches: Patches, classes: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.patches = patches
        self.stack = Stack(config)
        self.pools = classes is None
        self.last = nn.Linear(config.width, config.width if classes is None else classes)

    def forward(self, pixels: Float[Tensor, "B C S S"]) -> Float[Tensor, "B out"]:
        """Logits `(B, classes)`, or the pooled vector `(B, E)`."""
        out: Tensor = self.last(self.hidden(pixels)[:, 0])
        return out.tanh() if self.pools else out

    def hidden(self, pixels: Float[Tensor, "B C S S"]) -> Float[Tensor, "B T E"]:
        """The tokens after the last layer and its norm, the class token first."""
        made: Tensor = self.stack(self.patches(pixels))
        return made


def vit(theirs: Theirs) -> ViT:
    """A model of this family."""
    expect(theirs, pooler_act="tanh", pooler_output_size=theirs["hidden_size"])
    config = stack(theirs, bias=theirs.get("qkv_bias", True), dropout=theirs["hidden_dropout_prob"])
    classes = len(theirs.get("id2label", UNNAMED)) if classifies(theirs) else None
    return ViT(config, patches(theirs), classes)


def classifies(theirs: Theirs) -> bool:
    """Whether there is a head for classes; without one, a model pools."""
    return "ViTForImageClassification" in (theirs.get("architectures") or ())


def stack(theirs: Theirs, *, bias: bool = True, dropout: float = 0.0) -> Config:
    """The description of a stack that sees; both of CLIP's are described so, too."""
    return Config(
        width=theirs["hidden_size"],
        layers=theirs["num_hidden_layers"],
        attention=partial(
            MultiHeadAttention,
            heads=theirs["num_attention_heads"],
            bias=bias,
            out_bias=True,
            dropout=theirs.get("attention_probs_dropout_prob", theirs.get("attention_dropout", 0.0)),
        ),
        pattern=full(),
        feed_forward=partial(
            FeedForward, hidden=theirs["intermediate_size"], activation=activation(theirs["hidden_act"])
        ),
        norm=partial(LayerNorm, eps=theirs["layer_norm_eps"]),
        dropout=dropout,
        head=None,
    )


def patches(theirs: Theirs, *, bias: bool = True, norm: Callable[[int], nn.Module] | None = None) -> Patches:
    """The squares of a config."""
    return Patches(
        theirs["hidden_size"],
        size=theirs["image_size"],
        patch=theirs["patch_size"],
        channels=theirs["num_channels"],
        bias=bias,
        norm=norm,
    )


def names(theirs: Theirs) -> Names:
    """How its checkpoints name the weights: beside a head for classes, all others begin with "vit."."""
    model = "vit." if classifies(theirs) else ""
    layer, block = f"{model}encoder.layer.{{n}}.", "stack.blocks.{n}."
    weights: dict[str, str | Part] = {
        "patches.class_token": Leading(f"{model}embeddings.cls_token", 2),
        "patches.position.table": Leading(f"{model}embeddings.position_embeddings", 1),
    }
    for kind in ("weight", "bias"):
        qkv = (f"{layer}attention.attention.{x}.{kind}" for x in ("query", "key", "value"))
        weights |= {
            f"patches.project.{kind}": f"{model}embeddings.patch_embeddings.projection.{kind}",
            f"{block}attention_norm.{kind}": f"{layer}layernorm_before.{kind}",
            f"{block}attention.qkv.{kind}": Grouped(*qkv),
            f"{block}attention.out.{kind}": f"{layer}attention.output.dense.{kind}",
            f"{block}feed_forward_norm.{kind}": f"{layer}layernorm_after.{kind}",
            f"{block}feed_forward.up.{kind}": f"{layer}intermediate.dense.{kind}",
            f"{block}feed_forward.down.{kind}": f"{layer}output.dense.{kind}",
            f"stack.norm.{kind}": f"{model}layernorm.{kind}",
            f"last.{kind}": f"{'classifier' if classifies(theirs) else 'pooler.dense'}.{kind}",
        }
    return Names(weights)


VIT = Family(("vit",), vit, names)
