"""The page of a comparison, in a real browser: every head, sorted by what changed."""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.view import page
from clearhead.view.compared import Compared
from tests.view.browsing import Open, at, find, picture, press, texts, until

NAMES = ("<base>", "tuned & more")
LEFT, RIGHT, DOWN = "\ue012", "\ue014", "\ue015"


@pytest.fixture(scope="module")
def written(compared: Compared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "compare.html"
    return compared.page(path, names=NAMES, facts={"Text": "<b>none</b>"})


@pytest.fixture
def opened(visit: Open, written: Path) -> Open:
    return partial(visit, written)


def places(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{row['layer']}·{row['head']}" for row in rows]


def contents(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="contents">(.*?)</script>', path.read_text())
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_every_head_and_no_nan(written: Path, compared: Compared) -> None:
    known = contents(written)
    rows = {(row["layer"], row["head"]): row for row in compared.heads(pandas=False)}
    assert known["names"] == list(NAMES)
    assert known["by"] == "js_distance"
    assert not [column for column in known["columns"] if column.endswith("_uniform")]
    assert [(head["layer"], head["head"]) for head in known["heads"]] == sorted(rows)
    for head in known["heads"]:
        row = rows[head["layer"], head["head"]]
        assert head["js_distance"] == pytest.approx(row["js_distance"], rel=1e-3)
        for column, a, b in zip(known["columns"], head["a"], head["b"], strict=True):
            for value, expected in ((a, row[f"{column}_a"]), (b, row[f"{column}_b"])):
                assert value is None if math.isnan(expected) else value == pytest.approx(expected, rel=1e-3)
    assert known["facts"]["Rows"] == "The heads' rows were compared on 12 of 12 queries."


def test_it_is_one_file_that_asks_for_nothing(written: Path) -> None:
    text = written.read_text()
    assert not re.findall(r"\b(?:src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text
    script = page.bundle("compare.js")
    assert not re.findall(r"^(?:import|export)\b.*", script, re.MULTILINE)


@pytest.mark.browser
def test_heads_come_sorted_by_what_the_address_or_the_list_says(opened: Open, compared: Compared) -> None:
    from selenium.webdriver.support.select import Select

    browser = opened()
    assert texts(browser, "tbody th") == places(compared.heads("js_distance", pandas=False))
    assert texts(browser, "h1") == ["<base> → tuned & more"]
    assert "<b>none</b>" in texts(browser, ".about dd")
    for by in ("entropy", "change"):
        assert texts(opened(f"#by={by}"), "tbody th") == places(compared.heads(by, pandas=False))
    Select(browser.find_element("id", "by")).select_by_value("lse")
    assert texts(browser, "tbody th") == places(compared.heads("lse", pandas=False))


@pytest.mark.browser
def test_a_line_says_from_what_to_what(opened: Open, compared: Compared) -> None:
    row = compared.heads("distance", pandas=False)[0]
    browser = opened("#by=distance")
    a, b, half = map(float, re.findall(r"([\d.]+) tokens", texts(browser, "tbody .changed .value")[0]))
    assert (a, b) == pytest.approx((row["distance_a"], row["distance_b"]), rel=1e-2)
    assert half == pytest.approx(row["distance_change_high"] - row["distance_change"], rel=5e-2)


@pytest.mark.browser
def test_a_cell_of_the_grid_marks_its_line_and_stays_in_the_address(opened: Open) -> None:
    browser = opened()
    assert texts(browser, ".heads [role=rowheader]") == ["0", "1", "2"]
    browser.find_elements("css selector", ".heads [role=gridcell]")[1 * 4 + 2].click()
    assert texts(browser, "tr[aria-current] th") == ["1·2"]
    assert "layer=1&head=2" in browser.execute_script("return document.getElementById('clearhead').dataset.at")
    assert texts(opened("#layer=2&head=3"), "tr[aria-current] th") == ["2·3"]


@pytest.mark.browser
def test_arrow_keys_walk_the_grid_and_stop_at_its_edges(opened: Open) -> None:
    browser = opened("#layer=1&head=2")
    find(browser, ".heads [aria-selected=true]")[0].send_keys(RIGHT)
    until(browser, lambda: "layer=1&head=3" in at(browser))
    press(browser, RIGHT)
    press(browser, DOWN)
    until(browser, lambda: "layer=2&head=3" in at(browser))
    press(browser, DOWN)
    press(browser, LEFT)
    until(browser, lambda: "layer=2&head=2" in at(browser))
    assert texts(browser, "tr[aria-current] th") == ["2·2"]
    (chosen,) = find(browser, ".heads [tabindex='0']")
    assert chosen == browser.switch_to.active_element
    assert chosen.get_attribute("aria-label").startswith("layer 2, head 2: ")


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 820, 1100, 2200])
def test_no_width_needs_scrolling_sideways(opened: Open, width: int) -> None:
    browser = opened(width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_rows_that_could_not_be_compared_are_null_and_the_page_says_why(tmp_path: Path, compared: Compared) -> None:
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2)
    records = []
    for length in (4, 5):
        x = torch.randn(length, 1, 8)
        with ch.watch(attention) as seen:
            attention(x, x, x)
        records.append(seen)
    known = contents(ch.compare(*records).page(tmp_path / "compare.html"))
    assert [head["js_distance"] for head in known["heads"]] == [None, None]
    assert known["by"] == "change"
    assert known["facts"]["Rows"] == "The heads' rows were not compared, as the two did not read as many tokens."


@pytest.mark.browser
def test_a_head_of_both_runs_stands_side_by_side_and_what_is_held_in_one_is_held_in_the_other(
    opened: Open, compared: Compared
) -> None:
    browser = opened("#view=head&layer=1&head=2")
    assert texts(browser, ".side-name") == list(NAMES)
    sides = find(browser, ".side")
    token = sides[1].find_element("css selector", ".column.query [data-position='7']")
    token.click()
    until(browser, lambda: "query=7" in at(browser))
    read = """return [...arguments[0].querySelectorAll('.reading li')]
        .map(({ dataset }) => [Number(dataset.position), Number(dataset.weight)])"""
    for side, record in zip(sides, (compared.a, compared.b), strict=True):
        row = record[1].rows([7], head=2)[0]
        shown = dict(browser.execute_script(read, side))
        assert shown and all(abs(weight - row[key]) < 0.005 for key, weight in shown.items())


@pytest.mark.browser
def test_runs_of_which_statistics_alone_were_kept_show_what_changed_alone(visit: Open, tmp_path: Path) -> None:
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2)
    records = []
    for _ in range(2):
        x = torch.randn(4, 1, 8)
        with ch.watch(attention, keep="statistics") as seen:
            attention(x, x, x)
        records.append(seen)
    browser = visit(ch.compare(*records).page(tmp_path / "compare.html"), "#view=head")
    assert at(browser).startswith("#view=changes&")
    assert not find(browser, ".tabs")


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.browser
@pytest.mark.parametrize("view", ["head", "map", "product"])
def test_both_sides_are_saved_as_one_picture_each_under_its_name(opened: Open, view: str) -> None:
    browser = opened(f"#view={view}&layer=1&head=3&query=7")
    until(browser, lambda: len(find(browser, ".column.query .pointed, canvas[data-drawn], [data-strip=scores]")) == 2)
    drawn = picture(browser)
    sides = [group.findall(f"{SVG}svg") for group in drawn.findall(f"{SVG}g")]
    assert [len(side) for side in sides] == [1, 1]
    assert [group.findtext(f"{SVG}text") for group in drawn.findall(f"{SVG}g")] == list(NAMES)
    left, right = (side[0] for side in sides)
    for side in (left, right):
        words = ["".join(text.itertext()).lower() for text in side.iter(f"{SVG}text")]
        assert any(word.startswith(("layer 1, head 3", "layer 1 · head 3")) for word in words)
    assert float(right.attrib["x"]) >= float(left.attrib["width"])  # beside, not upon it
    assert float(drawn.attrib["width"]) == float(right.attrib["x"]) + float(right.attrib["width"])
    named = [part.attrib["id"] for part in drawn.iter() if "id" in part.attrib]
    assert len(named) == len(set(named)) == (2 if view == "head" else 0)
    assert {part.attrib["clip-path"] for part in drawn.iter() if "clip-path" in part.attrib} == {
        f"url(#{name})" for name in named
    }


@pytest.mark.browser
def test_the_saved_lines_are_each_run_s_own(opened: Open, compared: Compared) -> None:
    browser = opened("#view=head&layer=1&head=2&query=7")
    until(browser, lambda: len(find(browser, ".lines[data-drawn]")) == 2)
    sides = [group.find(f"{SVG}svg") for group in picture(browser).findall(f"{SVG}g")]
    for side, record in zip(sides, (compared.a, compared.b), strict=True):
        assert side is not None
        shown = sorted(float(path.attrib["stroke-opacity"]) for path in side.iter(f"{SVG}path"))
        row = record[1].rows([7], head=2)[0]
        assert shown == pytest.approx(sorted((0.25 + 0.75 * row).tolist())[-len(shown) :], abs=5e-3)


@pytest.mark.browser
def test_what_changed_is_no_picture_and_has_no_button(opened: Open) -> None:
    browser = opened()
    assert not find(browser, ".save")[0].is_displayed()


@pytest.mark.browser
def test_a_picture_of_one_side_alone_is_refused_in_a_sentence(opened: Open) -> None:
    """The page holds q and k of the clearest heads, which are not the same in both."""
    browser = opened("#view=product&layer=1&head=2")
    until(browser, lambda: len(find(browser, "[data-strip=scores]")) == 1)
    browser.execute_script("document.querySelector('[data-kind=svg]').click()")
    until(
        browser, lambda: texts(browser, ".said") == ["It could not be saved. There is nothing to be seen of this head."]
    )


def test_of_two_equal_runs_the_page_says_that_nothing_changed(tmp_path: Path) -> None:
    attention, x = torch.nn.MultiheadAttention(8, 2), torch.randn(4, 1, 8)
    records = []
    for _ in range(2):
        with ch.watch(attention) as seen:
            attention(x, x, x)
        records.append(seen)
    known = contents(ch.compare(*records).page(tmp_path / "compare.html"))
    assert known["facts"]["Changes"] == "Nothing changed: all 2 heads have the same numbers in both."
