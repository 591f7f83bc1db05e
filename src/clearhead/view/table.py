"""The whole table of heads: on a terminal in blocks of columns, coloured; elsewhere plain, one line a row."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from clearhead.scope.columns import HeadTable
from clearhead.view.terminal import Heat, title

CELL = 6
"""The width of a number on the terminal."""
NAMES = ("layer", "name", "kind", "head")
"""The columns that say which head a row is of."""


def plain(rows: HeadTable) -> Iterator[str]:
    """The table as lines, columns apart by spaces, to be read or parsed: six digits, nan where there is no number.

    >>> print("\\n".join(plain([{"layer": 0, "head": 11, "peak": 0.5}, {"layer": 10, "head": 2, "peak": math.nan}])))
    layer  head  peak
        0    11   0.5
       10     2   nan
    """
    columns = list(rows[0]) if rows else []
    cells = [columns, *([_digits(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, cell)) for cell in zip(*cells, strict=True)]
    words = [column for column in columns if rows and isinstance(rows[0][column], str)]
    for line in cells:
        aligned = zip(columns, line, widths, strict=True)
        yield "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width) for column, cell, width in aligned
        ).rstrip()


def _digits(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """A number in at most six characters, if it is below a million.

    >>> [short(x) for x in (0.123, -3.0, 45.67, 8191.5, math.nan)]
    ['0.12', '-3.00', '45.7', '8192', '–']
    """
    if math.isnan(value):
        return "–"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 999.95 else 0
    return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Sheet:
    """Every row, and every column in as many blocks as the terminal's width asks for."""

    rows: HeadTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        crossing = any(row["kind"] == "cross" for row in self.rows)
        first = [name for name in NAMES if name in ("layer", "head") or (name == "kind" and crossing)]
        others = [column for column in self.rows[0] if column not in NAMES] if self.rows else []
        across = max((options.max_width - 6 * len(first)) // (CELL + 4), 1)
        for start in range(0, len(others), across):
            if start:
                yield Text()
            yield self._block(first, others[start : start + across], console)

    def _block(self, first: list[str], columns: list[str], console: Console) -> Table:
        drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", collapse_padding=True)
        for name in first:
            drawn.add_column(name, justify="right", vertical="bottom", no_wrap=True)
        for column in columns:
            drawn.add_column(title(column).replace(" ", "\n"), justify="right", min_width=CELL, no_wrap=True)
        heats = {column: Heat.over([row[column] for row in self.rows], console) for column in columns}
        for row in self.rows:
            cells = [self._cell(column, row[column], heats[column]) for column in columns]
            drawn.add_row(*(str(row[name]) for name in first), *cells)
        return drawn

    def _cell(self, column: str, value: float, heat: Heat) -> Text:
        """Coloured, but for what is no statistic of a head: counts, standard errors, what a uniform head scores."""
        if isinstance(value, int) or column.endswith(("_uniform", "_stderr")):
            return Text(str(value) if isinstance(value, int) else short(value), "dim")
        return heat.cell(value, CELL, short(value))
