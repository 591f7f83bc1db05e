"""CLIP: two stacks, one of a picture's squares and one of words, that learn to say the same of what belongs together.

The stack of the picture sees all of it from each square, as ViT does, after a norm of its own. That of the text is
causal, though it writes nothing: so only the last token, the text's end, has seen all, and speaks for the text (Radford
et al. 2021). Each stack's vector is mapped to one width and made of length 1; how much a picture and a text have to do
with one another is e^t times their product, t learned.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import causal
from clearhead.errors import ClearheadError
from clearhead.models.config import Config
from clearhead.models.families.family import Family, Theirs
from clearhead.models.families.vit import patches, stack
from clearhead.models.names import Names
from clearhead.models.parts import Grouped, Part
from clearhead.models.patches import Patches
from clearhead.models.stack import Stack
from clearhead.models.transformer import Transformer
from clearhead.nn import Learned

FIRST_END = 2
"""What the first configs say is the text's end. It is wrong: the end is the token with the highest number."""

ALIKE = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
IMAGE = ALIKE | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
TEXT = ALIKE | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
"""Of the first model, and of every other what its config leaves out."""


class Clip(nn.Module):
    """Pictures `(I, C, S, S)` and texts `(B, T)` in, the logits `(I, B)` of which belongs to which out.

    `width` is of the vectors in which pictures and texts are compared, `end` the token that ends a text.
    """

    def __init__(self, image: Config, patches: Patches, text: Config, width: int, end: int) -> None:
        super().__init__()
        self.end = end
        self.patches = patches
        self.image = Stack(image)
        self.text = Transformer(text)
        self.image_projection = nn.Linear(image.width, width, bias=False)
        self.text_projection = nn.Linear(text.width, width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, pixels: Float[Tensor, "I C S S"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, "I B"]:
        """e^t · ⟨image, text⟩ of each picture and each text."""
        return self.logit_scale.exp() * self.images(pixels) @ self.texts(tokens).T

    def images(self, pixels: Float[Tensor, "I C S S"]) -> Float[Tensor, "I P"]:
        """Each picture's vector, of length 1."""
        first = self.image(self.patches(pixels))[:, 0]
        return F.normalize(self.image_projection(first), dim=-1)

    def texts(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B P"]:
        """Each text's vector, of length 1; what stands after its end is seen by none."""
        last = tokens if self.end == FIRST_END else (tokens == self.end).int()
        if self.end != FIRST_END and not bool(last.any(-1).all()):
            raise ClearheadError(
                f"Clip: got a text without token {self.end}, its end, which speaks for it; expected one in each text."
            )
        ends = self.text(tokens)[torch.arange(len(tokens), device=tokens.device), last.argmax(-1)]
        return F.normalize(self.text_projection(ends), dim=-1)


def clip(theirs: Theirs) -> Clip:
    """A model of this family."""
    image, text = IMAGE | theirs["vision_config"], TEXT | theirs["text_config"]
    places = text["max_position_embeddings"]
    return Clip(
        stack(image),
        patches(image, bias=False, norm=stack(image).norm),
        replace(
            stack(text),
            pattern=causal(),
            vocabulary=text["vocab_size"],
            context=places,
            position=Learned(places, text["hidden_size"]),
        ),
        theirs.get("projection_dim", 512),
        text["eos_token_id"],
    )


def _layers(ours: str, theirs: str) -> dict[str, str | Part]:
    layer, block = f"{theirs}encoder.layers.{{n}}.", f"{ours}blocks.{{n}}."
    names: dict[str, str | Part] = {}
    for kind in ("weight", "bias"):
        names |= {
            f"{block}attention_norm.{kind}": f"{layer}layer_norm1.{kind}",
            f"{block}attention.qkv.{kind}": Grouped(*(f"{layer}self_attn.{x}_proj.{kind}" for x in "qkv")),
            f"{block}attention.out.{kind}": f"{layer}self_attn.out_proj.{kind}",
            f"{block}feed_forward_norm.{kind}": f"{layer}layer_norm2.{kind}",
            f"{block}feed_forward.up.{kind}": f"{layer}mlp.fc1.{kind}",
            f"{block}feed_forward.down.{kind}": f"{layer}mlp.fc2.{kind}",
        }
    return names


NAMES = Names(
    {
        "patches.class_token": "vision_model.embeddings.class_embedding",
        "patches.project.weight": "vision_model.embeddings.patch_embedding.weight",
        "patches.position.table": "vision_model.embeddings.position_embedding.weight",
        **{f"patches.norm.{kind}": f"vision_model.pre_layrnorm.{kind}" for kind in ("weight", "bias")},
        **_layers("image.", "vision_model."),
        **{f"image.norm.{kind}": f"vision_model.post_layernorm.{kind}" for kind in ("weight", "bias")},
        "image_projection.weight": "visual_projection.weight",
        "text.tokens.weight": "text_model.embeddings.token_embedding.weight",
        "text.stack.position.table": "text_model.embeddings.position_embedding.weight",
        **_layers("text.stack.", "text_model."),
        **{f"text.stack.norm.{kind}": f"text_model.final_layer_norm.{kind}" for kind in ("weight", "bias")},
        "text_projection.weight": "text_projection.weight",
        "logit_scale": "logit_scale",
    },
    ignored=("*.position_ids",),
)

CLIP = Family(("clip",), clip, NAMES)
