"""The page, in a real browser: opened from a file, it shows what Python put in and asks for nothing else."""

import http.server
import math
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from clearhead.atomic_write import MARK
from clearhead.errors import ClearheadError
from clearhead.view import page
from clearhead.view.payload import LayerView
from tests.view.browsing import Open, at, find, numbers, point, press, texts, until, write

ATTACK = "</script><script>document.title = 'in'</script><img src=x onerror=\"document.title = 'in'\">"
TEXT = ["Oh", " dear", "!", "\n", "", " ", ATTACK, "<0x0A>", "\udcf0", "\r\t\u200b", " Oh", " dear"] + [
    f" word{j}" for j in range(40)
]
ROLES = ("previous_token", "induction")


def heaviest(scores: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, keys = scores.softmax(-1).topk(min(most, scores.shape[-1]), -1)
    needed = (weights.cumsum(-1) - weights < 0.99) & (weights > 0)
    return keys.where(needed, torch.tensor(-1)), weights * needed


def causal_layer(index: int, heads: int, texts: list[str], most: int = 32) -> LayerView:
    """Heads from near and sharp to far and flat, with a sink at the first token."""
    T = len(texts)
    i, j = torch.arange(T)[:, None], torch.arange(T)
    near = torch.linspace(0, 0.3, heads)[:, None, None] * (i - j).abs()
    sink = torch.linspace(3, 0, heads)[:, None, None] * (j == 0)
    scores = torch.randn(heads, T, T) * 1.5 - near + sink
    keys, weights = heaviest(scores.masked_fill(j > i, -math.inf), most)
    return LayerView(f"model.layers.{index}.self_attn", "self", texts, texts, keys, weights)


def head_table(layers: list[LayerView]) -> list[dict[str, Any]]:
    """Values that tell each head from each other: the strongest of a role is in layer 1, head 2."""
    return [
        {"layer": at, "name": layer.name, "kind": "self", "head": head, "queries": 3, "entropy": 0.5 + at}
        | dict.fromkeys(ROLES, 0.9 if (at, head) == (1, 2) else 0.01 * head)
        | dict.fromkeys([f"{role}_uniform" for role in ROLES], 0.1)
        for at, layer in enumerate(layers)
        for head in range(layer.heads)
    ]


@pytest.fixture(scope="module")
def layers() -> list[LayerView]:
    torch.manual_seed(1)
    selves = [causal_layer(index, 3, TEXT) for index in range(3)]
    keys, weights = heaviest(torch.randn(2, len(TEXT), 4), 4)
    cross = LayerView("decoder.cross", "cross", TEXT, ["Das", " ist", " es", "."], keys, weights)
    step_keys, step_weights = heaviest(torch.randn(2, 1, len(TEXT)), 5)
    step = LayerView("decoder.step", "self", TEXT[-1:], TEXT, step_keys, step_weights)
    return [*selves, cross, step]


@pytest.fixture(scope="module")
def written(layers: list[LayerView], tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = {"Model": ATTACK, "Attentions seen": "5"}
    path = tmp_path_factory.mktemp("page") / "look.html"
    return write(path, layers, title=ATTACK, heads=head_table(layers[:3]), facts=facts)


@pytest.fixture
def opened(visit: Open, written: Path) -> Open:
    """Opens the page at a place of the head view, in a theme, and waits until it is there; nothing may be amiss."""

    def to(place: str = "", **how: Any) -> Any:
        return visit(written, place if "view=" in place else f"#view=head&{place.removeprefix('#')}", **how)

    return to


def sent(layer: LayerView, head: int, query: int) -> dict[int, float]:
    entries = zip(layer.top_keys[head, query].tolist(), layer.top_weights[head, query].tolist(), strict=True)
    return {key: weight for key, weight in entries if key >= 0}


def assert_equal_within_8_bits(shown: dict[int, float], expected: dict[int, float]) -> None:
    assert shown.keys() == expected.keys()
    for position, weight in expected.items():
        assert abs(shown[position] - weight) <= (math.sqrt(weight) + 1 / 1020) / 255 + 1e-6
    assert list(shown.values()) == sorted(shown.values(), reverse=True)


@pytest.mark.browser
def test_the_page_opens_from_a_file_and_shows_every_token_true_to_the_text(opened: Open) -> None:
    browser = opened()
    for side in ("query", "key"):
        shown = texts(browser, f".column.{side} .text")
        assert shown[:6] == ["Oh", "·dear", "!", "↵", "∅", "·"]
        assert shown[6:10] == [ATTACK.replace(" ", "·"), "<0x0A>", "\\xf0", "\\r⇥U+200B"]
        assert shown[10:] == [text.replace(" ", "·") for text in TEXT[10:]]


@pytest.mark.browser
def test_markup_in_texts_and_facts_is_shown_and_never_run(opened: Open) -> None:
    browser = opened()
    assert browser.title == ATTACK
    assert texts(browser, "h1") == [ATTACK]
    assert ATTACK in texts(browser, ".about dd")
    assert not find(browser, "img")
    assert len(find(browser, "script:not([type='application/json'], [type^='application/octet'])")) == 1


@pytest.mark.browser
def test_nothing_is_loaded_and_nothing_could_be(browser: Any, opened: Open) -> None:
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = "const done = arguments[1]; fetch(arguments[0]).then(() => done('loaded'), () => done('refused'))"
        address = f"http://127.0.0.1:{server.server_port}/"
        try:
            browser.get(address)
            assert browser.execute_async_script(script, address) == "loaded"
            browser = opened()
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
            asked.clear()
            assert browser.execute_async_script(script, address) == "refused"
        finally:
            server.shutdown()
    assert asked == []
    assert any("Content Security Policy" in line["message"] for line in browser.get_log("browser"))


@pytest.mark.browser
def test_the_page_starts_at_the_head_that_plays_the_first_role_most(opened: Open) -> None:
    browser = opened()
    assert texts(browser, ".stage h2") == ["Layer 1, head 2"]
    assert texts(browser, ".suggested button")[0] == "1·2"
    assert texts(browser, "[data-role=induction] .value") == ["90\u202f%"]
    title = find(browser, "[data-role=induction]")[0].get_attribute("title")
    assert title.startswith("weight on the token after each earlier same token, mean over the queries; ")
    assert title.endswith("a uniform head: 10\u202f%")


@pytest.mark.browser
def test_layer_and_head_are_chosen_by_list_and_by_cell(opened: Open) -> None:
    from selenium.webdriver.support.select import Select

    browser = opened()
    Select(find(browser, "#layer")[0]).select_by_index(3)
    until(browser, lambda: "layer=3" in at(browser))
    assert texts(browser, "#head option") == ["0", "1"]
    assert texts(browser, ".head-title code") == ["decoder.cross"]
    assert texts(browser, ".column.key .text") == ["Das", "·ist", "·es", "."]
    Select(find(browser, "#head")[0]).select_by_index(1)
    until(browser, lambda: "head=1" in at(browser))
    find(browser, ".heads [data-layer='2'][data-head='0']")[0].click()
    until(browser, lambda: "layer=2&head=0" in at(browser))
    assert texts(browser, ".stage h2") == ["Layer 2, head 0"]
    assert [find(browser, selector)[0].get_attribute("value") for selector in ("#layer", "#head")] == [
        "2",
        "0",
    ]
    chosen = find(browser, ".heads [aria-selected=true]")
    assert [cell.get_attribute("data-layer") for cell in chosen] == ["2"]


@pytest.mark.browser
def test_the_statistic_that_is_chosen_colours_the_heads(opened: Open) -> None:
    from selenium.webdriver.support.select import Select

    browser = opened()
    script = """const cell = document.querySelector(`.heads [data-layer='${arguments[0]}']`);
        return getComputedStyle(cell).backgroundColor"""
    low, _, high = (browser.execute_script(script, layer) for layer in range(3))
    assert "Looks at the token just before (previous token)" in texts(browser, "#by option")
    Select(find(browser, "#by")[0]).select_by_visible_text("Spreads its look (entropy)")
    until(browser, lambda: "by=entropy" in at(browser))
    assert texts(browser, ".suggested button")[0].startswith("2·")
    assert low == high  # previous_token is alike in both
    low, _, high = (browser.execute_script(script, layer) for layer in range(3))
    assert low != high
    assert "entropy 2.50 nats" in find(browser, ".heads [data-layer='2']")[0].get_attribute("title")
    # The table says nothing of the others.
    assert "no number" in find(browser, ".heads [data-layer='3']")[0].get_attribute("title")


@pytest.mark.browser
@pytest.mark.parametrize(("layer", "head", "query"), [(0, 0, 50), (2, 1, 17), (3, 1, 4), (4, 1, 0)])
def test_pointing_at_a_query_shows_the_weights_that_python_sent(
    opened: Open, layers: list[LayerView], layer: int, head: int, query: int
) -> None:
    browser = opened(f"#layer={layer}&head={head}", height=2400)  # all rows are in sight, and so there
    point(browser, "query", query)
    expected = sent(layers[layer], head, query)
    assert_equal_within_8_bits(numbers(browser), expected)
    heaviest = max(expected, key=lambda key: expected[key])
    beside = find(browser, f".column.key [data-position='{heaviest}']")[0].get_attribute("data-weight")
    assert float(re.sub("[^0-9.]", "", beside)) == pytest.approx(100 * expected[heaviest], abs=1)
    assert len(find(browser, ".column.key [data-weight]")) == len(expected)
    rest = 100 * (1 - sum(expected.values()))
    told = texts(browser, ".reading .hint")[0]
    if "all of its weight" in told:
        assert rest < 0.001
    else:
        assert float(re.sub("[^0-9.]", "", told.split("%")[0])) == pytest.approx(rest, rel=0.03, abs=0.01)


@pytest.mark.browser
def test_pointing_at_a_key_shows_who_looks_at_it(opened: Open, layers: list[LayerView]) -> None:
    browser = opened("#layer=1&head=1")
    point(browser, "key", 10)
    rows = [sent(layers[1], 1, query) for query in range(len(TEXT))]
    assert_equal_within_8_bits(numbers(browser), {i: row[10] for i, row in enumerate(rows) if 10 in row})


@pytest.mark.browser
def test_the_lines_of_a_token_are_drawn_alone(opened: Open, layers: list[LayerView]) -> None:
    browser = opened("#layer=4&head=0")

    def drawn() -> int:
        until(browser, lambda: find(browser, ".lines[data-drawn]"))
        return int(find(browser, ".lines")[0].get_attribute("data-drawn"))

    opened("#layer=3&head=0")
    everything = drawn()
    point(browser, "query", 2)
    assert drawn() == len(sent(layers[3], 0, 2)) < everything
    inked = """const canvas = document.querySelector('.lines canvas:not([hidden])');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.some((part) => part > 0)"""
    assert browser.execute_script(inked)


@pytest.mark.browser
def test_a_click_holds_a_token_and_escape_lets_it_go(opened: Open) -> None:
    browser = opened("#layer=0&head=0")
    point(browser, "query", 11)
    find(browser, ".column.query [data-position='11']")[0].click()
    until(browser, lambda: "query=11" in at(browser))
    held = numbers(browser)
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(find(browser, ".column.query [data-position='14']")[0]).perform()
    assert numbers(browser) == held
    press(browser, "\ue00c")  # Escape
    until(browser, lambda: "query" not in at(browser))
    point(browser, "query", 14)
    assert numbers(browser) != held


@pytest.mark.browser
def test_the_keyboard_reaches_heads_layers_and_tokens(opened: Open, layers: list[LayerView]) -> None:
    LEFT, UP, RIGHT, DOWN, SHIFT, ENTER = "\ue012", "\ue013", "\ue014", "\ue015", "\ue008", "\ue007"
    from selenium.webdriver import ActionChains

    browser = opened("#layer=0&head=0")
    for keys, place in [
        (RIGHT, "layer=0&head=1"),
        (RIGHT, "layer=0&head=2"),
        (RIGHT, "layer=0&head=2"),  # the last one
        (LEFT, "layer=0&head=1"),
    ]:
        press(browser, keys)
        until(browser, lambda place=place: place in at(browser))
    ActionChains(browser).key_down(SHIFT).send_keys(DOWN).key_up(SHIFT).perform()
    until(browser, lambda: "layer=1&head=1" in at(browser))
    find(browser, ".heads [aria-selected=true]")[0].send_keys(DOWN)
    until(browser, lambda: "layer=2&head=1" in at(browser))
    press(browser, UP)  # the chosen cell has the focus
    until(browser, lambda: "layer=1&head=1" in at(browser))

    column = find(browser, ".column.query[tabindex='0']")[0]
    assert find(browser, f"#{column.get_attribute('aria-activedescendant')}")[0].get_attribute("aria-label") == "0 Oh"
    column.send_keys(DOWN, DOWN)
    assert_equal_within_8_bits(numbers(browser), sent(layers[1], 1, 2))
    press(browser, ENTER)
    until(browser, lambda: "query=2" in at(browser))
    press(browser, RIGHT)  # another head, the same token
    until(browser, lambda: "head=2&query=2" in at(browser))
    assert_equal_within_8_bits(numbers(browser), sent(layers[1], 2, 2))


@pytest.mark.browser
def test_the_address_keeps_the_place_and_restores_it(opened: Open, layers: list[LayerView]) -> None:
    browser = opened("#layer=2&head=1")
    point(browser, "key", 3)
    find(browser, ".column.key [data-position='3']")[0].click()
    until(browser, lambda: "key=3" in browser.current_url)
    address = browser.current_url
    before = numbers(browser)
    browser = opened("#" + address.partition("#")[2])
    assert texts(browser, ".stage h2") == ["Layer 2, head 1"]
    assert numbers(browser) == before
    browser.execute_script("location.hash = '#view=head&layer=0&head=2&query=20'")
    until(browser, lambda: "layer=0" in at(browser))
    assert_equal_within_8_bits(numbers(browser), sent(layers[0], 2, 20))


@pytest.mark.browser
def test_an_address_that_leads_nowhere_becomes_the_nearest_place(opened: Open) -> None:
    browser = opened("#view=none&layer=99&head=99&query=99&by=none&theme=none")
    assert at(browser) == "#view=head&layer=4&head=1&by=previous_token"


@pytest.mark.browser
def test_both_themes_follow_the_system_until_the_button_is_pressed(opened: Open) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = opened(theme="light").execute_script(paper)
    browser = opened(theme="dark")
    dark = browser.execute_script(paper)
    assert [sum(map(int, re.findall(r"\d+", colour))) > 380 for colour in (light, dark)] == [True, False]
    find(browser, ".theme")[0].click()
    until(browser, lambda: "theme=light" in at(browser))
    assert browser.execute_script(paper) == light
    browser = opened("#theme=dark", theme="light")
    assert browser.execute_script(paper) == dark


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 400, 800, 1100, 1400, 2200])
def test_no_width_needs_scrolling_sideways(opened: Open, width: int) -> None:
    browser = opened("#layer=0&head=0&query=40", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert find(browser, ".reading li")[0].is_displayed()


@pytest.mark.browser
@pytest.mark.parametrize("view", ["model", "head", "map"])
def test_the_heads_are_coloured_by_the_role_that_a_link_names(opened: Open, view: str) -> None:
    browser = opened(f"#view={view}&layer=0&head=0&by=induction")
    assert "by=induction" in at(browser)
    assert browser.execute_script("return document.getElementById('by').value") == "induction"
    assert ": induction " in find(browser, ".heads [role=gridcell]")[0].get_attribute("title")
    assert texts(browser, ".chooser .says")[0].startswith("weight on the token after each earlier same token")


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1400])
def test_every_view_has_the_whole_text(visit: Open, layers: list[LayerView], tmp_path: Path, width: int) -> None:
    whole = "It was the best of times,\n it was <b>the worst</b> of times. " * 20
    known = {"title": "It was the best …", "read": [whole, None]}
    page = write(tmp_path / "look.html", layers, heads=head_table(layers), facts={}, **known)
    for view in ("model", "head", "map", "product", "report"):
        browser = visit(page, f"#view={view}&layer=0&head=0", width=width)
        assert not find(browser, ".whole-texts")[0].is_displayed()
        find(browser, ".whole-text summary")[0].click()
        assert find(browser, ".whole-texts p")[0].is_displayed()
        assert texts(browser, ".whole-texts p") == [whole]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    short = write(
        tmp_path / "short.html", layers, title="All.", heads=head_table(layers), facts={}, read=["All.", None]
    )
    assert not find(visit(short, "#view=head"), ".whole-text")  # the title says it


