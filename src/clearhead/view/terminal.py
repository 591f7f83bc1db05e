"""The terminal's pictures: all heads at once, the heads worth looking at, and one head from near."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from clearhead.scope.columns import MEANINGS, HeadTable
from clearhead.scope.words import legible

ROLES = {
    "previous_token": "the one before",
    "first_token": "the sink",
    "self_token": "itself",
    "duplicate_token": "earlier copies",
    "induction": "what came next",
    "delimiter": "stops, commas",
}
"""The roles of which the strongest heads are listed, and where such a head looks."""

VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
"""Nine even steps of the scale: even to the eye, and to the eye that cannot tell red from green."""
GUTTER = 5
"""The width of the layers' numbers, left of the grid."""
SHADES = "░▒▓█"


def title(column: str) -> str:
    """A column's name as people say it.

    >>> title("previous_token")
    'previous token'
    """
    return column.replace("_", " ")


def visible(token: str) -> str:
    """A token's text with its spaces and line ends to be seen, and the bytes of what is less than a letter.

    >>> print(visible(" the"), visible("\\udcf0\\udc9f"))
    ·the \\xf0\\x9f
    """
    for hidden, shown in ((" ", "·"), ("\n", "↵"), ("\t", "→"), ("\r", "←")):
        token = token.replace(hidden, shown)
    return "".join(c if c.isprintable() else "�" for c in legible(token)) or "∅"


@dataclass(frozen=True)
class Heat:
    """A scale from `low` to `high`: colour where the terminal has enough of it, shades where it hasn't."""

    low: float
    high: float
    coloured: bool

    @staticmethod
    def over(values: Sequence[float], console: Console) -> "Heat":
        """The scale from the least to the largest of the values that are numbers."""
        numbers = [x for x in values if math.isfinite(x)] or [math.nan]
        coloured = not console.no_color and console.color_system in ("256", "truecolor")
        return Heat(min(numbers), max(numbers), coloured)

    def cell(self, value: float, width: int, text: str = "") -> Text:
        """A cell of that width, filled by the value, with a text in its middle."""
        if not math.isfinite(value):
            return Text((text or "·").center(width), "dim")
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        if not self.coloured:
            shade = SHADES[min(int(part * len(SHADES)), len(SHADES) - 1)]
            return Text(text.center(width, shade if len(text) < 2 else " "))
        red, green, blue = _viridis(part)
        ink = "#000000" if 0.3 * red + 0.6 * green + 0.1 * blue > 110 else "#ffffff"
        return Text(text.center(width), Style(color=ink, bgcolor=Color.from_rgb(red, green, blue)))

    def legend(self) -> Text:
        """The scale itself, between its ends."""
        if math.isnan(self.low):
            return Text("this text has nothing of the kind", "dim")
        steps = [self.low + (self.high - self.low) * n / 23 for n in range(24)]
        strip = [self.cell(step, 1) for step in steps]
        return Text.assemble(f"{_number(self.low)} ", *strip, f" {_number(self.high)}")


