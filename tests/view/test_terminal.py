"""The terminal's pictures: every head is there, coloured by its number, in any width and without colour too."""

import io
import math
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType
from rich.segment import Segment

from clearhead.scope import columns
from clearhead.scope.columns import MEANINGS
from clearhead.view import terminal
from clearhead.view.terminal import ROLES, SHADES, Grid, Heat, Looks, Numbers, Overview

PURPLE, YELLOW = (0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25)
Table = list[dict[str, Any]]


def table(layers: int, heads: int, **given: Any) -> Table:
    """A head table of random numbers in [0, 1); a column can be given, as a number or a function of (layer, head)."""
    rows = []
    for layer in range(layers):
        for head in range(heads):
            row: dict[str, Any] = {"layer": layer, "name": f"layers.{layer}", "kind": "self", "head": head}
            row |= {column: float(torch.rand(())) for column in columns.COLUMNS}
            row |= {name: x(layer, head) if callable(x) else x for name, x in given.items()}
            rows.append(row)
    return rows


def console(width: int = 100, colours: Any = "truecolor", **options: Any) -> Console:
    options = {"force_terminal": True, "color_system": colours, "legacy_windows": False, **options}
    return Console(width=width, file=io.StringIO(), _environ={}, **options)


def lines(drawn: RenderableType, on: Console) -> list[list[Segment]]:
    return on.render_lines(drawn, pad=False)


def text(drawn: RenderableType, width: int = 100, colours: Any = None) -> list[str]:
    rendered = lines(drawn, console(width, colours, no_color=colours is None))
    return ["".join(segment.text for segment in line).rstrip() for line in rendered]


def backgrounds(line: list[Segment]) -> list[tuple[int, int, int]]:
    """The background of each character that has one."""
    found = []
    for segment in line:
        if segment.style and segment.style.bgcolor and segment.style.bgcolor.triplet:
            found += [tuple(segment.style.bgcolor.triplet)] * len(segment.text)
    return found


# All heads at once


