"""The map shows the weights that Python computed, at every zoom, and says where it holds less than all."""

import json
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting
from clearhead.view.outline import outlines
from clearhead.view.payload import LayerView
from clearhead.view.scene import Scene, view
from clearhead.view.tiles import worth_saving
from tests.view.browsing import Open, at, find, press, press_with_a_finger, texts, until, write

H, T, D = 2, 1300, 8
COARSE = 8
"""A cell's side at zoom 0, in tokens."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def seen() -> tuple[Record, torch.Tensor]:
    """A causal attention with a window, and its full weights."""
    torch.manual_seed(3)
    i, j = torch.arange(T)[:, None], torch.arange(T)
    q, k = 2 * torch.randn(1, H, T, D), 2 * torch.randn(1, H, T, D)
    q[..., 0], k[..., 0] = 5, 0
    k[:, :, 0, 0] = 4
    record = Record()
    mask = ((j <= i) & (i - j < 400))[None, None]
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=k, mask=mask, scale=D**-0.5))
    s = (q.double() @ k.double().mT * D**-0.5).masked_fill(~mask, -torch.inf)
    return record, s.softmax(-1)[0]


@pytest.fixture(scope="module")
def weights(seen: tuple[Record, torch.Tensor]) -> torch.Tensor:
    return seen[1]


@pytest.fixture(scope="module")
def written(seen: tuple[Record, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the first head all tiles, of the second only the whole; of the second layer none, and of each query 2 keys."""
    scene = Scene(seen[0])
    finer = [name for name in worth_saving(scene.layers, [(0, 0)]) if name.startswith("tile-0-0-")]
    names = ["pattern-0", "tile-0-0-0-0-0", "tile-0-1-0-0-0", *finer]
    layers = [named(view(scene.layers[0], 0, most)) for most in (8, 2)]
    path = tmp_path_factory.mktemp("map") / "map.html"
    blocks = {name: zlib.decompress(scene.block(name)) for name in names}
    return write(path, layers, blocks=blocks, patterns=outlines(scene.layers, 0) * 2)


def named(layer: LayerView) -> LayerView:
    words = [f" w{n}" for n in range(T)]
    return LayerView(layer.name, layer.kind, words, words, layer.top_keys, layer.top_weights)


def drawn(browser: Any) -> dict[str, str]:
    """What the picture on the screen was made of."""
    return dict(
        json.loads(browser.execute_script("return JSON.stringify(document.querySelector('canvas.map').dataset)"))
    )


def told(browser: Any) -> dict[str, float]:
    """The cell that the margin tells of."""
    data = browser.execute_script("return {...document.querySelector('.map-weight').dataset}")
    return {name: data[name] if name == "why" else float(data[name]) for name in data}


def shown(browser: Any, **how: str) -> None:
    until(browser, lambda: how.items() <= drawn(browser).items())


def assert_is(cell: dict[str, float], weights: torch.Tensor, side: int) -> None:
    query, key = int(cell["query"]), int(cell["key"])
    part = weights[query : query + side, key : key + side]
    assert cell["pairs"] == part.numel()
    assert cell["weight"] == pytest.approx(float(part.mean()), rel=2**-10, abs=1e-6)


