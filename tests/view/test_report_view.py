"""The report, in a real browser: its tables hold the head table's numbers, sorted, and it says what is left out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from clearhead.view.payload import LayerView
from tests.view.browsing import Open, at, find, picture, texts, until, write

SVG = "{http://www.w3.org/2000/svg}"
LAYERS, HEADS, TOKENS = 30, 8, 6
ROLES = ("previous_token", "induction")
LIKENESS = {
    "heads": [[0, 0], [0, 1], [1, 0], [2, 5]],
    "points": [[0.0, 0.0], [0.01, 0.0], [-0.3, 0.4], [0.5, 0.1]],
    "nearest": [0.01, 0.01, 0.5, 0.52],
    "clusters": [[[0, 0], [0, 1]]],
    "kept": 0.42,
    "spans": [0.012],
    "closest": [[0, 0], [0, 1]],
    "threshold": 0.1,
    "verdict": "50% of 4 heads have another within a Jensen–Shannon distance of 0.1 (mean over 6 of 6 queries).",
}


def layer(index: int, heads: int = HEADS) -> LayerView:
    words = [f" word{j}" for j in range(TOKENS)]
    keys = torch.zeros(heads, TOKENS, 1, dtype=torch.int64)
    return LayerView(f"layers.{index}.attn", "self", words, words, keys, torch.full((heads, TOKENS, 1), 0.8))


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    torch.manual_seed(1)
    return [
        {"layer": n, "name": f"layers.{n}.attn", "kind": "self", "head": head, "queries": 6}
        | {"induction": math.nan if (n, head) == (7, 7) else round(float(torch.rand(())), 4)}
        | {"previous_token": 0.3, "entropy": round(float(torch.rand(())) * 3, 3)}
        | {f"{role}_uniform": 0.1 for role in ROLES}
        for n in range(LAYERS)
        for head in range(HEADS)
    ]


@pytest.fixture(scope="module")
def written(table: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "look.html"
    facts = {"Self-check": "within 1e-7", "Model": "<b>tiny</b>"}
    return write(path, [layer(n) for n in range(LAYERS)], title="t", heads=table, facts=facts, likeness=LIKENESS)


@pytest.fixture
def opened(visit: Open, written: Path) -> Any:
    return lambda place="", **how: visit(written, f"#view=report{place}", **how)


def rows(browser: Any) -> dict[int, list[str]]:
    """The rows of the head table that exist, by their place."""
    script = """return [...document.querySelectorAll('.table-box tbody tr[aria-rowindex]')]
        .map((row) => [row.ariaRowIndex - 2, [...row.children].map((cell) => cell.textContent)])"""
    return dict(browser.execute_script(script))


def percent(text: str) -> float:
    return float(text.replace("\u202f%", "").replace(">", "").replace("<", "")) / 100


@pytest.mark.browser
def test_the_table_has_every_head_sorted_and_only_rows_in_sight_exist(opened: Any, table: list[dict[str, Any]]) -> None:
    browser = opened()
    assert not find(browser, ".table-box.scrolls")
    assert sorted(rows(browser)) == list(range(20))
    box = browser.execute_script(
        "const b = document.querySelector('.table-box'); return b.scrollHeight - b.clientHeight"
    )
    assert box == 0  # nothing that takes the wheel
    assert texts(browser, ".more-rows") == ["All 240 heads"]
    find(browser, ".more-rows")[0].click()
    assert texts(browser, ".table-box thead th") == ["layer · head", "induction", "previous token"]
    assert find(browser, ".table-box [aria-sort=descending]")[0].text.startswith("induction")
    expected = sorted((row for row in table if not math.isnan(row["induction"])), key=lambda row: -row["induction"])
    seen: dict[int, list[str]] = {}
    for down in range(0, 28 * len(table), 400):
        browser.execute_script("document.querySelector('.table-box').scrollTop = arguments[0]", down)
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert len(rows(browser)) < 80
        seen |= rows(browser)
    assert sorted(seen) == list(range(len(table)))
    for place, row in enumerate(expected):
        name, induction, previous = seen[place]
        assert name == f"{row['layer']} · {row['head']}"
        assert percent(induction) == pytest.approx(row["induction"], rel=0.02, abs=0.006)
        assert previous == "30\u202f%"
    assert seen[len(table) - 1][1] == "–"  # no number, last
    assert find(browser, ".table-box table")[0].get_attribute("aria-rowcount") == str(len(table) + 1)


@pytest.mark.browser
def test_a_click_on_a_column_sorts_by_it_and_another_turns_it_round(opened: Any, table: list[dict[str, Any]]) -> None:
    browser = opened("&columns=others")
    button = "[data-column=entropy] button"
    values = sorted(row["entropy"] for row in table)
    for order in (values[::-1], values):
        find(browser, button)[0].click()
        until(browser, lambda: "sort=entropy" in at(browser))
        shown = [float(rows(browser)[n][1].removesuffix(" nats")) for n in range(8)]
        assert shown == pytest.approx(order[:8], abs=0.006)
    assert "rising=1" in at(browser)
    find(browser, "[data-column=head] button")[0].click()
    until(browser, lambda: "sort=head" in at(browser))
    assert [rows(browser)[n][0] for n in (0, 9)] == ["0 · 0", "1 · 1"]
    find(browser, ".table-box tbody tr[data-head='1'] button")[0].click()
    until(browser, lambda: "view=head&layer=0&head=1" in at(browser))


@pytest.mark.browser
def test_the_strongest_heads_of_a_role_are_named_and_lead_there(opened: Any, table: list[dict[str, Any]]) -> None:
    browser = opened()
    known = [row for row in table if not math.isnan(row["induction"])]
    best = sorted(known, key=lambda row: -row["induction"])[:3]
    told = [text.split(" ")[0] for text in texts(browser, "tr[data-role=induction] .who button")]
    assert told == [f"{row['layer']}·{row['head']}" for row in best]
    clear = sum((row["induction"] - 0.1) / 0.9 >= 0.25 for row in known)
    assert texts(browser, "tr[data-role=induction] td")[-2:] == ["10\u202f%", str(clear)]
    find(browser, "tr[data-role=induction] .who button")[1].click()
    place = f"view=head&layer={best[1]['layer']}&head={best[1]['head']}"
    until(browser, lambda: place in at(browser))
    assert "by=induction" in at(browser)


@pytest.mark.browser
def test_heads_that_are_alike_are_points_and_a_list(opened: Any) -> None:
    browser = opened()
    assert LIKENESS["verdict"] in texts(browser, ".report-alike p")
    assert texts(browser, ".clusters button") == ["0·0", "0·1"]
    assert texts(browser, ".clusters .apart") == ["0.0120 apart"]
    script = """return [...document.querySelectorAll('.plane circle')].map((point) =>
        [point.dataset.layer, point.dataset.head, point.getAttribute('cx'), point.getAttribute('cy')].map(Number))"""
    points = browser.execute_script(script)
    assert [point[:2] for point in points] == LIKENESS["heads"]
    for side in (0, 1):
        drawn = torch.tensor([point[2 + side] for point in points])
        true = torch.tensor([point[side] for point in LIKENESS["points"]])
        assert (drawn - drawn.min()) / (drawn.max() - drawn.min()) == pytest.approx(
            (true - true.min()) / (true.max() - true.min()), abs=1e-3
        )
    find(browser, ".clusters button")[1].click()
    until(browser, lambda: "view=head&layer=0&head=1" in at(browser))


@pytest.mark.browser
def test_it_says_what_was_left_out_the_self_check_and_what_weights_do_not_tell(opened: Any) -> None:
    browser = opened()
    said = " ".join(texts(browser, ".report-facts"))
    assert "within 1e-7" in said
    assert "<b>tiny</b>" in said
    assert "80.0\u202f% of the weight on average" in said
    assert "The small maps of 30 layers did not fit." in said
    assert texts(browser, ".report-caution h2") == ["Attention is not explanation"]
    assert "has no such tests of faithfulness yet" in texts(browser, ".report-caution")[0]


@pytest.mark.browser
def test_without_likeness_or_numbers_it_says_why(visit: Open, tmp_path: Path) -> None:
    told = {"without": "2,304 heads on 8,192 tokens take too long to compare for a page."}
    bare = write(tmp_path / "bare.html", [layer(0, 1)], title="bare", likeness=told)
    browser = visit(bare, "#view=report")
    assert told["without"] in texts(browser, ".report-alike p")
    assert not find(browser, ".table-box")


@pytest.mark.browser
def test_heads_that_are_not_alike_are_told_with_the_nearest_two(visit: Open, tmp_path: Path) -> None:
    likeness = LIKENESS | {"clusters": [], "spans": [], "nearest": [0.31, 0.31, 0.5, 0.52], "closest": [[1, 0], [2, 5]]}
    apart = write(tmp_path / "apart.html", [layer(n) for n in range(3)], title="apart", likeness=likeness)
    browser = visit(apart, "#view=report")
    said = texts(browser, ".report-alike .hint")[0]
    assert said.endswith("The nearest two are 1·0 and 2·5, 0.310 apart.")
    find(browser, ".report-alike .hint button")[1].click()
    until(browser, lambda: "view=head&layer=2&head=5" in at(browser))


@pytest.mark.browser
def test_its_picture_has_the_roles_and_the_points(opened: Any) -> None:
    drawing = picture(opened())
    assert len(list(drawing.iter(f"{SVG}circle"))) == 4
    words = [text.text for text in drawing.iter(f"{SVG}text")]
    assert "induction" in words
    assert "previous token" in words


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1400, 3000])
def test_no_width_needs_scrolling_sideways(opened: Any, width: int) -> None:
    browser = opened("&columns=all", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
