"""The model view, in a real browser: it opens first, shows every head's map as Python made it, and leads to each."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clearhead.view.payload import LayerView
from tests.view.browsing import Open, at, find, picture, press, texts, until, write

SVG = "{http://www.w3.org/2000/svg}"
DOWN, RIGHT, END, ENTER = "\ue015", "\ue014", "\ue010", "\ue007"
LAYERS, HEADS, TOKENS = 5, 4, 40
ROLES = ("previous_token", "induction", "first_token")


def layer(index: int, heads: int = HEADS) -> LayerView:
    words = [f" word{j}" for j in range(TOKENS)]
    keys = torch.zeros(heads, TOKENS, 1, dtype=torch.int64)
    return LayerView(f"layers.{index}.attn", "self", words, words, keys, torch.ones(heads, TOKENS, 1))


def row(layer: int, head: int) -> dict[str, Any]:
    """The heads that copy are 3·2, then 1·0; a third one is not clearly above a uniform head."""
    induction = {(3, 2): 0.9, (1, 0): 0.5, (0, 1): 0.2}.get((layer, head), 0.01)
    return {
        "layer": layer,
        "name": f"layers.{layer}.attn",
        "kind": "self",
        "head": head,
        "queries": 40,
        "entropy": layer + head / 10,
        "previous_token": 0.6 if head == 3 else 0.02,
        "induction": induction,
        "first_token": math.nan,
        **{f"{role}_uniform": math.nan if role == "first_token" else 0.1 for role in ROLES},
    }


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """[layer][head][row][column]"""
    maps = np.random.default_rng(0).integers(0, 256, (LAYERS, HEADS, 32, 32))
    return maps.astype("u1")


@pytest.fixture(scope="module")
def written(codes: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maps of the last layer did not fit."""
    table = [row(n, head) for n in range(LAYERS) for head in range(HEADS)]
    blocks = {f"thumbs-{n}": codes[n].tobytes() for n in range(LAYERS - 1)}
    path = tmp_path_factory.mktemp("model") / "look.html"
    facts = {"Model": "tiny (Tiny)"}
    return write(path, [layer(n) for n in range(LAYERS)], title="t", heads=table, blocks=blocks, facts=facts)


