"""Tables as files: every number comes back as it was, and what is none is null."""

import csv
import json
import math
from pathlib import Path

import pytest

from clearhead import ClearheadError
from clearhead.atomic_write import MARK
from clearhead.view.export import as_text, check, write_rows

ROWS = [
    {"layer": 0, "name": "attn, the first", "head": 0, "peak": 1 / 3, "induction": math.nan},
    {"layer": 1, "name": 'at"tn', "head": 1, "peak": 1e-30, "induction": math.nan, "sink": -math.inf},
]
NULLED = [
    {"layer": 0, "name": "attn, the first", "head": 0, "peak": 1 / 3, "induction": None},
    {"layer": 1, "name": 'at"tn', "head": 1, "peak": 1e-30, "induction": None, "sink": None},
]


def test_json_holds_what_the_rows_are_of_and_null_for_no_number(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "heads.json", ROWS, {"model": "Käte"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"generator": MARK, "model": "Käte", "heads": NULLED}
    assert json.loads(as_text(ROWS, kind="json")) == {"generator": MARK, "heads": NULLED}


def test_csv_has_a_line_of_all_names_and_an_empty_cell_for_no_number(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "HEADS.CSV", ROWS, {"model": "left out"})
    with path.open(newline="", encoding="utf-8") as file:
        names, *lines = csv.reader(file)
    assert names == ["layer", "name", "head", "peak", "induction", "sink"]
    assert [[line[0], line[1], float(line[3]), *line[4:]] for line in lines] == [
        ["0", "attn, the first", 1 / 3, "", ""],
        ["1", 'at"tn', 1e-30, "", ""],
    ]


def test_parquet_keeps_types_nulls_and_what_the_rows_are_of(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not here; pip install pyarrow")
    table = parquet.read_table(write_rows(tmp_path / "heads.parquet", ROWS, {"model": "Käte"}))
    assert table.to_pylist() == [{"sink": None, **row} for row in NULLED]
    assert [str(table.schema.field(name).type) for name in ("layer", "peak", "induction")] == [
        "int64",
        "double",
        "double",
    ]
    assert json.loads(table.schema.metadata[b"clearhead"]) == {"model": "Käte"}


def test_half_of_a_surrogate_pair_is_written_as_json_spells_it(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.json", [{"head": 0}], {"corpus": "k\udce4tzchen"})
    assert json.loads(path.read_text())["corpus"] == "k\udce4tzchen"


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearhead.view.export.importlib.util.find_spec", lambda name: None)
    said = r"heads\.parquet: Parquet needs pyarrow, which is not here; get it with: pip install pyarrow\."
    with pytest.raises(ClearheadError, match=said):
        write_rows(tmp_path / "heads.parquet", ROWS)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_ending_is_refused_unless_the_kind_is_said(tmp_path: Path) -> None:
    for name, ending in (("heads.xlsx", ".xlsx"), ("heads", "")):
        said = rf"got a name that ends in '{ending}', expected \.json, \.csv or \.parquet\."
        with pytest.raises(ClearheadError, match=said):
            check(tmp_path / name)
    assert write_rows(tmp_path / "heads", ROWS, kind="csv").read_text().startswith("layer,name,")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads.csv").write_text(f"{MARK}, yesterday")

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="the disk is full"):
        write_rows(tmp_path / "heads.csv", ROWS)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("heads.csv", f"{MARK}, yesterday")]
