"""The table of heads: on a terminal in blocks of columns, coloured; elsewhere plain, one line a row."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from clearhead.scope.columns import STDERR, HeadTable
from clearhead.scope.record import Record
from clearhead.view.terminal import Heat, title

CELL = 6
"""The width of a number on the terminal."""
DECIMALS = 3
"""The most that are printed of a number."""


def decimals(record: Record, columns: Iterable[str]) -> dict[str, int]:
    """How many decimals of each column to print: down to the first digit of its standard error, three at most.

    The queries of a text are taken as drawn at random, and of the heads' standard errors the median. What has none,
    as a maximum or a score of the weights alone, gets three decimals.

    >>> import clearhead as ch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> with ch.watch(layer) as seen, torch.no_grad():
    ...     _ = layer(torch.randn(1, 100, 16))
    >>> decimals(seen, ["distance", "peak"])
    {'distance': 1, 'peak': 3}
    """
    summaries = [layer.summary() for layer in record.layers]

    def of(column: str) -> int:
        mean = STDERR.get(column, column)
        errors = [summary.standard_error(mean) for summary in summaries if mean in summary.sums]
        error = float(torch.cat(errors).nanmedian()) if errors else 0.0
        return min(max(-math.floor(math.log10(error)), 0), DECIMALS) if error > 0 else DECIMALS

    return {column: of(column) for column in columns}


def plain(rows: HeadTable, decimals: Mapping[str, int]) -> Iterator[str]:
    """The table as lines, columns apart by spaces, to be read or parsed; nan where there is no number.

    >>> rows = [{"layer": 0, "head": 11, "peak": 0.512}, {"layer": 10, "head": 2, "peak": math.nan}]
    >>> print("\\n".join(plain(rows, {"peak": 2})))
    layer  head  peak
        0    11  0.51
       10     2   nan
    """
    columns = list(rows[0]) if rows else []
    cells = [columns, *([_rounded(row[column], decimals.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cell)) for cell in zip(*cells, strict=True)]
    words = [column for column in columns if rows and isinstance(rows[0][column], str)]
    for line in cells:
        aligned = zip(columns, line, widths, strict=True)
        yield "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width) for column, cell, width in aligned
        ).rstrip()


def _rounded(value: Any, places: int | None) -> str:
    """A number with this many decimals; what rounds to 0 has no minus sign."""
    return f"{value:z.{DECIMALS if places is None else places}f}" if isinstance(value, float) else str(value)


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
    decimals: Mapping[str, int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(self.rows[0]) if self.rows else []
        crossing = any(row.get("kind") == "cross" for row in self.rows)
        first = [name for name in columns if name in ("layer", "head") or (name == "kind" and crossing)]
        others = [column for column in columns if column not in first]
        room = options.max_width - sum(map(self._width, first))
        for n, block in enumerate(self._blocks(others, room)):
            if n:
                yield Text()
            yield self._block(first, block, console)

    def _blocks(self, columns: list[str], room: int) -> Iterator[list[str]]:
        """The columns in as few blocks as fit into the room, in their order; one column at least in each."""
        block: list[str] = []
        for column in columns:
            if block and sum(map(self._width, block)) + self._width(column) > room:
                yield block
                block = []
            block.append(column)
        yield block

    def _width(self, column: str) -> int:
        """Of the column with the space beside it."""
        texts = [*title(column).split(), *(self._text(column, row[column]) for row in self.rows)]
        return max(CELL, *map(len, texts)) + 1

    def _text(self, column: str, value: Any) -> str:
        return "–" if value != value else _rounded(value, self.decimals.get(column))

    def _block(self, first: list[str], columns: list[str], console: Console) -> Table:
        drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", collapse_padding=True)
        for name in first:
            drawn.add_column(name, justify="right", vertical="bottom", no_wrap=True)
        for column in columns:
            drawn.add_column(title(column).replace(" ", "\n"), justify="right", min_width=CELL, no_wrap=True)
        heats = {
            column: Heat.over([row[column] for row in self.rows], console)
            for column in columns
            if isinstance(self.rows[0][column], float) and not column.endswith(("_uniform", "_stderr"))
        }
        for row in self.rows:
            cells = [self._cell(column, row[column], heats.get(column)) for column in columns]
            drawn.add_row(*(str(row[name]) for name in first), *cells)
        return drawn

    def _cell(self, column: str, value: Any, heat: Heat | None) -> Text:
        """Coloured, but for what is no statistic of a head: counts, standard errors, what a uniform head scores."""
        text = self._text(column, value)
        return Text(text, "dim") if heat is None else heat.cell(value, CELL, text)
