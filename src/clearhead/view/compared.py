"""What a comparison gives: what changed between two records, and its page."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearhead.scope.byte_sizes import in_bytes
from clearhead.scope.compare import ROWS, Comparison
from clearhead.scope.record import Record
from clearhead.view import figures, page
from clearhead.view.contents import number
from clearhead.view.figures import Figure
from clearhead.view.fitting import saved
from clearhead.view.page_sizes import BUDGET
from clearhead.view.scene import Scene

DIGITS = 7
"""As many as a number of float32 has, so that the page sorts heads as Python does."""


class Compared(Comparison):
    """What changed between two records, and its picture."""

    def page(
        self,
        path: str | os.PathLike[str],
        *,
        names: tuple[str, str] = ("the first", "the second"),
        by: str | None = None,
        facts: Mapping[str, str] | None = None,
        budget: int | float | str = BUDGET,
        force: bool = False,
    ) -> Path:
        """Writes a self-contained page: all heads, to be sorted by what changed, and any of them in both side by side.

        `names` are what the two are called, `by` is what heads are sorted by at first, as in `heads`, and `facts`
        are shown beside them. What is to be seen of the heads' weights takes `budget` at most, half for each of the
        two, as `Seen.page` has it; it wants records that keep q and k (`keep="qk"`). `force` replaces a file that
        Clearhead did not write.
        """
        runs, blocks = self._runs(in_bytes(budget, "budget") // 2)
        rows = sorted(self.heads(by, pandas=False), key=lambda row: (row["layer"], row["head"]))
        columns = [column for column in self.columns if f"{column}_a" in rows[0] and not column.endswith("_uniform")]
        nothing = self.nothing()
        halves = [column for column in columns if f"{column}_change_low" in rows[0]]
        contents = {
            "names": list(names),
            "facts": {**(facts or {}), **({"Changes": nothing} if nothing else {}), "Rows": self.how_rows()},
            "by": by or self.by,
            "columns": columns,
            "heads": [
                {
                    **{name: row[name] for name in ("layer", "name", "head", "most")},
                    **{name: number(row[name], DIGITS) for name in ("js_distance", "js_distance_stderr", "change")},
                    **{end: [number(row[f"{column}_{end}"], DIGITS) for column in columns] for end in ("a", "b")},
                    "half": [number(_half(row, column), DIGITS) if column in halves else 0 for column in columns],
                    "queries": [[row[f"{column}_queries_{end}"] for end in ("a", "b")] for column in columns],
                }
                for row in rows
            ],
            "runs": runs,
        }
        title = " → ".join(names)
        return page.put(path, page.document(title, contents, blocks, entry="compare.js"), force=force)

    def figure(self, *, by: str | None = None, top: int = 20) -> Figure:
        """What changed, as a figure for a paper: `.save("x.pdf")`, .svg or .png. `by` as in `heads`."""
        return Figure(figures.compared(self, by, top))

    def _runs(self, budget: int) -> tuple[list[dict[str, Any]] | None, dict[str, bytes]]:
        """What can be seen of each of the two in so many bytes: their contents, and blocks, marked "a-" and "b-"."""
        if "statistics" in (self.a.keep, self.b.keep):
            return None, {}
        runs = []
        blocks: dict[str, bytes] = {}
        for end, record in (("a", self.a), ("b", self.b)):
            contents, of_one = saved(Scene(record), budget)
            runs.append(contents)
            blocks |= {f"{end}-{name}": block for name, block in of_one.items()}
        return runs, blocks

    def how_rows(self) -> str:
        """How the heads' rows were compared, in a sentence."""
        if self.without_rows:
            return f"The heads' rows were not compared, as {self.without_rows}."
        said = f"The heads' rows were compared on {self.rows} of {self.of} queries"
        if self.differing:
            said += f", position by position; {self.differing} of the {self.tokens} tokens differ"
        return f"{said}."


def _half(row: Mapping[str, Any], column: str) -> float:
    """Half the interval of a column's change."""
    return (float(row[f"{column}_change_high"]) - float(row[f"{column}_change_low"])) / 2


def compare(a: Record, b: Record, *, rows: int = ROWS) -> Compared:
    """What changed between two watched runs of one architecture, head by head.

    Give the records of a model and its fine-tune that read one text, or of one model that read two.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> x = torch.randn(1, 5, 16)
    >>> with ch.watch(layer) as before:
    ...     _ = layer(x)
    >>> with torch.no_grad():
    ...     _ = layer.self_attn.in_proj_weight.mul_(2)
    >>> with ch.watch(layer) as after:
    ...     _ = layer(x)
    >>> ch.compare(before, after).heads(pandas=False)[0]["js_distance"] > 0
    True

    Args:
        a: before.
        b: after.
        rows: on how many queries of each text, evenly spaced, the rows of two heads are compared; see `Comparison`.

    Raises:
        ClearheadError: other numbers of layers or of heads, or attentions of another kind.
    """
    return Compared(a, b, rows=rows)
