"""Drawings: how matplotlib draws each view of the page: of one head, of all heads, and of two runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from clearhead.scope.alike import Alike
from clearhead.scope.region import Region
from clearhead.view.draw import COLOURS, DECADES, in_plane, paint
from clearhead.view.terminal import title, visible

INK, HUE, MUTED, RULE = "#1c2126", "#2f4fa8", "#646a72", "#e5e2da"
"""The page's colours on light paper."""
FAINTEST = 0.004
"""A lighter line is not to be seen."""
NAMED = 48
"""So many tokens at an edge of a map have their names there."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Tokens left and right, and a line for each weight."""

    weights: Float[Tensor, "n m"]
    queries: Sequence[str]
    keys: Sequence[str]
    name: str
    query: int | None
    """The one row whose lines are drawn, with its weights in numbers; all if None."""
    places: tuple[range, range]
    """The positions of the queries and of the keys in the text, as far as they are shown."""


@dataclass(frozen=True, eq=False)
class Map:
    """A region with its tokens at the edges, where there is room."""

    region: Region
    queries: Sequence[str]
    keys: Sequence[str]


@dataclass(frozen=True, eq=False)
class Wall:
    """All heads as small maps: layers down, heads across. The bytes are as in `thumbs`."""

    pictures: Sequence[UInt8[np.ndarray, "H height width"]]


@dataclass(frozen=True, eq=False)
class Heads:
    """All heads as one number each, NaN where there is none."""

    values: Float[np.ndarray, "layers heads"]
    by: str


@dataclass(frozen=True, eq=False)
class Product:
    """One query, one key, and how the weight between them comes about."""

    q: Float[np.ndarray, " D"]
    k: Float[np.ndarray, " D"]
    scores: Float[np.ndarray, " Tk"]
    """Of the whole row, −inf where a key is hidden."""
    key: int
    words: tuple[str, str]
    name: str
    equation: str


@dataclass(frozen=True, eq=False)
class Roles:
    """A head's score in each role, and what a uniform head would score."""

    scores: Sequence[tuple[str, float, float]]
    name: str


@dataclass(frozen=True)
class Best:
    """The head that plays a role most: its name, its score and a uniform head's."""

    role: str
    name: str
    score: float
    uniform: float


@dataclass(frozen=True, eq=False)
class Report:
    """The strongest head of each role, and which heads are alike."""

    best: Sequence[Best]
    alike: Alike


@dataclass(frozen=True, eq=False)
class Patches:
    """The picture that a vision model read, and how much one token looks at each patch of it."""

    picture: UInt8[np.ndarray, "height width 3"]
    weights: Float[np.ndarray, "rows columns"]
    looks: tuple[int, int] | None
    """The patch that looks, as row and column; None if it is a special token."""
    name: str


@dataclass(frozen=True)
class Change:
    """A head's name, which of its numbers changed, from what, and to what."""

    name: str
    column: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Compared:
    """How much each head changed between two runs, NaN where nobody can say, and those that changed most."""

    sizes: Float[np.ndarray, "layers heads"]
    by: str
    changes: Sequence[Change]


@paint.register
def _(lines: Lines, figure: Any) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    rows, columns = lines.places
    low, high = min(rows.start, columns.start) - 1, max(rows.stop, columns.stop)
    figure.set_size_inches(6, max(1.6, 0.19 * (high - low) + 0.6))
    panel = figure.subplots()
    panel.set(xlim=(-0.9, 1.9), ylim=(high, low - 0.4))
    panel.axis("off")
    panel.set_title(lines.name, color=INK, fontsize=10, pad=10, parse_math=False)
    weights = lines.weights.double().cpu().numpy()
    drawn = [
        (i, j)
        for i, j in zip(*np.nonzero(weights > FAINTEST), strict=True)
        if lines.query is None or rows[i] == lines.query
    ]
    bend = np.linspace(0, 1, 24)
    rise = bend**2 * (3 - 2 * bend)
    curves = [np.stack([bend, rows[i] + (columns[j] - rows[i]) * rise], 1) for i, j in drawn]
    shown = [float(min(1, weights[pair])) for pair in drawn]
    faintest = 0 if lines.query is None else 0.12  # the lines of one query are few: even the lightest can be seen
    colours = [(*to_rgb(HUE), max(faintest, weight)) for weight in shown]
    panel.add_collection(LineCollection(curves, colors=colours, linewidths=[0.6 + 1.8 * weight for weight in shown]))
    words = {"va": "center", "fontsize": 8, "parse_math": False}
    for i, text in zip(rows, lines.queries, strict=True):
        is_it = i == lines.query
        panel.text(-0.03, i, visible(text), ha="right", color=INK, weight="bold" if is_it else "normal", **words)
    heaviest = dict.fromkeys(range(len(columns)), 0.0) | {j: weights[i, j] for i, j in drawn if lines.query is not None}
    for n, (j, text) in enumerate(zip(columns, lines.keys, strict=True)):
        told = f"   {heaviest[n]:.0%}" if heaviest[n] >= 0.005 else ""
        panel.text(1.03, j, visible(text) + told, ha="left", color=INK, **words)
    panel.text(-0.03, low - 0.2, "each token", ha="right", color=MUTED, **words)
    panel.text(1.03, low - 0.2, "looks at", ha="left", color=MUTED, **words)