def test_the_scale_grows_lighter_in_even_steps() -> None:
    """L* of CIELAB, so that it reads the same to every eye, and in grey."""

    def lightness(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
        luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        return 116 * luminance ** (1 / 3) - 16

    scale = torch.tensor([lightness(terminal._viridis(n / 20)) for n in range(21)])
    steps = scale.diff()
    assert (steps / steps.mean() - 1).abs().max() < 0.35


def test_the_columns_that_colour_are_those_of_the_head_table() -> None:
    ours = [
        column
        for column in columns.COLUMNS
        if column not in (*columns.COUNTS, *columns.STDERR) and not column.endswith("_uniform")
    ]
    assert sorted(MEANINGS) == sorted(ours)
    assert set(ROLES) < set(MEANINGS)


def test_every_head_has_one_cell_coloured_by_its_number() -> None:
    values = table(30, 9, peak=lambda layer, head: layer * 9 + head)
    _, *rows = lines(Grid(values, "peak"), console())
    cells = [backgrounds(row) for row in rows]
    assert [len(row) for row in cells] == [9 * 4] * 30
    assert (cells[0][0], cells[-1][-1]) == (PURPLE, YELLOW)
    assert len({colour for row in cells for colour in row}) > 200


def test_layers_go_down_and_heads_across() -> None:
    one = table(20, 3, peak=lambda layer, head: float((layer, head) == (15, 2)))
    _, *rows = lines(Grid(one, "peak"), console())
    bright = [(n, c // 4) for n, row in enumerate(rows) for c, x in enumerate(backgrounds(row)) if x == YELLOW]
    assert bright == [(15, 2)] * 4
    assert [line.split()[0] for line in text(Grid(one, "peak"))[1:]] == [str(n) for n in range(20)]


def test_the_picture_says_its_statistic_with_the_least_and_the_most() -> None:
    drawn = text(Overview(table(2, 2, distance=lambda layer, head: 1.25 + 10 * layer + head), "distance"))
    assert drawn[0] == f"distance  {MEANINGS['distance']}"
    assert drawn[1].split()[0] == "1.25"
    assert "12.2 " in drawn[1]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_48_layers_of_48_heads_fit(width: int) -> None:
    drawn = [line for line in lines(Grid(table(48, 48), "peak"), console(width)) if backgrounds(line)]
    assert len(drawn) == 48
    assert {len(backgrounds(line)) % 48 for line in drawn} == {0}


def test_more_heads_than_the_terminal_is_wide_are_wrapped() -> None:
    drawn = lines(Grid(table(13, 100), "peak"), console(45))
    cells = [len(backgrounds(line)) for line in drawn if backgrounds(line)]
    assert cells == [40] * 13 + [40] * 13 + [20] * 13
    assert [line.split()[0] for line in text(Grid(table(13, 100), "peak"), 45)][::14] == ["0", "40", "80"]


def test_layers_may_differ_in_their_heads() -> None:
    rows = [row for row in table(20, 4) if row["layer"] != 7 or row["head"] < 2]
    drawn = [len(backgrounds(line)) for line in lines(Grid(rows, "peak"), console()) if backgrounds(line)]
    assert drawn == [16] * 7 + [8] + [16] * 12


@pytest.mark.parametrize("options", [{"no_color": True}, {"colours": None}, {"colours": "standard"}])
def test_without_colours_the_cells_are_shades(options: dict[str, Any]) -> None:
    rising = table(20, 4, peak=lambda layer, head: head)
    _, *rows = lines(Grid(rising, "peak"), console(**options))
    assert not any(backgrounds(row) for row in rows)
    shown = "".join(segment.text for segment in rows[0]).strip("0 ")
    assert shown == "".join(shade * 4 for shade in SHADES)


def test_a_head_without_a_number_is_a_dot_and_a_text_without_any_says_so() -> None:
    some = table(20, 2, induction=lambda _, head: head if head else math.nan)
    assert text(Grid(some, "induction"))[1] == "   0  ·  " + SHADES[0] * 4
    assert text(Overview(table(2, 2, induction=math.nan), "induction"))[1].startswith("this text has nothing")


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (6, 12), (30, 9), (48, 48), (3, 150)])
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_wrapped(width: int, layers: int, heads: int) -> None:
    rows, on = table(layers, heads), console(width)
    grid = [line for line in lines(Grid(rows, "peak"), on) if backgrounds(line)]
    assert {len(line[0].text) for line in grid} == {terminal.GUTTER}
    assert sum(len(backgrounds(line)) for line in grid) % (layers * heads) == 0
    numbers = [line for line in lines(Numbers(rows, 0), on) if line[0].text.startswith("peak")]
    assert sum(len(backgrounds(line)) for line in numbers) == heads * 6
    words = ["·" * (n % 30) for n in range(200)]
    assert len(lines(Looks(words, words, torch.rand(3, 200).softmax(-1), [0, 29, 180]), on)) == 3


# The heads worth looking at


def test_the_strongest_heads_come_first_each_beside_a_uniform_head() -> None:
    scores = {(1, 0): 0.9, (3, 1): 0.8, (2, 1): 0.7}
    rows = table(4, 2, induction=lambda *head: scores.get(head, 0.1), induction_uniform=0.05)
    drawn = [line.split() for line in text(terminal.worth_looking_at(rows))]
    first = next(n for n, line in enumerate(drawn) if line[:1] == ["induction"])
    listed = [[word for word in line if word.replace(".", "").isdigit()] for line in drawn[first : first + 3]]
    assert listed == [["1", "0", "0.90", "0.05"], ["3", "1", "0.80", "0.05"], ["2", "1", "0.70", "0.05"]]


def test_all_six_roles_are_listed() -> None:
    drawn = "\n".join(text(terminal.worth_looking_at(table(3, 3))))
    assert [role for role in ROLES if terminal.title(role) not in drawn] == []


def test_a_role_that_the_text_has_no_target_for_says_none() -> None:
    rows = table(2, 2, duplicate_token=math.nan)
    line = next(line for line in text(terminal.worth_looking_at(rows)) if line.startswith("duplicate token"))
    assert line.split() == ["duplicate", "token", "–", "–", "none", "–", "–"]


def test_a_bar_is_as_long_as_its_score_and_bright_beyond_the_uniform_heads() -> None:
    bar = terminal._bar(0.75, 0.25, 16)
    assert bar.plain == "━" * 12 + "╌" * 4
    assert [(span.start, span.end) for span in bar.spans if span.style == "green"] == [(4, 12)]
    assert not any(span.style == "green" for span in terminal._bar(0.1, 0.5, 16).spans)


def test_the_heads_listed_are_marked_in_the_grid() -> None:
    rows = table(20, 6)
    listed = {(row["layer"], row["head"]) for role in ROLES for row in terminal.strongest(rows, role)}
    marks = "\n".join(text(Overview(rows, "peak"))[3:]).count("•")
    assert marks == len(listed)


def test_grid_and_list_are_side_by_side_where_there_is_room() -> None:
    rows = table(30, 9)
    assert "role" in text(Overview(rows, "peak"), 80)[3]
    assert "role" not in text(Overview(rows, "peak"), 70)[3]
    assert any(line.startswith("role") for line in text(Overview(rows, "peak"), 70))


# From near


def test_the_numbers_of_a_layer_have_a_column_a_head_and_the_uniform_score() -> None:
    rows = table(3, 4, peak=lambda layer, head: layer + head / 10, first_token=0.5, first_token_uniform=0.125)
    drawn = text(Numbers(rows, 2))
    assert drawn[0].split() == ["head", "0", "1", "2", "3", "uniform"]
    assert next(line for line in drawn if line.startswith("peak")).split()[1:] == ["2.00", "2.10", "2.20", "2.30"]
    assert next(line for line in drawn if line.startswith("first token")).split()[2:] == [*["0.50"] * 4, "0.12"]


def test_the_numbers_of_one_head_come_with_their_meanings() -> None:
    drawn = "\n".join(text(Numbers(table(3, 4), 1, 2)))
    assert [meaning for meaning in MEANINGS.values() if meaning not in drawn] == []


def test_an_estimate_comes_with_its_standard_error() -> None:
    rows = table(3, 4, effective_context=12.5, effective_context_stderr=0.75, sampled=32)
    drawn = text(Numbers(rows, 2, 1))
    at = next(n for n, line in enumerate(drawn) if line.startswith("effective context"))
    assert drawn[at + 1].split()[:2] == ["±", "0.75"]
    assert drawn[at + 1].rstrip().endswith("its standard error, from 32 of the queries")


def test_a_number_is_coloured_by_its_place_among_all_heads_of_the_model() -> None:
    rows = table(5, 2, peak=lambda layer, head: layer)
    for layer, colour in ((0, PURPLE), (4, YELLOW)):
        drawn = lines(Numbers(rows, layer), console())
        peak = next(line for line in drawn if line[0].text.startswith("peak"))
        assert set(backgrounds(peak)) == {colour}


def test_the_heaviest_keys_of_a_query_are_named_heaviest_first() -> None:
    words = ["The", " cat", " sat", "\n"]
    rows = torch.tensor([[0.25, 0.75, 0, 0], [0.1, 0.2, 0.695, 0.005]])
    first, second = text(Looks(words, words, rows, [1, 3]))
    assert first.split()[:2] == ["1", "·cat"]
    assert first.split()[-4:] == ["·cat", "0.75", "The", "0.25"]
    assert second.split()[:2] == ["3", "↵"]
    assert second.split()[-6:] == ["·sat", "0.69", "·cat", "0.20", "The", "0.10"]


def test_the_strip_has_a_cell_a_key_and_none_for_keys_without_weight() -> None:
    words = ["a"] * 4
    (line,) = lines(Looks(words, words, torch.tensor([[0.0, 1.0, 0.25, 0.0]]), [2]), console())
    cells = [segment for segment in line if segment.style and segment.style.bgcolor]
    assert [cell.text for cell in cells] == [" ", " ", " a ", " a "]
    assert backgrounds(line)[0] == YELLOW
    assert text(Looks(words, words, torch.tensor([[0.0, 1.0, 0.25, 0.0]]), [2]))[0].startswith("   2 a  █▒")


def test_a_strip_of_many_keys_shows_the_heaviest_of_those_that_share_a_cell() -> None:
    row = torch.full((1000,), 1e-6)
    row[500] = 1.0
    words = ["a"] * 1000
    (line,) = lines(Looks(words, words, row[None], [999]), console(80))
    strip = backgrounds(line)[:39]
    assert strip.count(YELLOW) == 1
    assert strip.index(YELLOW) == 19


def test_control_characters_of_a_token_never_reach_the_terminal() -> None:
    assert terminal.visible("\x1b[2J\t a\r\n") == "�[2J→·a←↵"
    assert terminal.visible("") == "∅"


# The verdict


def test_the_verdict_says_what_was_seen_and_that_nothing_changed() -> None:
    said = terminal.verdict(60, 30, None, 3e-7, 60).plain
    assert said == (
        "✓ 60 attentions seen in 30 layers. The model's output is unchanged, bit for bit. "
        "Self-check: the largest difference is 3.0e-07."
    )


def test_the_verdict_says_by_how_much_the_output_changed() -> None:
    rounding = terminal.verdict(30, 30, terminal.Change(2e-5, 21.4, True), 3e-7, 12).plain
    assert rounding.startswith("✓ 30 attentions seen")
    assert "is within 2.0e-05 of an unwatched run's, whose largest value is 21.4." in rounding
    said = terminal.verdict(30, 30, terminal.Change(0.5, 21.4, False), 3e-7, 12)
    assert said.plain.startswith("! 30 attentions seen")
    assert "is within 5.0e-01 of an unwatched run's" in said.plain
    assert "the largest difference in 12 of them is 3.0e-07" in said.plain
    assert "green" not in {span.style for span in said.spans}


def test_the_verdict_owns_up_to_a_self_check_that_compared_nothing() -> None:
    assert "No self-check: no attention showed an output" in terminal.verdict(4, 4, None, 0.0, 0).plain


def test_a_scale_of_one_value_has_a_colour() -> None:
    heat = Heat.over([0.5, 0.5], console())
    assert heat.cell(0.5, 2).style.bgcolor.triplet == PURPLE