@pytest.mark.parametrize("pair", [(251, 219), (1290, 1200)])
@pytest.mark.parametrize("zoom", ["", "&zoom=300", "&zoom=40", "&zoom=9"])
def test_a_cell_reads_what_python_computed_at_every_zoom(
    visit: Open, written: Path, weights: torch.Tensor, zoom: str, pair: tuple[int, int]
) -> None:
    query, key = pair
    browser = visit(written, f"#view=map&layer=0&head=0{zoom}&x={key}&y={query}&spot={query}.{key}")
    shown(browser, why="", drawn="0.0")
    until(browser, lambda: told(browser)["why"] == "")
    side = int(drawn(browser)["side"])
    assert side == (1 if zoom else 2)
    assert (told(browser)["query"], told(browser)["key"]) == (query // side * side, key // side * side)
    assert_is(told(browser), weights[0], side)


def test_the_numbers_in_the_cells_are_the_weights_in_per_cent(
    visit: Open, written: Path, weights: torch.Tensor
) -> None:
    browser = visit(written, "#view=map&layer=0&head=0&zoom=9&x=252&y=254&theme=dark")
    shown(browser, why="", side="1")
    drawing = picture(browser)
    cells = re.findall(r'data-query="(\d+)" data-key="(\d+)">([^<]*)<', drawing)
    assert len(cells) > 40
    for query, key, text in cells:
        weight = 100 * float(weights[0, int(query), int(key)])
        assert (weight < 0.0501) if text == "·" else abs(float(text) - weight) <= (0.051 if "." in text else 0.51)
    assert {" w252", "·w252"} & set(re.findall(r">([^<]*)</text>", drawing))
    assert "data:image/png;base64," in drawing


def picture(browser: Any) -> str:
    """The drawing that the page would save."""
    from selenium.webdriver.common.by import By

    # Saving is tested by its own test; here the drawing alone is caught on its way to the file.
    browser.execute_script(
        "window.caught = null; const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.caught = text; }); return make(blob); }"
    )
    browser.find_element(By.CSS_SELECTOR, ".save summary").click()
    next(b for b in browser.find_elements(By.CSS_SELECTOR, ".save button") if "SVG" in b.text).click()
    until(browser, lambda: browser.execute_script("return window.caught"))
    return str(browser.execute_script("return window.caught"))


def test_the_keyboard_walks_zooms_pans_holds_and_lets_go(visit: Open, written: Path, weights: torch.Tensor) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser = visit(written, "#view=map&layer=0&head=0&zoom=40&x=220&y=250")
    shown(browser, why="", side="1")
    browser.execute_script("document.querySelector('canvas.map').focus()")
    press(browser, Keys.ARROW_RIGHT)
    until(browser, lambda: find(browser, ".map-weight"))
    before = told(browser)
    press(browser, Keys.ARROW_RIGHT)
    press(browser, Keys.ARROW_UP)
    until(browser, lambda: (told(browser)["query"], told(browser)["key"]) == (before["query"] - 1, before["key"] + 1))
    assert_is(told(browser), weights[0], 1)
    press(browser, Keys.ENTER)
    until(browser, lambda: f"spot={int(before['query']) - 1}.{int(before['key']) + 1}" in at(browser))
    assert "head=0" in at(browser)  # the arrows are the map's while it has the focus
    press(browser, Keys.ESCAPE)
    until(browser, lambda: "spot" not in at(browser))
    press(browser, "-")
    until(browser, lambda: "zoom=80" in at(browser))
    press(browser, "+")
    until(browser, lambda: "zoom=40" in at(browser))
    x = placed(browser)["x"]
    browser.execute_script("document.querySelector('canvas.map').focus()")
    ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    until(browser, lambda: placed(browser)["x"] > x + 5)
    press(browser, "0")
    until(browser, lambda: "zoom" not in at(browser))
    shown(browser, side="2")


def placed(browser: Any) -> dict[str, float]:
    """Where the address says the map is."""
    return {name: float(value) for name, value in re.findall(r"(?<=[#&])(x|y|zoom)=([\d.]+)", at(browser))}


def test_wheel_and_drag_zoom_and_move_and_the_link_opens_the_same_place(visit: Open, written: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    browser = visit(written, "#view=map&layer=0&head=0")
    shown(browser, why="", side="2")
    canvas = find(browser, "canvas.map")[0]
    assert not placed(browser)
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, -700).perform()
    until(browser, lambda: placed(browser))
    near = placed(browser)
    assert near["zoom"] < 400
    ActionChains(browser).drag_and_drop_by_offset(canvas, 120, 60).perform()
    until(browser, lambda: placed(browser) != near)
    moved = placed(browser)
    assert moved["zoom"] == near["zoom"]
    assert moved["x"] < near["x"] and moved["y"] < near["y"]
    assert "spot" not in at(browser)  # a drag is no click
    again = visit(written, at(browser))
    assert placed(again) == moved
    ActionChains(again).click(find(again, "canvas.map")[0]).perform()
    until(again, lambda: "spot" in at(again))


def test_one_finger_scrolls_past_the_map_two_move_it_and_a_tap_holds(
    visit: Open, written: Path, touch: Callable[..., None]
) -> None:
    browser = visit(written, "#view=map&layer=0&head=0&zoom=300&x=600&y=600", width=360, height=640)
    shown(browser, drawn="0.0")
    assert "Two fingers move" in find(browser, ".map-fingers")[0].text
    find(browser, "canvas.map")[0].location_once_scrolled_into_view  # noqa: B018
    place, before = placed(browser), scrolled(browser)
    x, y = middle(browser)
    touch(((x, y + 60), (x, y - 140)))
    until(browser, lambda: scrolled(browser) > before + 50)
    assert placed(browser) == place

    find(browser, "canvas.map")[0].location_once_scrolled_into_view  # noqa: B018
    time.sleep(0.3)
    before = scrolled(browser)
    x, y = middle(browser)
    touch(((x - 30, y), (x - 30, y - 60)), ((x + 30, y), (x + 30, y - 60)))
    until(browser, lambda: placed(browser)["y"] > place["y"] + 20)
    assert placed(browser)["zoom"] == pytest.approx(place["zoom"], rel=0.05)
    assert scrolled(browser) == before
    touch(((x - 20, y), (x - 80, y)), ((x + 20, y), (x + 80, y)))
    until(browser, lambda: placed(browser)["zoom"] < place["zoom"] / 2)
    assert scrolled(browser) == before
    touch(((x, y), (x, y)), steps=1)
    until(browser, lambda: "spot=" in at(browser))
    until(browser, lambda: find(browser, ".reading.filled .let-go"))
    press_with_a_finger(touch, find(browser, ".let-go")[0])
    until(browser, lambda: "spot=" not in at(browser))
    assert not find(browser, ".reading.filled")


def scrolled(browser: Any) -> float:
    return float(browser.execute_script("return window.scrollY"))


def middle(browser: Any) -> tuple[float, float]:
    """Of the map, on the screen."""
    script = """const { x, y, width, height } = document.querySelector('canvas.map').getBoundingClientRect();
        return [x + width / 2, y + height / 2]"""
    x, y = browser.execute_script(script)
    return x, y


def test_where_no_tile_is_held_the_listed_keys_are_drawn_and_it_is_said(
    visit: Open, written: Path, weights: torch.Tensor
) -> None:
    heaviest = int(weights[1, 500].argmax())
    browser = visit(written, f"#view=map&layer=1&head=1&zoom=20&x={heaviest}&y=500&spot=500.{heaviest}")
    shown(browser, why="listed", side="1")
    until(browser, lambda: texts(browser, ".map-note")[0])
    assert "heaviest keys of each query that this page holds" in texts(browser, ".map-note")[0]
    assert "clearhead serve" in texts(browser, ".map-note")[0]
    weight = float(weights[1, 500, heaviest])
    assert told(browser)["weight"] == pytest.approx(weight, abs=(np.sqrt(weight) + 1 / 1020) / 255)
    assert told(browser)["why"] == "listed"
    assert "list of the query’s heaviest keys" in texts(browser, ".reading .hint")[0]


def test_a_coarser_tile_stands_in_for_a_finer_one_and_it_is_said(
    visit: Open, written: Path, weights: torch.Tensor
) -> None:
    browser = visit(written, "#view=map&layer=0&head=1&spot=500.300")
    shown(browser, why="coarser", side=str(COARSE))
    assert texts(browser, ".map-note")[0].startswith("This page holds no finer picture of this part")
    until(browser, lambda: told(browser)["why"] == "coarser" and told(browser)["weight"] >= 0)
    assert_is(told(browser), weights[1], COARSE)


def test_the_pattern_is_named_outlined_and_a_hidden_pair_said_to_be_hidden(visit: Open, written: Path) -> None:
    browser = visit(written, "#view=map&layer=0&head=0&zoom=20&x=300&y=290&spot=290.295")
    shown(browser, why="")
    assert "causal, a window of 400" in texts(browser, ".head-title")[0]
    until(browser, lambda: "hides it" in " ".join(texts(browser, ".reading .hint")))
    assert told(browser)["weight"] == 0


def test_the_scale_is_logarithmic_or_linear_and_its_ends_are_said(visit: Open, written: Path) -> None:
    browser = visit(written, "#view=map&layer=0&head=0&zoom=40&x=220&y=250")
    shown(browser, why="", side="1")
    space = "\u202f"
    assert texts(browser, ".map-legend")[0].startswith(f"≤ 0.010{space}%100{space}%")
    assert texts(browser, ".map-tools .tone [aria-pressed=true]") == ["Log"]
    find(browser, ".map-tools .tone button")[1].click()
    until(browser, lambda: "tone=linear" in at(browser))
    until(browser, lambda: texts(browser, ".map-legend")[0].startswith(f"0100{space}%"))
    assert texts(browser, ".map-tools .tone button") == ["Log", "Linear"]  # both say what they do
    assert texts(browser, ".map-tools .tone [aria-pressed=true]") == ["Linear"]


def test_a_wide_screen_is_filled_and_a_cell_still_reads_what_python_computed(
    visit: Open, written: Path, weights: torch.Tensor
) -> None:
    browser = visit(written, "#view=map&layer=0&head=0", width=2560, height=1300)
    shown(browser, why="", drawn="0.0")
    script = """const { width, height } = document.querySelector('canvas.map').getBoundingClientRect();
        return [width - 76, height - 76]"""
    wide, tall = browser.execute_script(script)
    drawing = ElementTree.fromstring(picture(browser))
    image = next(drawing.iter("{http://www.w3.org/2000/svg}image"))
    assert float(image.get("height")) == pytest.approx(tall, abs=1)
    assert float(image.get("width")) == pytest.approx(min(wide, 2 * tall), abs=2)
    from selenium.webdriver import ActionChains

    canvas = find(browser, "canvas.map")[0]  # in its middle, as the rulers take 76 px
    ActionChains(browser).move_to_element_with_offset(canvas, -300, 200).click().perform()
    until(browser, lambda: find(browser, ".map-weight") and told(browser)["why"] == "")
    scale = tall / T
    across = float(image.get("width")) / T
    key, query = (wide + 76) / 2 - 300 - 76, (tall + 76) / 2 + 200 - 76
    cell = told(browser)
    assert abs(cell["key"] - key / across) <= 4 and abs(cell["query"] - query / scale) <= 4
    assert_is(cell, weights[0], int(drawn(browser)["side"]))


@pytest.mark.parametrize("width", [360, 3840])
def test_the_map_fits_any_width(visit: Open, written: Path, width: int) -> None:
    browser = visit(written, "#view=map&layer=0&head=0", width=width, height=800)
    shown(browser, why="")
    size = browser.execute_script(
        "const b = document.querySelector('canvas.map').getBoundingClientRect();"
        "return [b.left, b.right, b.width, b.height, document.documentElement.scrollWidth]"
    )
    assert size[0] >= 0 and size[1] <= width and size[4] <= width
    assert size[2] > 0.4 * width and size[3] >= 320