def drawn(browser: Any) -> int:
    """How many tiles show something, once all is still."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return sum(int(canvas.get_attribute("data-drawn") or 0) for canvas in find(browser, ".bands canvas"))


def cursor(browser: Any) -> str:
    """What is said of the tile that the keyboard is at."""
    return str(find(browser, ".tile-at")[0].get_attribute("aria-label"))


def pixels(browser: Any) -> np.ndarray:
    """Red, green and blue of the tile that the keyboard is at."""
    script = """const { left, top, width } = document.querySelector('.tile-at').style;
        const [x, y, size] = [left, top, width].map(parseFloat);
        const context = document.querySelector('.bands canvas').getContext('2d');
        return [...context.getImageData(x, y, size, size).data]"""
    data = np.array(browser.execute_script(script))
    size = math.isqrt(len(data) // 4)
    return data.reshape(size, size, 4)[..., :3]


@pytest.mark.browser
def test_the_page_opens_with_all_heads_and_says_which_copies_from_earlier_repeats(visit: Open, written: Path) -> None:
    browser = visit(written)
    assert at(browser).startswith("#view=model")
    assert "20 attention heads of tiny" in texts(browser, ".lead")[0]
    first = texts(browser, ".habits li")[0]
    assert (
        first
        == "Looks at what followed earlier repeatsLayer 3, head 2 90\u202f%a uniform head: 10\u202f%2 heads clearly"
    )
    assert "no head a chance to show that it rests on the text’s first token" in " ".join(texts(browser, ".hint"))
    until(browser, lambda: drawn(browser) == (LAYERS - 1) * HEADS)
    assert "The maps of layer 4 did not fit into this page" in texts(browser, ".missing")[0]
    find(browser, "[data-role=induction] .habit")[0].click()
    until(browser, lambda: "view=head" in at(browser))
    assert "layer=3&head=2" in at(browser)
    assert "by=induction" in at(browser)


@pytest.mark.browser
def test_a_link_that_names_a_head_and_no_view_opens_that_head(visit: Open, written: Path) -> None:
    assert "view=head&layer=2&head=1" in at(visit(written, "#layer=2&head=1"))
    assert "view=model&layer=3&head=2&by=induction" in at(visit(written, "#by=induction"))


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_cell_of_a_tile_has_the_colour_of_its_byte(
    visit: Open, written: Path, codes: np.ndarray, theme: str
) -> None:
    browser = visit(written, "#layer=2&head=1&view=model", theme=theme)
    until(browser, lambda: drawn(browser) == (LAYERS - 1) * HEADS)
    assert cursor(browser).startswith("layer 2, head 1")
    shown = pixels(browser)
    assert shown.shape == (64, 64, 3)
    by_code = {int(code): shown[1::2, 1::2][codes[2, 1] == code] for code in np.unique(codes[2, 1])}
    for of_one in by_code.values():
        assert (of_one == of_one[0]).all()  # a byte, a colour
    colours = {tuple(of_one[0]) for of_one in by_code.values()}
    assert len(colours) > 0.95 * len(by_code)  # and another byte, another colour
    brightness = np.array([by_code[code][0].sum() for code in sorted(by_code)])
    assert (np.diff(brightness) * (1 if theme == "dark" else -1) >= -4).all()


@pytest.mark.browser
def test_the_keyboard_walks_the_wall_and_opens_a_head(visit: Open, written: Path) -> None:
    browser = visit(written, "#layer=0&head=0&view=model")
    wall = find(browser, ".wall")[0]
    browser.execute_script("arguments[0].focus()", wall)
    press(browser, RIGHT, DOWN, DOWN)  # layers lie from left to right here
    assert cursor(browser) == "layer 1, head 2: previous token 2.0\u202f%"
    assert texts(browser, ".reading h2") == ["Layer 1, head 2"]
    press(browser, DOWN, DOWN)  # the last row
    assert cursor(browser).endswith("; looks at the token just before")
    press(browser, END)
    assert texts(browser, ".reading h2") == ["Layer 4, head 3"]
    named = wall.get_attribute("aria-activedescendant")
    assert [cell.get_attribute("id") for cell in find(browser, ".wall [role=gridcell]")] == [named]
    press(browser, ENTER)
    until(browser, lambda: "view=head" in at(browser))
    assert "layer=4&head=3" in at(browser)


@pytest.mark.browser
def test_pointing_tells_what_a_head_does_beside_a_uniform_one(visit: Open, written: Path) -> None:
    from selenium.webdriver import ActionChains

    browser = visit(written, "#layer=1&head=0&view=model")
    mark = find(browser, ".tile-at")[0]
    ActionChains(browser).move_to_element(mark).perform()
    until(browser, lambda: find(browser, ".pointed-tile:not([hidden])"))
    assert texts(browser, ".reading h2") == ["Layer 1, head 0"]
    told = texts(browser, ".told-roles > div")
    assert told[0] == "Looks at what followed earlier repeats50\u202f%uniform 10\u202f%"
    ActionChains(browser).click(mark).perform()
    until(browser, lambda: "view=head&layer=1&head=0" in at(browser))


@pytest.mark.browser
def test_heads_are_sorted_filtered_and_coloured(visit: Open, written: Path) -> None:
    from selenium.webdriver.support.select import Select

    browser = visit(written, "#layer=3&head=2&view=model")
    by, order = find(browser, ".wall-controls select")
    Select(by).select_by_visible_text("Looks at what followed earlier repeats (induction)")
    until(browser, lambda: "by=induction" in at(browser))
    assert texts(browser, ".only")[0] == "only the 2 of 20 heads that do it clearly"
    find(browser, ".only input")[0].click()
    until(browser, lambda: "only=1" in at(browser))
    assert drawn(browser) == 2
    Select(order).select_by_visible_text("strongest first")
    until(browser, lambda: "order=strength" in at(browser))
    browser.execute_script("arguments[0].focus()", find(browser, ".wall")[0])
    walked = [cursor(browser)]
    press(browser, RIGHT)
    walked.append(cursor(browser))
    press(browser, RIGHT)
    walked.append(cursor(browser))
    assert [label.partition(":")[0] for label in walked] == ["layer 3, head 2", "layer 1, head 0", "layer 1, head 0"]
    find(browser, "[data-wall=heat]")[0].click()
    until(browser, lambda: "wall=heat" in at(browser))
    find(browser, ".only input")[0].click()
    until(browser, lambda: drawn(browser) == LAYERS * HEADS)
    assert not texts(browser, ".missing")[0]


def framed(browser: Any) -> bool:
    """Whether the tile that the keyboard is at has a frame."""
    script = "return getComputedStyle(document.querySelector('.tile-at')).boxShadow !== 'none'"
    return bool(browser.execute_script(script))


@pytest.mark.browser
def test_no_head_is_framed_but_the_one_that_one_is_at(visit: Open, written: Path) -> None:
    browser = visit(written, "#layer=0&head=0&view=model&by=induction")
    assert framed(browser)
    find(browser, ".only input")[0].click()  # which layer 0, head 0 is not among
    until(browser, lambda: not framed(browser))
    assert texts(browser, ".reading h2") == ["Layer 0, head 0"]
    browser.execute_script("document.querySelector('.wall').focus()")
    press(browser, RIGHT)
    assert framed(browser) and cursor(browser).startswith(("layer 3, head 2", "layer 1, head 0"))


@pytest.mark.browser
def test_the_heads_that_do_it_clearly_are_shown_with_the_clearest_framed(visit: Open, written: Path) -> None:
    browser = visit(written, "#layer=0&head=0&view=model")
    find(browser, "[data-role=induction] .all-such")[0].click()
    until(browser, lambda: "only=1" in at(browser) and "layer=3&head=2" in at(browser))
    assert framed(browser) and cursor(browser).startswith("layer 3, head 2")
    assert texts(browser, ".reading h2") == ["Layer 3, head 2"]


@pytest.mark.browser
def test_two_thousand_heads_are_drawn_as_they_come_in_sight(visit: Open, tmp_path: Path) -> None:
    table = [row(n, head) for n in range(48) for head in range(48)]
    blocks = {f"thumbs-{n}": bytes(48 * 32 * 32) for n in range(48)}
    big = write(tmp_path / "big.html", [layer(n, 48) for n in range(48)], title="b", heads=table, blocks=blocks)
    browser = visit(big, "#order=strength&view=model&by=induction")
    until(browser, lambda: drawn(browser) > 0)
    assert drawn(browser) < 600
    browser.execute_script("window.scrollTo(0, 6000)")
    until(browser, lambda: find(browser, ".bands canvas")[0].get_attribute("width") == "0")
    until(browser, lambda: 0 < drawn(browser))


@pytest.mark.browser
def test_a_page_without_numbers_or_maps_still_leads_to_each_head(visit: Open, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.html", [layer(n) for n in range(3)], title="bare")
    browser = visit(bare)
    assert "12 attention heads" in texts(browser, ".lead")[0]
    find(browser, ".tile-at")[0].find_element("xpath", "../..").click()
    browser.execute_script("document.querySelector('.wall').focus()")
    press(browser, ENTER)
    until(browser, lambda: "view=head" in at(browser))


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1100, 1400, 3000])
def test_no_width_needs_scrolling_sideways(visit: Open, written: Path, width: int) -> None:
    browser = visit(written, width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert find(browser, ".habit")[0].is_displayed()


@pytest.mark.browser
def test_its_picture_stands_alone_and_holds_every_head(visit: Open, written: Path) -> None:
    browser = visit(written, "#view=model&by=induction")
    until(browser, lambda: drawn(browser) == (LAYERS - 1) * HEADS)
    drawing = picture(browser)
    assert len(drawing.findall(f"{SVG}image")) == (LAYERS - 1) * HEADS
    titles = [title.text for title in drawing.iter(f"{SVG}title")]
    assert len(titles) == LAYERS * HEADS
    assert "layer 3, head 2: induction 90\u202f%; looks at what followed earlier repeats" in titles
    links = {image.get("href", "")[:22] for image in drawing.findall(f"{SVG}image")}
    assert links == {"data:image/png;base64,"}
