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
@pytest.mark.parametrize("tone", ["log", "linear"])
def test_a_share_has_the_same_colour_in_a_small_map_and_in_the_large_one(
    visit: Open, codes: np.ndarray, theme: str, tone: str, tmp_path: Path
) -> None:
    """The large map's cell of one pair weighs what the byte of the small one's stands for."""
    table = [row(n, head) for n in range(LAYERS) for head in range(HEADS)]
    codes = codes.copy()
    small = layer(2)
    words = [f"w{n}" for n in range(32)]
    known = LayerView("layers.2.attn", "self", words, words, small.top_keys[:, :32], small.top_weights[:, :32])
    tile = ((codes[2, 1] / 255) ** 2).astype("<f2")
    blocks = {"thumbs-0": codes[2].tobytes(), "tile-0-1-0-0-0": tile.tobytes()}
    table = [{**one, "layer": 0} for one in table if one["layer"] == 2]
    page = write(tmp_path / "look.html", [known], title="t", heads=table, blocks=blocks)
    browser = visit(page, f"#layer=0&head=1&view=model&tone={tone}", theme=theme)
    until(browser, lambda: drawn(browser) == HEADS)
    shown = pixels(browser)[1::2, 1::2]
    assert texts(browser, ".wall-controls .tone [aria-pressed=true]") == [tone.capitalize()]
    visit(page, f"#layer=0&head=1&view=map&tone={tone}", theme=theme)
    until(browser, lambda: find(browser, "canvas.map[data-drawn='0.1'][data-why='']"))
    script = """const canvas = document.querySelector('canvas.map'), cells = [];
        const [wide, high] = [canvas.width - 76, canvas.height - 76];
        const side = Math.min(Math.max(1, wide / high), 2) * high / 32;
        const across = Math.min(wide / 32, side), down = Math.min(high, wide) / 32;
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        for (let n = 0; n < 1024; n++) {
            const [row, column] = [Math.floor(n / 32), n % 32];
            const [x, y] = [Math.floor(76 + across * (column + 0.15)), Math.floor(76 + down * (row + 0.15))];
            cells.push([...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 4)]);
        }
        return cells"""
    large = np.array(browser.execute_script(script)).reshape(32, 32, 4)[..., :3]
    near = np.abs(large.astype(int) - shown.astype(int)).max(-1) <= 6  # float16 may round to the next step
    assert near.mean() > 0.99


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
def test_arrows_go_along_the_walls_own_axes_wherever_the_focus_is_and_enter_opens(visit: Open, written: Path) -> None:
    browser = visit(written, "#layer=1&head=1&view=model")
    assert browser.execute_script("return document.activeElement === document.body")
    press(browser, RIGHT)  # layers lie from left to right here
    until(browser, lambda: "layer=2&head=1" in at(browser))
    press(browser, DOWN)
    until(browser, lambda: "layer=2&head=2" in at(browser))
    assert framed(browser) and cursor(browser).startswith("layer 2, head 2")
    assert texts(browser, ".reading h2") == ["Layer 2, head 2"]
    browser.execute_script("document.querySelector('.habit').focus()")  # a button has its own use for Enter
    press(browser, RIGHT)
    until(browser, lambda: "layer=3&head=2" in at(browser))
    browser.execute_script("document.activeElement.blur()")
    press(browser, ENTER)
    until(browser, lambda: "view=head&layer=3&head=2" in at(browser))


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
