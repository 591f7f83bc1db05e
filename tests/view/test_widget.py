"""The widget: a page in a cell, from what lies in the notebook and from the kernel, and no other cell's business."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import clearhead as ch
from clearhead.errors import ClearheadError
from clearhead.view import seen as seeing
from clearhead.view.scene import SHARE
from clearhead.view.seen import Seen
from clearhead.view.widget import Widget
from tests.view.browsing import Open, press, until

TOKENS = 8

HARNESS = """<!doctype html><meta charset="utf-8"><title>cells</title>
<style>body { color: rgb(1, 2, 3); background: BACKGROUND; } h2, .stage { outline: 9px solid red; }</style>
<p class="stage" tabindex="0">ours</p><div id="clearhead" data-at="-"></div>
<script type="module">
  const script = URL.createObjectURL(new Blob([SCRIPT], { type: "text/javascript" }));
  const { default: widget } = await import(script);
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  window.cells = STATES.map((state) => {
    const el = document.body.appendChild(document.createElement("div"));
    const heard = {};
    const tell = (event, ...told) => (heard[event] ?? []).forEach((listener) => listener(...told));
    state.blocks = Object.fromEntries(Object.entries(state.blocks).map(([name, text]) => [name, bytes(text)]));
    const cell = {
      el, sent: [], saved: [],
      get: (name) => state[name],
      set: (name, value) => { state[name] = value; tell(`change:${name}`); },
      save_changes: () => cell.saved.push(state.place),
      send: (content) => cell.sent.push(content),
      on: (event, listener) => { (heard[event] ??= []).push(listener); },
      off: (event, listener) => { heard[event] = (heard[event] ?? []).filter((other) => other !== listener); },
      answer: (content, buffers = []) => tell("msg:custom", content, buffers.map(bytes)),
      listeners: () => Object.values(heard).flat().length,
    };
    cell.leave = widget.render({ model: cell, el });
    return cell;
  });
</script>"""


def looked(seed: int, **options: Any) -> Widget:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(16, 2, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, TOKENS, 16))
    return seen.show(title=f"text {seed}", **options)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What a widget sends to its cell."""
    messages: list[tuple[Any, Any]] = []
    monkeypatch.setattr(Widget, "send", lambda self, content, buffers=None: messages.append((content, buffers)))
    return messages


def write(path: Path, *widgets: Widget, dark: bool = False) -> Path:
    """A page with a cell for each."""
    states = [
        {
            "contents": widget.contents,
            "blocks": {name: base64.b64encode(block).decode() for name, block in widget.blocks.items()},
            "place": widget.place,
            "height": widget.height,
            "sheet": widget.sheet,
        }
        for widget in widgets
    ]
    pieces = {"SCRIPT": widgets[0]._esm, "STATES": states}
    text = HARNESS.replace("BACKGROUND", "#111" if dark else "#fff")
    for name, value in pieces.items():
        text = text.replace(name, json.dumps(value).replace("<", "\\u003c"))
    path.write_text(text)
    return path


def in_cell(browser: Any, cell: int, script: str) -> Any:
    """What a script makes of the cell's page, `root`."""
    return browser.execute_script(
        f"const cell = window.cells?.[{cell}];"
        f"const root = cell?.el.firstElementChild?.shadowRoot?.firstElementChild; {script}"
    )


def at(browser: Any, cell: int) -> str:
    return str(in_cell(browser, cell, "return root?.dataset.at ?? ''"))


def visited(visit: Open, path: Path, cells: int = 1) -> Any:
    browser = visit(path)
    for cell in range(cells):
        until(browser, lambda cell=cell: at(browser, cell))
    return browser


# Python's side


def test_what_is_saved_with_a_notebook_is_what_a_page_of_that_budget_holds() -> None:
    cell = looked(0)
    contents = json.loads(cell.contents)
    assert not contents["live"] and contents["title"] == "text 0"
    assert list(contents["statistics"]) == list(cell.scene.contents["statistics"])  # the first is shown at first
    assert {"layer-0", "layer-1"} <= cell.blocks.keys()
    small = looked(0, budget=1)
    assert set(small.blocks) == {"layer-0", "layer-1"}  # a key of each query at least, and no other block
    state = cell.get_state()
    assert state["place"] == "" and state["height"] == 720


def test_the_kernel_answers_with_blocks_and_with_sentences(sent: list[tuple[Any, Any]]) -> None:
    cell = looked(0, budget=1)
    cell._answer(cell, {"there": None}, [])
    cell._answer(cell, {"block": "layer-1"}, [])
    cell._answer(cell, {"block": "layer-7"}, [])
    assert [content for content, _ in sent[:2]] == [{"there": True}, {"block": "layer-1"}]
    assert zlib.decompress(sent[1][1][0]) == zlib.decompress(cell.scene.block("layer-1"))
    assert "no such block" in sent[2][0]["said"] and sent[2][1] is None


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClearheadError, match="height: got 0, expected so many pixels"):
        looked(0, height=0)
    monkeypatch.setattr(seeing, "find_spec", lambda name: None)
    with pytest.raises(ClearheadError, match=r"show: needs anywidget; get it .*'clearhead\[notebook\]'"):
        Seen().show()


# The cell's


