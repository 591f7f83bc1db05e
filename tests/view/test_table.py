"""The whole table of heads: every number of it is there, coloured on a terminal, parseable elsewhere."""

import io
import math
import re
from typing import Any

import pandas
import pytest
import torch
from rich.console import Console

import clearhead as ch
from clearhead.view.table import Sheet, decimals, plain

COLUMNS = ("queries", "entropy", "distance", "previous_token", "previous_token_uniform", "induction")


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    table = []
    for layer in range(3):
        for head in range(2):
            numbers = dict(zip(COLUMNS, [12, *torch.rand(len(COLUMNS) - 1).tolist()], strict=True))
            numbers |= {"distance": 1234.5 * (1 + layer), "induction": math.nan}
            table.append({"layer": layer, "head": head, **numbers, "kind": "self", "name": f"layers.{layer}.attn"})
    return table


DECIMALS = {"entropy": 2, "distance": 0, "previous_token": 2, "previous_token_uniform": 2}


def on_a_terminal(rows: list[dict[str, Any]], width: int, colours: Any = "truecolor") -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=colours, _environ={}).print(Sheet(rows, DECIMALS))
    return out.getvalue()


def test_a_plain_table_is_read_again_by_its_columns(rows: list[dict[str, Any]]) -> None:
    read = pandas.read_csv(io.StringIO("\n".join(plain(rows, {}))), sep=r"\s+")
    assert list(read.columns) == list(rows[0])
    for line, row in zip(read.to_dict("records"), rows, strict=True):
        assert line == {
            name: x if isinstance(x, str) else pytest.approx(x, abs=5.1e-4, nan_ok=True) for name, x in row.items()
        }


def test_a_number_is_rounded_to_the_first_digit_of_its_standard_error() -> None:
    """By the definition, from each query's statistics: the median over the heads, three decimals at most."""
    layer = torch.nn.TransformerEncoderLayer(d_model=32, nhead=4, batch_first=True).eval()
    with torch.no_grad(), ch.watch(layer) as seen:
        layer(torch.randn(1, 300, 32))
    statistics = seen[0].statistics
    rounded = {}
    for column in ("distance", "entropy", "peak"):
        error = float((getattr(statistics, column)[0].std(1) / 300**0.5).median())
        rounded[column] = next(n for n in range(4) if 10.0**-n <= error or n == 3)
    assert decimals(seen, [*rounded, "max_score", "queries"]) == {**rounded, "max_score": 3, "queries": 3}
    assert rounded["distance"] == 0 and rounded["peak"] == 3
    line = next(reversed(list(plain([{"distance": 99.6, "peak": -0.0001, "queries": 300}], rounded))))
    assert line.split() == ["100", "0.000", "300"]


def test_a_plain_table_of_nothing_is_one_empty_line() -> None:
    assert list(plain([], {})) == [""]


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_on_a_terminal_every_column_is_there_in_any_width(rows: list[dict[str, Any]], width: int) -> None:
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(rows, width))
    assert max(map(len, drawn.splitlines())) <= width
    for word in ("queries", "entropy", "distance", "previous", "token", "uniform", "induction"):
        assert word in drawn
    for row in rows:
        for column in ("entropy", "previous_token", "previous_token_uniform"):
            assert f"{row[column]:.2f}" in drawn
        assert f"{row['distance']:.0f}" in drawn


def test_statistics_are_coloured_and_baselines_are_not(rows: list[dict[str, Any]]) -> None:
    coloured = re.findall(r"48;2;\d+;\d+;\d+m *([^\x1b ]+) *\x1b", on_a_terminal(rows, 200))
    assert sorted(coloured) == sorted(
        text
        for row in rows
        for text in (f"{row['entropy']:.2f}", f"{row['distance']:.0f}", f"{row['previous_token']:.2f}")
    )