@paint.register
def _(drawn: Map, figure: Any) -> None:
    paint(drawn.region, figure)
    panel = figure.axes[0]
    for tokens, texts, name in (
        (drawn.region.columns, drawn.keys, "x"),
        (drawn.region.rows, drawn.queries, "y"),
    ):
        if len(tokens) <= NAMED:
            options = {"rotation": 90} if name == "x" else {}
            labels = [visible(text) for text in texts]
            ticks = getattr(panel, f"set_{name}ticks")
            ticks([token + 0.5 for token in tokens], labels, fontsize=6, parse_math=False, **options)


@paint.register
def _(wall: Wall, figure: Any) -> None:
    from matplotlib.colors import LogNorm

    layers, heads = len(wall.pictures), max(map(len, wall.pictures))
    height, width = (max(picture.shape[side] for picture in wall.pictures) for side in (1, 2))
    cells = np.full((layers * (height + 2), heads * (width + 2)), np.nan)
    for layer, pictures in enumerate(wall.pictures):
        for head, picture in enumerate(pictures):
            top, left = layer * (height + 2) + 1, head * (width + 2) + 1
            cells[top : top + picture.shape[0], left : left + picture.shape[1]] = (picture / 255.0) ** 2
    figure.set_size_inches(1.2 + 0.42 * heads, 1.2 + 0.42 * layers)
    panel = figure.subplots()
    extent = (-0.5, heads - 0.5, layers - 0.5, -0.5)
    panel.set_facecolor("black")  # shows where a share is 0
    drawn = panel.imshow(cells, cmap=COLOURS, norm=LogNorm(10**-DECADES, 1), extent=extent, interpolation="none")
    figure.colorbar(drawn, label="share of a query’s weight, log scale", extend="min")
    _grid(panel, layers, heads, "all heads: queries down, keys across")


@paint.register
def _(heads: Heads, figure: Any) -> None:
    layers, across = heads.values.shape
    figure.set_size_inches(2.4 + 0.3 * across, 1.4 + 0.26 * layers)
    panel = figure.subplots()
    drawn = panel.imshow(heads.values, cmap="viridis", aspect="auto")
    _grid(panel, layers, across, title(heads.by))
    figure.colorbar(drawn, label=title(heads.by))


def _grid(panel: Any, layers: int, heads: int, name: str) -> None:
    panel.set(xlabel="head", ylabel="layer")
    panel.set_title(name, fontsize=9)
    for ticks, count in ((panel.set_xticks, heads), (panel.set_yticks, layers)):
        every = math.ceil(count / 40)
        ticks(range(0, count, every), [str(n) for n in range(0, count, every)], fontsize=6)
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)


@paint.register
def _(product: Product, figure: Any) -> None:
    query, key = (visible(word) for word in product.words)
    D = len(product.q)
    strips = [("q", query, product.q), ("k", key, product.k), ("q·k", "by dimension", product.q * product.k)]
    strips = strips if D else []  # a model that shows its scores alone has no vectors
    figure.set_size_inches(8, 1.1 * len(strips) + 2.9)
    panels = figure.subplots(len(strips) + 1, height_ratios=[1] * len(strips) + [1.6], squeeze=False)[:, 0]
    figure.suptitle(f"{product.name}\n{query} → {key}\n{product.equation}", fontsize=10, color=INK, parse_math=False)
    for panel, (name, says, values) in zip(panels, strips, strict=False):
        panel.bar(range(D), values, width=0.8, color=[HUE if value >= 0 else MUTED for value in values])
        panel.axhline(0, color=RULE, linewidth=0.8)
        panel.set_ylabel(
            f"{name}\n{says}", rotation=0, ha="right", va="center", fontsize=8, labelpad=16, parse_math=False
        )
        panel.set(xlim=(-1, D), xticks=[])
    seen = np.flatnonzero(np.isfinite(product.scores))
    row, last = product.scores[seen], panels[-1]
    last.plot(seen, row, color=HUE, linewidth=1, marker="." if len(seen) <= 200 else "")
    last.plot([product.key], [product.scores[product.key]], "o", color=INK)
    last.set(xlabel="key")
    last.set_ylabel("scores\nof this row", rotation=0, ha="right", va="center", fontsize=8)
    for panel in panels:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)


