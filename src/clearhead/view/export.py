"""Tables as files: rows written as JSON, CSV or Parquet."""

import csv
import importlib.util
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clearhead import atomic_write
from clearhead.errors import ClearheadError

Rows = Sequence[Mapping[str, Any]]
KINDS = ("json", "csv", "parquet")


def write_rows(
    path: str | os.PathLike[str],
    rows: Rows,
    about: Mapping[str, Any] | None = None,
    *,
    kind: str | None = None,
    force: bool = False,
) -> Path:
    """Writes rows to `path`, in one step. What is no number, as NaN, is null in the file: an empty cell in CSV.

    Args:
        path: ends in .json, .csv or .parquet, unless `kind` says which of them it is.
        rows: one mapping a row; a row may lack columns that others have.
        about: what the rows are of, to stand before them in JSON and among the metadata of Parquet. CSV has no
            place for it.
        kind: "json", "csv" or "parquet".
        force: replace a file that Clearhead did not write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_rows(folder + "/heads.csv", [{"head": 0, "peak": 0.5}, {"head": 1, "peak": math.nan}])
    ...     print(path.read_text())
    head,peak
    0,0.5
    1,

    Raises:
        ClearheadError: an unknown ending, Parquet without pyarrow, or a file that Clearhead did not write.
        OSError: the file cannot be written.
    """
    path = Path(path)
    kind = check(path, kind)
    if kind == "parquet":
        atomic_write.write(path, _parquet(rows, about or {}), force=force)
    else:
        data = as_text(rows, about, kind=kind).encode(errors="backslashreplace")
        names = data.partition(b"\n")[0] + b"\n" if kind == "csv" else None
        atomic_write.write(path, data, force=force, begins=names)
    return path


def check(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """The kind of file that `path` is to be; raises ClearheadError if it can't be written as one here."""
    suffix = Path(path).suffix
    kind = kind or suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ClearheadError(f"{path}: got a name that ends in '{suffix}', expected .json, .csv or .parquet.")
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ClearheadError(f"{path}: Parquet needs pyarrow, which is not here; get it with: pip install pyarrow.")
    return kind


def as_text(rows: Rows, about: Mapping[str, Any] | None = None, *, kind: str, ascii: bool = False) -> str:
    """Rows as JSON, `{"generator": ..., **about, "heads": rows}`, or as CSV with a line of names.

    `ascii` writes JSON in ASCII, with escapes for all other characters.
    """
    if kind == "json":
        told = {"generator": atomic_write.MARK, **(about or {}), "heads": [_with_null(row) for row in rows]}
        return json.dumps(told, indent=1, ensure_ascii=ascii, allow_nan=False) + "\n"
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    table.writeheader()
    table.writerows(map(_with_null, rows))
    return text.getvalue()


def _parquet(rows: Rows, about: Mapping[str, Any]) -> bytes:
    pa, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))  # optional
    known = [_with_null(row) for row in rows]
    arrays = {}
    for column in _columns(rows):
        values = [row.get(column) for row in known]
        nothing = all(value is None for value in values)  # of which the type can't be told
        arrays[column] = pa.array(values, pa.float64() if nothing else None)
    told = {"generator": atomic_write.MARK, "clearhead": json.dumps(dict(about), ensure_ascii=False)}
    out = io.BytesIO()
    parquet.write_table(pa.table(arrays).replace_schema_metadata(told), out)
    return out.getvalue()


def _columns(rows: Rows) -> list[str]:
    """Of all rows, in the order in which they come."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _with_null(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        column: None if isinstance(value, float) and not math.isfinite(value) else value
        for column, value in row.items()
    }
