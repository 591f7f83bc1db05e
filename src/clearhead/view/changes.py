"""The terminal's picture of a comparison: all heads at once, and those that differ most, with what changed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from clearhead.scope.columns import MEANINGS, ORDERS
from clearhead.scope.compare import Comparison
from clearhead.view.table import short
from clearhead.view.terminal import GUTTER, Grid, Heat, title

BAR = 12


@dataclass(frozen=True)
class Changes:
    """The grid of heads, coloured by how much each changed, and a list of the `top` that changed most."""

    comparison: Comparison
    by: str
    top: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if nothing := self.comparison.nothing():
            yield Text(nothing, "bold")
            return
        rows = self.comparison.heads(self.by, pandas=False)
        sized = [{**row, "size": abs(row[self._column])} for row in rows]
        heat = Heat.over([row["size"] for row in sized], console)
        name, says = ORDERS.get(self.by) or (title(self.by), f"change of: {MEANINGS.get(self.by, title(self.by))}")
        yield Text.assemble((name, "bold"), (f"  {says}", "dim"))
        yield Text.assemble(heat.legend(), ("   layers ↓ heads →   • a head listed", "dim"))
        yield Text()
        top = [row for row in sized if not math.isnan(row["size"])][: self.top]
        listed = self._list(top, heat.high)
        unlimited = options.update(max_width=1000)  # by the terminal's own width a measure is cut
        if console.measure(listed, options=unlimited).maximum > options.max_width:
            listed = self._list(top, heat.high, certainty=False)
        marked = {(row["layer"], row["head"]) for row in sized[: self.top]}
        heads = 1 + max(row["head"] for row in rows)
        grid = Grid(sorted(sized, key=lambda row: (row["layer"], row["head"])), "size", marked)
        cell = min((options.max_width - console.measure(listed).maximum - 3 - GUTTER) // heads, 4)
        if cell >= 2:
            both = Table.grid(padding=(0, 3, 0, 0))
            both.add_column(width=GUTTER + cell * heads)
            both.add_row(grid, listed)
            yield both
        else:
            yield from (grid, Text(), listed)

    @property
    def _column(self) -> str:
        return self.by if self.by in ORDERS else f"{self.by}_change"

    def _list(self, rows: list[dict[str, Any]], largest: float, *, certainty: bool = True) -> Table:
        """A line a head: where, a bar of its size, that as a number where it is no change, and what changed.

        Without `certainty`, for a narrow terminal, the intervals and the numbers of queries are left out.
        """
        drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        distance = [ORDERS[self.by][0]] if self.by == "js_distance" else []
        distance += ["±"] if distance and certainty else []
        sure = ("±", "queries") if certainty else ()
        for heading in ("layer", "head", "", *distance, "changed", "from", "to", "by", *sure):
            drawn.add_column(heading, justify="left" if heading in ("", "changed") else "right", no_wrap=True)
        for row in rows:
            filled = round(row["size"] / largest * BAR) if largest > 0 else 0
            bar = Text.assemble(("━" * filled, "green"), ("╌" * (BAR - filled), "dim"))
            error = Text(f"{row['js_distance_stderr']:.3f}", "dim")
            sizes = [Text(f"{row['size']:.3f}", "bold"), error][: len(distance)]
            drawn.add_row(str(row["layer"]), str(row["head"]), bar, *sizes, *self._changed(row)[: 4 + len(sure)])
        return drawn

    def _changed(self, row: Mapping[str, Any]) -> list[Text]:
        """Which column changed, from what, to what, by how much, how sure that is, and from how many queries."""
        column = row["most"] if self.by in ORDERS else self.by
        if column is None:
            return [Text("–")] * 6
        change = row[f"{column}_change"]
        by = f"{'+' if change >= 0 else '−'}{short(abs(change))}"
        half = row.get(f"{column}_change_high", change) - change
        queries = " ".join(str(n) for n in dict.fromkeys(row[f"{column}_queries_{end}"] for end in ("a", "b")))
        ends = (Text(short(row[f"{column}_{end}"])) for end in ("a", "b"))
        return [Text(title(column)), *ends, Text(by, "bold"), Text(short(half), "dim"), Text(queries, "dim")]