@paint.register
def _(roles: Roles, figure: Any) -> None:
    names, scores, uniform = zip(*roles.scores, strict=True)
    figure.set_size_inches(6, 0.3 * len(names) + 1.2)
    panel = figure.subplots()
    panel.barh(range(len(names)), scores, color=HUE, height=0.6)
    panel.plot(uniform, range(len(names)), "|", color=INK, markersize=13, markeredgewidth=2, label="a uniform head")
    panel.set_yticks(range(len(names)), [title(name) for name in names])
    panel.set(xlim=(0, max(0.05, *scores, *uniform) * 1.05), xlabel="mean weight on the role’s targets")
    panel.set_title(roles.name, parse_math=False)
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)


@paint.register
def _(report: Report, figure: Any) -> None:
    figure.set_size_inches(13, max(5.0, 0.3 * len(report.best) + 1.2))
    bars, plane = figure.subplots(1, 2)
    places = range(len(report.best))
    bars.barh(places, [best.score for best in report.best], color=HUE, height=0.6)
    bars.plot(
        [best.uniform for best in report.best],
        places,
        "|",
        color=INK,
        markersize=13,
        markeredgewidth=2,
        label="a uniform head",
    )
    bars.set_yticks(places, [f"{title(best.role)}  {best.name}" for best in report.best])
    bars.set(xlim=(0, 1), xlabel="mean weight on the role’s targets")
    bars.set_title("the strongest head of each role, as layer·head", fontsize=10)
    bars.invert_yaxis()
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(frameon=False, fontsize=8)
    in_plane(report.alike, plane, figure)
    figure.suptitle(report.alike.verdict(), fontsize=10)


@paint.register
def _(patches: Patches, figure: Any) -> None:
    figure.set_size_inches(9, 5)
    figure.suptitle(patches.name, parse_math=False)
    rows, columns = patches.weights.shape
    height, width, _ = patches.picture.shape
    extent = (0, width, height, 0)
    left, right = figure.subplots(1, 2)
    for panel in (left, right):
        panel.imshow(patches.picture, extent=extent)
        panel.set(xticks=[], yticks=[])
    heaviest = float(patches.weights.max())
    veil = np.ones((rows, columns, 4))
    veil[..., 3] = 0.9 * (1 - patches.weights / (heaviest or 1.0))
    right.imshow(veil, extent=extent, interpolation="none")
    left.set_title("the patch that looks" if patches.looks else "the token that looks is no patch", fontsize=10)
    right.set_title(f"where it looks: the clearest patch has {heaviest:.1%}", fontsize=10)
    if patches.looks:
        from matplotlib.patches import Rectangle

        (row, column), size = patches.looks, (width / columns, height / rows)
        corner = (column * size[0], row * size[1])
        left.add_patch(Rectangle(corner, *size, fill=False, edgecolor=HUE, linewidth=2.5))


@paint.register
def _(compared: Compared, figure: Any) -> None:
    layers, heads = compared.sizes.shape
    figure.set_size_inches(8 + 0.3 * heads, max(1.4 + 0.26 * layers, 1.4 + 0.28 * len(compared.changes)))
    grid, listed = figure.subplots(1, 2, width_ratios=[max(3.0, 0.3 * heads), 6])
    drawn = grid.imshow(compared.sizes, cmap="viridis", aspect="auto", vmin=0)
    what = "distance of the rows" if compared.by == "js_distance" else f"size of the change of {title(compared.by)}"
    _grid(grid, layers, heads, what if compared.by != "change" else "the largest change of a share")
    figure.colorbar(drawn, ax=grid)
    places = range(len(compared.changes))
    for place, change in zip(places, compared.changes, strict=True):
        listed.plot([change.before, change.after], [place, place], color=RULE, linewidth=3, zorder=1)
    listed.plot([change.before for change in compared.changes], places, "o", color=MUTED, label="before")
    listed.plot([change.after for change in compared.changes], places, "o", color=HUE, label="after")
    listed.set_yticks(places, [f"{title(change.column)}  {change.name}" for change in compared.changes], fontsize=8)
    listed.set_title("the heads that changed most, as layer·head", fontsize=9)
    listed.invert_yaxis()
    listed.spines[["top", "right"]].set_visible(False)
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}  # over the points it would read as some of them
    listed.legend(frameon=False, fontsize=8, **beside)
