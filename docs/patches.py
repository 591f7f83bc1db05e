"""A picture, and a small model that reads it patch by patch, for page.md: no vision model is at hand without a hub."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import ViTConfig, ViTModel

import clearhead as ch

DRAWN, SIDE, PATCH = 224, 210, 14
SHARPNESS = 4.5


def picture() -> Image.Image:
    """A house between two trees, under a sun: drawn, so that nobody's photograph is needed."""
    drawn = Image.new("RGB", (DRAWN, DRAWN))
    pen = ImageDraw.Draw(drawn)
    for y in range(150):
        pen.line((0, y, DRAWN, y), fill=(110 + y // 2, 165 + y // 3, 225))
    for y in range(150, DRAWN):
        pen.line((0, y, DRAWN, y), fill=(96, 150 - (y - 150) // 2, 70))
    pen.ellipse((160, 20, 202, 62), fill=(250, 214, 92))
    pen.rectangle((78, 98, 154, 168), fill=(222, 202, 170))
    pen.polygon(((68, 98), (116, 56), (164, 98)), fill=(164, 66, 52))
    pen.rectangle((106, 128, 126, 168), fill=(104, 70, 50))
    for x in (86, 133):
        pen.rectangle((x, 108, x + 14, 122), fill=(70, 96, 130))
    for x in (30, 192):
        pen.rectangle((x - 4, 140, x + 4, 178), fill=(104, 70, 50))
        pen.ellipse((x - 24, 92, x + 24, 146), fill=(44, 104, 60))
    return drawn.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def model() -> ViTModel:
    """A ViT of random weights whose queries and keys are made alike, so that a patch looks at patches like it."""
    torch.manual_seed(0)
    size = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    vit = ViTModel(ViTConfig(**size, image_size=SIDE, patch_size=PATCH, initializer_range=0.1)).eval()
    with torch.no_grad():
        vit.embeddings.position_embeddings.mul_(0.1)
        for name, module in vit.named_modules():
            if name.endswith(("query", "q_proj")):
                module.weight.mul_(SHARPNESS**0.5)
                key = vit.get_submodule(name.replace("query", "key").replace("q_proj", "k_proj"))
                key.weight.copy_(module.weight)
    return vit


def page(path: Path) -> Path:
    """The page of this picture in this model."""
    drawn = picture()
    numbers = torch.from_numpy(np.array(drawn)).float()
    pixels = (numbers / 127.5 - 1).permute(2, 0, 1)[None]
    vit = model()
    with torch.no_grad(), ch.watch(vit) as seen:
        vit(pixels)
    facts = {"Model": "a ViT of random weights, its queries and keys made alike"}
    return seen.page(path, image=drawn, title="A house between two trees", facts=facts)
