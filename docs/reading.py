"""Draws the pictures of those pages of docs/models whose models read a source or see, from the real layers.

All of them, or some: python docs/reading.py t5 vit
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from clearhead.attend import Pattern, causal, full
from clearhead.models.families.original import base
from clearhead.models.families.whisper import waves
from clearhead.models.patches import Patches
from clearhead.models.sound import RATE, log_mel
from clearhead.nn import T5

HERE = Path(__file__).parent / "models"
INK, BLUE, VERMILION, PAPER = "#333333", "#0072b2", "#d55e00", "#f2f2f2"
"""Blue and vermilion, which everyone can tell apart (Okabe & Ito)."""
SEEN = ListedColormap([PAPER, BLUE, VERMILION])


def t5(figure: Figure) -> None:
    """The bucket of each distance, read off the bias of a layer whose table says each bucket's number."""
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for panel, side, far in zip(panels, ("encoder", "decoder"), (200, 0), strict=True):
        layer = T5(1, bidirectional=side == "encoder")
        with torch.no_grad():
            layer.table.copy_(torch.arange(32.0)[:, None])
            bias = layer.bias()
            distances = torch.arange(-200, far + 1)
            buckets = bias.at(torch.tensor([200]), distances + 200, 0, *bias.weights)[0, 0]
        for there, colour in ((distances <= 0, BLUE), (distances > 0, VERMILION)):
            panel.plot(distances[there], buckets[there], ".", color=colour, markersize=3)
        panel.set(title=side, xlabel="key − query, in tokens", xlim=(-200, far))
        dress(panel)
        print(f"t5: from distance {-int(distances[buckets == buckets[0]].max())} back, the {side}'s last bucket")
    panels[0].set_ylabel("bucket, of 32")