@pytest.mark.browser
def test_a_saved_notebook_shows_the_page_without_a_kernel(visit: Open, tmp_path: Path) -> None:
    widget = looked(0)
    widget.place = "view=head&layer=1&head=1&query=3"
    browser = visited(visit, write(tmp_path / "cells.html", widget))
    assert "layer=1&head=1&query=3" in at(browser, 0)
    shown = in_cell(browser, 0, "return [...root.querySelectorAll('.reading li')].map((li) => +li.dataset.weight)")
    keys, weights = widget.scene.layers[1].top(TOKENS, SHARE)
    expected = [float(weight) for key, weight in zip(keys[0, 1, 3], weights[0, 1, 3], strict=True) if key >= 0]
    assert shown == pytest.approx(expected, abs=1 / 255)
    assert in_cell(browser, 0, "return cell.el.getBoundingClientRect().height") == 720


@pytest.mark.browser
def test_two_cells_and_the_notebook_around_them_do_not_disturb_each_other(visit: Open, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    first, second = looked(1), looked(2, height=400)
    first.place, second.place = "view=head&layer=0&head=0", "view=head&layer=1&head=1"
    browser = visited(visit, write(tmp_path / "cells.html", first, second), 2)
    assert [in_cell(browser, n, "return root.querySelector('h1').textContent") for n in (0, 1)] == ["text 1", "text 2"]
    before = at(browser, 1)
    in_cell(browser, 0, "root.focus()")
    press(browser, Keys.RIGHT)
    until(browser, lambda: "layer=0&head=1" in at(browser, 0))
    in_cell(browser, 0, "root.querySelector('.theme').click()")
    until(browser, lambda: "theme=dark" in at(browser, 0))
    assert at(browser, 1) == before
    papers = [in_cell(browser, n, "return getComputedStyle(root).backgroundColor") for n in (0, 1)]
    assert papers[0] != papers[1]
    # The place is kept in the trait, not in the window's address.
    until(browser, lambda: in_cell(browser, 0, "return cell.saved.length"))
    assert "theme=dark" in in_cell(browser, 0, "return cell.get('place')")
    assert "#" not in browser.current_url
    # What the notebook says of a class is not heard within, nor what we say of it around.
    assert in_cell(browser, 0, "return getComputedStyle(root.querySelector('.stage')).outlineStyle") == "none"
    assert browser.execute_script("return getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    assert browser.execute_script("return getComputedStyle(document.querySelector('p.stage')).maxWidth") == "none"
    assert browser.execute_script("return document.getElementById('clearhead').dataset.at") == "-"
    browser.execute_script("document.querySelector('p.stage').focus()")
    press(browser, Keys.LEFT)
    assert "head=1" in at(browser, 0) and at(browser, 1) == before


@pytest.mark.browser
def test_python_sets_the_place(visit: Open, tmp_path: Path) -> None:
    browser = visited(visit, write(tmp_path / "cells.html", looked(0)))
    in_cell(browser, 0, "cell.set('place', 'view=head&layer=1&head=0')")
    until(browser, lambda: "view=head&layer=1&head=0" in at(browser, 0))


@pytest.mark.browser
def test_with_a_kernel_any_block_is_asked_for_and_shown(visit: Open, tmp_path: Path) -> None:
    widget = looked(0)
    layer = widget.blocks["layer-1"]
    widget.blocks = {name: block for name, block in widget.blocks.items() if name != "layer-1"}
    widget.place = "view=head&layer=0&head=0"
    browser = visited(visit, write(tmp_path / "cells.html", widget))
    assert in_cell(browser, 0, "return cell.sent") == [{"there": None}]
    in_cell(browser, 0, "cell.answer({ there: true })")
    in_cell(browser, 0, "cell.set('place', 'view=head&layer=1&head=1&query=2')")
    until(browser, lambda: {"block": "layer-1"} in in_cell(browser, 0, "return cell.sent"))
    assert "layer=0" in at(browser, 0)  # until it is there
    answer = f"cell.answer({{ block: 'layer-1' }}, ['{base64.b64encode(layer).decode()}'])"
    in_cell(browser, 0, answer)
    until(browser, lambda: "layer=1&head=1&query=2" in at(browser, 0))
    shown = in_cell(browser, 0, "return [...root.querySelectorAll('.reading li')].map((li) => +li.dataset.weight)")
    assert shown[0] == pytest.approx(float(widget.scene.layers[1].top(1)[1][0, 1, 2, 0]), abs=1 / 255)


@pytest.mark.browser
def test_a_cell_in_the_dark_is_dark_whatever_the_system_says(visit: Open, tmp_path: Path) -> None:
    browser = visited(visit, write(tmp_path / "cells.html", looked(0), dark=True))
    assert in_cell(browser, 0, "return root.dataset.theme") == "dark"


@pytest.mark.browser
def test_a_cell_that_is_cleared_lets_go_of_all_it_listened_to(visit: Open, tmp_path: Path) -> None:
    browser = visited(visit, write(tmp_path / "cells.html", looked(0)))
    assert in_cell(browser, 0, "return cell.listeners()") > 0
    in_cell(browser, 0, "cell.leave()")
    assert in_cell(browser, 0, "return cell.listeners()") == 0


@pytest.mark.browser
def test_a_narrow_cell_in_a_wide_window_has_its_list_of_heads_folded(visit: Open, tmp_path: Path) -> None:
    unfolded = "return root.querySelector('.overview').open"
    for width, opens in (("600px", False), ("1300px", True)):
        path = write(tmp_path / "cells.html", looked(0))
        path.write_text(path.read_text().replace("body {", f"body {{ width: {width};", 1))
        assert in_cell(visited(visit, path), 0, unfolded) == opens