def _viridis(part: float) -> tuple[int, int, int]:
    place = min(max(part, 0.0), 1.0) * (len(VIRIDIS) - 1)
    below = min(int(place), len(VIRIDIS) - 2)
    a, b = (bytes.fromhex(VIRIDIS[n]) for n in (below, below + 1))
    red, green, blue = (round(x + (y - x) * (place - below)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


@dataclass(frozen=True)
class Grid:
    """All layers × heads at once: layers down, heads across, one cell a head, coloured by a column.

    Heads in `marked`, as (layer, head), carry a dot.
    """

    table: HeadTable
    by: str
    marked: Collection[tuple[int, int]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heat = Heat.over([row[self.by] for row in self.table], console)
        values = {(row["layer"], row["head"]): row[self.by] for row in self.table}
        layers, heads = _size(self.table)
        width = max(min((options.max_width - GUTTER) // heads, 4), 1)
        height = 2 if len(layers) <= 12 and width > 2 else 1
        across = max((options.max_width - GUTTER) // width, 1)
        for first in range(0, heads, across):
            some = range(first, min(first + across, heads))
            yield Text(" " * GUTTER + _ruler(some, width), "dim", no_wrap=True, overflow="crop")
            for layer in layers:
                here = [(layer, head) for head in some if (layer, head) in values]
                for line in range(height if here else 0):
                    marks = ["•" if line == 0 and place in self.marked else "" for place in here]
                    cells = [heat.cell(values[p], width, mark) for p, mark in zip(here, marks, strict=True)]
                    yield Text.assemble((f"{layer if line == 0 else '':>4} ", "dim"), *cells)


def _size(table: HeadTable) -> tuple[list[int], int]:
    """The layers, in order, and the most heads that one of them has."""
    return sorted({row["layer"] for row in table}), 1 + max(row["head"] for row in table)


def _ruler(heads: range, width: int) -> str:
    """The heads' numbers over their cells, as many as there is room for."""
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100) if n * width > len(str(heads[-1])))
    return "".join(f"{head:^{width}}".ljust(width * every) for head in heads[::every])


def strongest(table: HeadTable, role: str, top: int = 3) -> list[Mapping[str, Any]]:
    """The heads that play a role most, the strongest first; none if the text gave the role no chance."""
    playing = [row for row in table if math.isfinite(row[role])]
    return sorted(playing, key=lambda row: row[role], reverse=True)[:top]


def worth_looking_at(table: HeadTable, top: int = 3, bar: int = 16) -> Table:
    """For each role the heads that play it most, their score, and what a uniform head would score."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("role", "layer", "head", "", "score", "uniform"):
        drawn.add_column(heading, justify="left" if heading in ("role", "") else "right", no_wrap=True)
    for role, where in ROLES.items():
        rows = strongest(table, role, top)
        lines = [
            (
                str(row["layer"]),
                str(row["head"]),
                _bar(row[role], row[f"{role}_uniform"], bar),
                Text(_number(row[role]), "bold" if row[role] > row[f"{role}_uniform"] else "dim"),
                Text(_number(row[f"{role}_uniform"]), "dim"),
            )
            for row in rows
        ] or [("–", "–", Text("none", "dim"), Text("–"), Text("–"))]
        names = (Text(title(role), "bold"), Text(where, "dim"))
        for name, line in zip_longest(names, lines):
            drawn.add_row(name or "", *(line or ()))
        if role != list(ROLES)[-1]:
            drawn.add_row()
    return drawn


def _bar(score: float, uniform: float, width: int) -> Text:
    """The score as a bar, bright as far as it goes beyond a uniform head's."""
    filled, plain = round(score * width), round(min(score, uniform) * width)
    return Text.assemble(("━" * plain, "dim"), ("━" * (filled - plain), "green"), ("╌" * (width - filled), "dim"))


@dataclass(frozen=True)
class Overview:
    """The grid and the heads worth looking at: side by side where there is room, else one above the other."""

    table: HeadTable
    by: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heat = Heat.over([row[self.by] for row in self.table], console)
        yield Text.assemble((title(self.by), "bold"), (f"  {MEANINGS[self.by]}", "dim"))
        yield Text.assemble(heat.legend(), ("   layers ↓ heads →   • a head listed", "dim"))
        yield Text()
        marked = {(row["layer"], row["head"]) for role in ROLES for row in strongest(self.table, role)}
        grid, heads = Grid(self.table, self.by, marked), _size(self.table)[1]
        for bar, least in ((16, 3), (8, 2)):
            listed = worth_looking_at(self.table, bar=bar)
            room = options.max_width - console.measure(listed).maximum - 3
            cell = min((room - GUTTER) // heads, 4)
            if cell >= least:
                both = Table.grid(padding=(0, 3, 0, 0))
                both.add_column(width=GUTTER + cell * heads)
                both.add_row(grid, listed)
                yield both
                return
        yield from (grid, Text(), listed)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one layer's heads, or of one head: a line a column, coloured by its place in the model."""

    table: HeadTable
    layer: int
    head: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [row for row in self.table if row["layer"] == self.layer and self.head in (None, row["head"])]
        across = max((options.max_width - 26) // 7, 1)
        for first in range(0, len(rows), across):
            yield self._part(rows[first : first + across], console)

    def _part(self, rows: HeadTable, console: Console) -> Table:
        drawn = Table.grid(padding=(0, 1, 0, 0))
        drawn.add_row(
            Text("head", "dim"),
            *(Text(f"{row['head']:^6}", "bold") for row in rows),
            Text("uniform", "dim"),
        )
        for column, meaning in MEANINGS.items():
            heat = Heat.over([row[column] for row in self.table], console)
            uniform = rows[0].get(f"{column}_uniform")
            drawn.add_row(
                title(column),
                *(heat.cell(row[column], 6, _number(row[column])) for row in rows),
                Text("" if uniform is None else f"{_number(uniform):^7}", "dim"),
                Text(meaning if len(rows) == 1 else "", "dim"),
            )
            if f"{column}_stderr" in rows[0]:
                errors = (Text(f"{_number(row[f'{column}_stderr']):^6}", "dim") for row in rows)
                says = f"its standard error, from {rows[0]['sampled']} of the queries" if len(rows) == 1 else ""
                drawn.add_row("  ±", *errors, Text(), Text(says, "dim"))
        return drawn


@dataclass(frozen=True)
class Looks:
    """Where queries look: a line a query, with a strip of heat over all keys and the heaviest keys in words.

    `weights (n, Tk)` are the rows of the n queries `shown`; `queries` and `keys` are all tokens' texts.
    """

    queries: Sequence[str]
    keys: Sequence[str]
    weights: Tensor
    shown: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heat = Heat.over([0.0, 1.0], console)
        names = {i: Text(visible(self.queries[i]), "bold") for i in self.shown}
        widest = min(max(name.cell_len for name in names.values()), 14)
        strip = min(len(self.keys), (options.max_width - widest) // 2)
        for (i, name), row in zip(names.items(), self.weights, strict=True):
            name.truncate(widest, overflow="ellipsis", pad=True)
            line = Text.assemble((f"{i:>4} ", "dim"), name, " ", *_strip(row, strip, heat), " ")
            weights, keys = row.topk(min(8, len(row)))
            for weight, j in zip(weights.tolist(), keys.tolist(), strict=True):
                word = heat.cell(weight, 0, f" {visible(self.keys[j])} ")
                more = Text.assemble(" ", word, (f" {weight:.2f}", "dim"))
                if weight < 0.01 or line.cell_len + more.cell_len > options.max_width:
                    break
                line += more
            yield line


def _strip(row: Tensor, width: int, heat: Heat) -> list[Text]:
    """The row's weights in `width` cells, the heaviest of the keys that share a cell; no weight, no cell."""
    heaviest = [float(part.max()) for part in row.tensor_split(width)]
    return [heat.cell(weight, 1) if weight > 0 else Text(" ") for weight in heaviest]


class Change(NamedTuple):
    """How far looking changed the model's output."""

    difference: float
    """The largest."""
    largest: float
    """The output's largest value."""
    is_rounding: bool
    """Whether that is no more than rounding makes of a deep model's output, in its type."""


def outcome(changed: Change | None) -> str:
    """What looking did to the model's output: nothing (None), or a change as large as that."""
    if changed is None:
        return "The model's output is unchanged, bit for bit."
    return (
        f"The model's output is within {changed.difference:.1e} of an unwatched run's, "
        f"whose largest value is {changed.largest:.1f}."
    )


def verdict(attentions: int, layers: int, changed: Change | None, check: float, checked: int) -> Text:
    """How much was seen, and that looking changed nothing but by rounding.

    `changed` is how far the model's output is from that of an unwatched run, None if it is the same bit for
    bit; `check` the largest difference between what was seen and what the model's own kernel makes of the same rows,
    over the `checked` attentions that could be compared.

    >>> print(verdict(30, 30, Change(3e-5, 21.4, True), 2e-7, 30))
    ✓ 30 attentions seen in 30 layers. The model's output is within 3.0e-05 of an unwatched run's, whose largest
    value is 21.4. Self-check: the largest difference is 2.0e-07.
    """
    mark, style = ("✓", "green") if changed is None or changed.is_rounding else ("!", "bold red")
    if checked == 0:
        self_check = "No self-check: no attention showed an output to compare with."
    else:
        few = "" if checked == attentions else f" in {checked} of them"
        self_check = f"Self-check: the largest difference{few} is {check:.1e}."
    seen = f" {attentions} attentions seen in {layers} layers. "
    return Text.assemble((mark, style), seen, (outcome(changed), style), f" {self_check}")
