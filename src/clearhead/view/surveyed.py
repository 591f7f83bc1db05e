"""What a survey found, in the terminal: all heads by one column, and the strongest of each role with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from clearhead.scope.columns import MEANINGS, HeadTable
from clearhead.view.terminal import ROLES, Grid, Heat, strongest, title


@dataclass(frozen=True)
class Survey:
    """The grid of heads coloured by a column, and below it the strongest heads of each role."""

    table: HeadTable
    by: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heat = Heat.over([row[self.by] for row in self.table], console)
        yield Text.assemble((title(self.by), "bold"), (f"  {MEANINGS.get(self.by, '')}", "dim"))
        yield Text.assemble(heat.legend(), ("   layers ↓ heads →   • a head listed", "dim"))
        yield Text()
        yield Grid(
            self.table, self.by, {(row["layer"], row["head"]) for role in ROLES for row in strongest(self.table, role)}
        )
        yield Text()
        yield playing(self.table)


def playing(table: HeadTable, top: int = 3) -> Table:
    """For each role the heads that play it most: the mean, its 95 % interval, and what a uniform head scores."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("role", "layer", "head", "mean", "95 % of means", "uniform"):
        drawn.add_column(heading, justify="left" if heading == "role" else "right", no_wrap=True)
    for role, where in ROLES.items():
        lines = [
            (
                str(row["layer"]),
                str(row["head"]),
                Text(_number(row[role]), "bold" if row[role] > row[f"{role}_uniform"] else "dim"),
                _between(row[f"{role}_low"], row[f"{role}_high"]),
                Text(_number(row[f"{role}_uniform"]), "dim"),
            )
            for row in strongest(table, role, top)
        ] or [("", "", Text("none", "dim"), "", Text())]
        for name, line in zip_longest((Text(title(role), "bold"), Text(where, "dim")), lines):
            drawn.add_row(name or "", *(line or ()))
        if role != list(ROLES)[-1]:
            drawn.add_row()
    return drawn


def noted(notes: Mapping[str, Sequence[str]], few: int = 3) -> Text:
    """How many documents there was something to say of, by what it was, and the names of the first few.

    >>> print(noted({"empty": ["a.txt"], "split": ["b", "c", "d", "e"]}))
    ! 1 empty: a.txt
    ! 4 split: b, c, d and 1 more
    """
    lines = []
    for what, names in notes.items():
        more = f" and {len(names) - few} more" if len(names) > few else ""
        lines.append(Text.assemble((f"! {len(names)} {what}", "yellow"), f": {', '.join(names[:few])}{more}"))
    return Text("\n").join(lines)


def _between(low: float, high: float) -> str:
    return "too few documents" if math.isnan(low) else f"{_number(low)} – {_number(high)}"


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.3f}"