def original(figure: Figure) -> None:
    """Who sees whom in each of the three attentions; the positions that are added."""
    config = base()
    parts = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    encoder = config.encoder
    assert encoder is not None and isinstance(encoder.pattern, Pattern) and isinstance(config.pattern, Pattern)
    visible(parts[0], encoder.pattern, 12, 12, "encoder", "source", "source")
    visible(parts[1], config.pattern, 9, 9, "decoder", "target", "target")
    visible(parts[2], full(), 9, 12, "across", "target", "source")
    places = encoder.position.add(torch.zeros(1, 64, config.width), torch.arange(64)[None])[0]
    parts[3].imshow(places, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    parts[3].set(title="what is added to each token", xlabel="dimension, of 512", ylabel="place")


def whisper(figure: Figure) -> None:
    """A rising tone as the encoder is given it, and the places that it adds to its tokens."""
    mel, places = figure.subplots(1, 2, width_ratios=(1.6, 1))
    seconds = torch.arange(4 * RATE, dtype=torch.float64) / RATE
    tone = (2 * torch.pi * (200 * seconds + 450 * seconds**2)).sin() * 0.5 * (seconds % 1 < 0.75)
    heard = log_mel(tone, seconds=5)
    mel.imshow(heard, origin="lower", aspect="auto", extent=(0, 5, 0, 80), cmap="viridis", interpolation="nearest")
    mel.set(title="five seconds of log-mel: 500 frames, 250 tokens", xlabel="seconds", ylabel="pitch, of 80")
    table = waves(1500, 384).table[:250]
    places.imshow(table, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    places.set(title="what is added to each token", xlabel="dimension, of 384", ylabel="place, the first 250 of 1,500")


def vit(figure: Figure) -> None:
    """A picture, and the tokens that `Patches` makes of it, its matrix being the identity."""
    size, patch = 224, 16
    pixels = landscape(size)
    patches = Patches(3 * patch**2, size=size, patch=patch, bias=False)
    with torch.no_grad():
        patches.project.weight.copy_(torch.eye(3 * patch**2).view_as(patches.project.weight))
        patches.position.table.zero_()
        patches.class_token.fill_(0.8)
        tokens = patches(pixels[None])[0].unflatten(-1, (3, patch, patch))
    whole, cut = figure.subplots(1, 2)
    whole.imshow(pixels.permute(1, 2, 0))
    for line in range(patch, size, patch):
        whole.axhline(line - 0.5, color="white", linewidth=0.5)
        whole.axvline(line - 0.5, color="white", linewidth=0.5)
    whole.set(title="a picture of 224 × 224 pixels", xticks=[], yticks=[])
    columns, gap = 20, 4
    page = torch.ones(3, -(-len(tokens) // columns) * (patch + gap), columns * (patch + gap))
    for n, token in enumerate(tokens):
        top, left = (n // columns) * (patch + gap), (n % columns) * (patch + gap)
        page[:, top : top + patch, left : left + patch] = token
    cut.imshow(page.permute(1, 2, 0))
    cut.set(title="its 1 + 196 tokens, in their order", xticks=[], yticks=[])
    cut.spines[:].set_visible(False)


def clip(figure: Figure) -> None:
    """Whom the token that speaks sees in each stack; how sure e^t makes it."""
    image, text, sure = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    visible(image, full(), 10, 10, "picture", "token", "class token and squares", speaks=0)
    visible(text, causal(), 10, 10, "text", "token", "words and the end", speaks=9)
    ahead = torch.linspace(-0.15, 0.15, 301)
    for factor, colour, said in (
        (1 / 0.07, BLUE, "e^t = 14.3, as it begins"),
        (100, VERMILION, "100, where it is held"),
    ):
        sure.plot(ahead, (factor * ahead).sigmoid(), color=colour, label=said)
    sure.set(title="the nearer of two", xlabel="cosine, ahead of the other's", ylabel="probability")
    sure.legend(frameon=False, fontsize=8)
    dress(sure)


def visible(
    panel: Any,
    pattern: Pattern,
    queries: int,
    keys: int,
    title: str,
    rows: str,
    columns: str,
    speaks: int | None = None,
) -> None:
    """Who sees whom; the row that speaks for all in another colour."""
    seen = pattern.dense(queries, keys)[0, 0].int()
    if speaks is not None:
        seen[speaks] *= 2
    panel.imshow(seen, cmap=SEEN, vmin=0, vmax=2)
    panel.set(title=title, xlabel=f"key: {columns}", ylabel=f"query: {rows}", xticks=[], yticks=[])
    panel.set_xticks(torch.arange(keys + 1) - 0.5, minor=True)
    panel.set_yticks(torch.arange(queries + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white")
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)


def landscape(size: int) -> Tensor:
    """A sun over hills, `(3, size, size)`."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    sky = torch.stack((0.95 - 0.45 * (1 - y), 0.75 - 0.05 * (1 - y), 0.55 + 0.35 * (1 - y)))
    sun = ((x - 0.7) ** 2 + (y - 0.3) ** 2).sqrt()
    sky = torch.where(sun < 0.1, torch.tensor([1.0, 0.93, 0.6])[:, None, None], sky)
    for height, swing, colour in (
        (0.5, 6.0, (0.45, 0.55, 0.65)),
        (0.62, 9.0, (0.3, 0.5, 0.4)),
        (0.78, 5.0, (0.18, 0.35, 0.22)),
    ):
        hill = height + 0.07 * (swing * x + 10 * height).sin()
        sky = torch.where(y > hill, torch.tensor(colour)[:, None, None], sky)
    return sky


def dress(panel: Any) -> None:
    """Without a frame."""
    panel.spines[["top", "right"]].set_visible(False)


Pictures = dict[str, tuple[Callable[[Figure], None], tuple[float, float]]]
"""What draws each, and its size in inches."""


def draw(pictures: Pictures) -> None:
    """Those that the command line names, or all."""
    HERE.mkdir(exist_ok=True)
    for name in sys.argv[1:] or pictures:
        draws, size = pictures[name]
        figure = Figure(figsize=size, layout="constrained")
        draws(figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=110)
        picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(HERE / f"{name}.png", optimize=True)


PICTURES: Pictures = {
    "t5": (t5, (9, 3.2)),
    "original": (original, (11, 3)),
    "vit": (vit, (9, 4)),
    "whisper": (whisper, (10, 3.2)),
    "clip": (clip, (10, 3.2)),
}


if __name__ == "__main__":
    draw(PICTURES)