@pytest.mark.browser
def test_the_page_says_what_it_left_out(opened: Open, layers: list[LayerView]) -> None:
    shares = torch.cat([layer.shares().flatten() for layer in layers])
    told = " ".join(texts(opened(), ".about"))
    mean, least = (math.floor(1000 * float(share)) / 10 for share in (shares.mean(), shares.min()))
    assert f"{mean:.1f}\u202f% of the weight on average, {least:.1f}\u202f% where it is least" in told
    assert "Attention is not explanation." in told


@pytest.mark.browser
def test_a_page_that_was_cut_off_says_so(browser: Any, written: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(written.read_text().replace('id="layer-1"', 'id="lost"'))
    browser.get(broken.as_uri())
    until(browser, lambda: find(browser, ".broken"))
    assert 'The page holds no "layer-1"' in texts(browser, ".broken")[0]
    browser.get_log("browser")


def test_thirty_layers_of_nine_heads_and_two_hundred_tokens_take_less_than_3_mb(tmp_path: Path) -> None:
    texts = [f" token{j}" for j in range(200)]
    layers = [causal_layer(index, 9, texts) for index in range(30)]
    path = write(tmp_path / "look.html", layers, title="size", heads=head_table(layers), facts={})
    assert sum(int(layer.listed.sum()) for layer in layers) > 1_000_000  # no easy case
    assert path.stat().st_size < 3_000_000


def test_the_pages_are_one_script_each_and_need_every_module() -> None:
    scripts = [page.bundle(entry) for entry in ("page.js", "compare.js", "serve.js", "widget.js")]
    modules = {str(file.relative_to(str(page.WEB))) for file in Path(str(page.WEB)).rglob("*.js")}
    assert {module for script in scripts for module in re.findall(r"^// (\S+\.js)$", script, re.MULTILINE)} == modules
    left = [line for script in scripts for line in re.findall(r"^(?:import|export)\b.*", script, re.MULTILINE)]
    assert left == ["export default { render };"]  # for the notebook


@pytest.mark.parametrize("entry", ["page.js", "compare.js", "serve.js", "widget.js"])
def test_no_name_stands_twice_in_a_script(entry: str, tmp_path: Path) -> None:
    """Of modules that became one; a browser would show nothing then. Node.js reads it as a browser does."""
    node = shutil.which("node")
    if node is None:
        said = "Node.js is not here, which reads the scripts"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    script = tmp_path / "bundle.mjs"
    for twice in ("", "const settle = 0;\n"):
        script.write_text(page.bundle(entry) + "\n" + twice)
        read = subprocess.run([node, "--check", str(script)], capture_output=True, text=True, check=False)
        assert ("has already been declared" in read.stderr) == bool(twice), read.stderr
        assert bool(read.returncode) == bool(twice), read.stderr


def test_a_page_that_cannot_be_written_leaves_nothing_and_says_why(
    tmp_path: Path, layers: list[LayerView], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClearheadError, match=r"there is no folder .*nowhere; make it"):
        write(tmp_path / "nowhere" / "look.html", layers, title="", heads=[], facts={})
    (tmp_path / "look.html").write_text(f"{MARK} the page of yesterday")

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="the disk is full"):
        write(tmp_path / "look.html", layers, title="", heads=[], facts={})
    assert [file.name for file in tmp_path.iterdir()] == ["look.html"]
    assert (tmp_path / "look.html").read_text() == f"{MARK} the page of yesterday"


def test_a_title_may_hold_bytes_that_are_no_text(tmp_path: Path, layers: list[LayerView]) -> None:
    path = write(tmp_path / "look.html", layers, title="caf\udce9", heads=[], facts={})
    assert "<title>caf&#56553;</title>" in path.read_text(encoding="utf-8")
