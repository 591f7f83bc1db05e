"""Draw: a region of a head, the likeness of heads or a flow, as a figure in a file. By matplotlib, if it is there."""

import io
import math
import os
from functools import singledispatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearhead import atomic_write
from clearhead.errors import ClearheadError
from clearhead.scope.alike import Alike
from clearhead.scope.flow import Flow
from clearhead.scope.region import Region

FORMATS = (".png", ".svg", ".pdf")
COLOURS = "magma"
"""From dark to light, as even steps to the eye, and the same to eyes that can't tell red from green."""
DECADES = 4
"""Weights are coloured by their logarithm, from the heaviest down to so many powers of ten less."""
CELLS = 1000
"""A flow of more tokens is drawn with several in a cell, their shares added."""


def draw(what: Region | Alike | Flow, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Writes a figure as PNG, SVG or PDF: of `seen.map(…)`, of `seen.alike(…)` or of `seen.flow(…)`.

    A map has queries down and keys across; the colour of a weight is its logarithm, over four powers of ten
    below the heaviest, and black is less than that or hidden. Likeness has the distances with the heads of
    one cluster side by side, and the heads in a plane. A flow has layers down and tokens across, coloured so too.

    Needs matplotlib: `pip install 'clearhead[figures]'`. The file is written beside, and renamed when done. `force`
    replaces a file that Clearhead did not write.

    Raises:
        ClearheadError: another ending, no matplotlib, something else than these, weights that are NaN, or a file that
            Clearhead did not write.
        OSError: the file cannot be written.
    """
    return put(what, path, "draw", force=force)


def put(what: Any, path: str | os.PathLike[str], asked: str, *, force: bool = False) -> Path:
    """Writes a figure of anything that is registered with `paint`; `asked` is who was asked to, for the sentence."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ClearheadError(f"{asked}: got {path.name!r}, expected a name that ends in {', '.join(FORMATS)}.")
    atomic_write.check(path, force=force)
    atomic_write.write(path, rendered(what, path.suffix[1:]), force=force)
    return path


def rendered(what: Any, form: str) -> bytes:
    """A figure as the bytes of a file: "png", "svg" or "pdf"."""
    _need("matplotlib")
    from matplotlib.figure import Figure  # optional, and slow to import; this way it opens no window

    figure = Figure(layout="constrained")
    paint(what, figure)
    picture = io.BytesIO()
    maker = "Software" if form == "png" else "Creator"
    figure.savefig(picture, format=form, dpi=150, metadata={maker: atomic_write.MARK})
    return picture.getvalue()


def write_pixels(region: Region, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Writes a map as a bare PNG, one pixel a cell, in the colours of `draw`: quick, to be zoomed or tiled.

    Needs matplotlib, for the colours, and Pillow, which comes with it. `force` replaces a file that Clearhead did not
    write.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ClearheadError(f"write_pixels: got {path.name!r}, expected a name that ends in .png.")
    _need("matplotlib")
    from matplotlib import colormaps
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    weights = region.weights.cpu()
    heaviest = _heaviest(weights)
    # 0, black, is hidden or below the scale; 1 to 255 are even steps of the logarithm.
    decades = (weights / heaviest).log10() + DECADES if heaviest else torch.full_like(weights, -1)
    index = (1 + decades * 254 / DECADES).round().clamp(0, 255).masked_fill(decades < 0, 0).byte()
    image = Image.fromarray(index.numpy())
    image.putpalette(colormaps[COLOURS](range(256), bytes=True)[:, :3].tobytes())
    about = PngInfo()
    about.add_text("Software", atomic_write.MARK)
    about.add_text("Title", _title(region))
    about.add_text(
        "Description",
        f"Mean weight of a cell, log scale from {heaviest / 10**DECADES:.2g} (dark) to {heaviest:.2g} (light), black "
        f"below; queries {_span(region.rows)} down, keys {_span(region.columns)} across.",
    )
    picture = io.BytesIO()
    image.save(picture, format="png", pnginfo=about)
    atomic_write.write(path, picture.getvalue(), force=force)
    return path


@singledispatch
def paint(what: Any, figure: Any) -> None:
    """Draws something in an empty figure of matplotlib's; a function for each kind of thing is registered."""
    raise ClearheadError(
        f"draw: got {type(what).__name__}, expected what seen.map(…), seen.alike(…) or seen.flow(…) gave."
    )


@paint.register
def _(region: Region, figure: Any) -> None:
    figure.set_size_inches(8, 7)
    panel = figure.subplots()
    rows, columns = region.rows, region.columns
    extent = (columns.start, columns.stop, rows.stop, rows.start)
    drawn = _weights(panel, region.weights, extent)
    aspect = len(columns) / len(rows)
    panel.set(title=_title(region), xlabel="key", ylabel="query", aspect="auto" if not 0.2 < aspect < 5 else "equal")
    figure.colorbar(drawn, label="mean weight of a cell, log scale", extend="min")


@paint.register
def _(alike: Alike, figure: Any) -> None:
    figure.set_size_inches(13, 6)
    figure.suptitle(alike.verdict(), fontsize=10)
    near, plane = figure.subplots(1, 2)
    order = alike.order
    drawn = near.imshow(alike.distances.cpu()[order][:, order].numpy(), cmap=f"{COLOURS}_r", vmin=0)
    near.set_title("distances, clusters side by side", fontsize=10)
    near.set(xlabel="layer.head", ylabel="layer.head")
    shown = range(0, len(order), max(1, len(order) // 30))
    names = [".".join(map(str, alike.heads[order[n]])) for n in shown]
    near.set_xticks(shown, names, rotation=90, fontsize=6)
    near.set_yticks(shown, names, fontsize=6)
    figure.colorbar(drawn, label="mean Jensen–Shannon distance", ax=near)
    in_plane(alike, plane, figure)


@paint.register
def _(flow: Flow, figure: Any) -> None:
    layers, tokens, T = flow.shares.shape
    figure.set_size_inches(10, max(2.5, 0.08 * layers + 1.2) * tokens)
    panels = figure.subplots(tokens, squeeze=False)[:, 0]
    width = min(T, CELLS)
    cell = torch.arange(T) * width // T
    for n, (panel, token) in enumerate(zip(panels, flow.tokens, strict=True)):
        shares = torch.zeros(layers, width).index_add_(1, cell, flow.shares[:, n].cpu().float())
        drawn = _weights(panel, shares, (0, T, layers, 0))
        panel.set(title=f"where token {token} comes from", xlabel="token", ylabel="at the input of", aspect="auto")
        panel.set_yticks([y + 0.5 for y in range(layers)], [f"layer {layer}" for layer in flow.layers], fontsize=6)
        of = "a token" if width == T else f"{T / width:.3g} tokens"
        figure.colorbar(drawn, label=f"share of {of}, log scale", ax=panel, extend="min")


def in_plane(alike: Alike, panel: Any, figure: Any) -> None:
    """Heads as points, near one another if they look at the same tokens."""
    points, kept = alike.layout
    layers = [layer for layer, _ in alike.heads]
    dots = panel.scatter(*points.cpu().T.numpy(), c=layers, cmap="viridis", s=18)
    panel.set_title(f"in the plane, {kept:.0%} of the squared distances kept", fontsize=10)
    panel.set_aspect("equal")
    figure.colorbar(dots, label="layer", ax=panel)


def _weights(panel: Any, weights: Tensor, extent: tuple[int, int, int, int]) -> Any:
    """An image of weights by their logarithm."""
    from matplotlib.colors import LogNorm

    heaviest = _heaviest(weights) or 1.0
    norm = LogNorm(heaviest / 10**DECADES, heaviest)
    panel.set_facecolor("black")  # shows where a weight is 0
    return panel.imshow(weights.cpu().float().numpy(), cmap=COLOURS, norm=norm, extent=extent)


def _heaviest(weights: Tensor) -> float:
    heaviest = float(weights.max())
    if math.isnan(heaviest):
        raise ClearheadError("draw: got weights that are no numbers (NaN), which have no colour.")
    return heaviest


def _title(region: Region) -> str:
    return f"layer {region.layer}, head {region.head} ({region.name})"


def _span(tokens: range) -> str:
    return f"{tokens.start} to {tokens.stop - 1}"


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise ClearheadError(f"Figures need {package}, which is not installed: pip install 'clearhead[figures]'.")
