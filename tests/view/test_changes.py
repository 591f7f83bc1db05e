"""The terminal's picture of a comparison: every head in the grid, and those that changed most in words."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from clearhead.view.changes import Changes
from clearhead.view.compared import Compared


def drawn(compared: Compared, by: str, width: int = 110, top: int = 5, colours: Any = None) -> str:
    out = io.StringIO()
    Console(
        file=out, width=width, force_terminal=True, no_color=colours is None, color_system=colours, _environ={}
    ).print(Changes(compared, by, top))
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


LISTED = re.compile(r"(\d+) +(\d+) +[━╌]{12} ")


@pytest.mark.parametrize("by", ["js_distance", "change", "entropy"])
def test_the_heads_that_differ_most_are_listed_first_and_marked_in_the_grid(compared: Compared, by: str) -> None:
    said = drawn(compared, by)
    rows = compared.heads(by, pandas=False)
    expected = [(row["layer"], row["head"]) for row in rows[:5]]
    assert [tuple(map(int, place)) for place in LISTED.findall(said)] == expected
    # Each cell of the grid is 4 wide and 2 high, with the dot in its first line.
    grid = [line for line in said.splitlines() if re.match(r" {3}\d [░▒▓█•]", line)]
    marked = {(int(line[3]), head) for line in grid for head in range(4) if "•" in line[5 + 4 * head : 9 + 4 * head]}
    assert marked == set(expected)


def test_what_changed_is_said_from_to_and_by_how_much(compared: Compared) -> None:
    row = compared.heads(pandas=False)[0]
    most, (a, b) = row["most"], (row[f"{row['most']}_{end}"] for end in ("a", "b"))
    sign = "+" if b > a else "−"
    line = next(line for line in drawn(compared, "js_distance").splitlines() if LISTED.search(line))
    distance = f"{row['js_distance']:.3f} {row['js_distance_stderr']:.3f}"
    told = f"{distance} {most.replace('_', ' ')} {a:.2f} {b:.2f} {sign}{abs(b - a):.2f}"
    assert told in " ".join(line.split())
    assert line.split()[-1] == str(row[f"{most}_queries_b"])


@pytest.mark.parametrize("width", [80, 110, 200])
def test_it_fits_the_terminal(compared: Compared, width: int) -> None:
    said = drawn(compared, "js_distance", width, top=12, colours="truecolor")
    assert max(map(len, said.splitlines())) <= width
    assert len(LISTED.findall(said)) == 12


def test_a_role_that_the_texts_have_no_target_for_lists_nothing(compared: Compared) -> None:
    assert "this text has nothing of the kind" in drawn(compared, "induction")
    assert LISTED.findall(drawn(compared, "induction")) == []
