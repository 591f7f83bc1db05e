"""The head view shows several heads, pins, words and sentences with Python's numbers, and does so at any length."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch

import clearhead as ch
from clearhead.models.checkpoints import open_model
from clearhead.view.payload import LayerView
from clearhead.view.seen import Seen
from tests.view.browsing import (
    Open,
    at,
    find,
    numbers,
    point,
    press,
    press_with_a_finger,
    processor_seconds,
    reach,
    texts,
    until,
    write,
)

PAIR = ("The cat sat on the mat, unbelievably.", "It was an uncomfortable feline.")
LAYER, LONG = 3, 8192
LIMIT = 5.0
"""Seconds of the processor to open a page of that many tokens: 0.8 on an idle machine of two cores."""
STEP = 1 / 255
"""|w − what 8 bits say| ≤ (√w + 1/1020) / 255, and √w ≤ 1."""


@pytest.fixture(scope="module")
def seen() -> Seen:
    """MiniLM reading two sentences."""
    opened = open_model("minilm")
    with ch.watch(opened.model, opened.tokenizer) as seen, torch.no_grad():
        opened.model(**opened.tokenizer(*PAIR, return_tensors="pt"))
    return seen


@pytest.fixture(scope="module")
def written(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seen.page(tmp_path_factory.mktemp("pair") / "look.html")


@pytest.fixture
def opened(visit: Open, written: Path) -> Open:
    """All rows in sight."""

    def to(place: str) -> Any:
        return visit(written, f"#view=head&layer={LAYER}&{place}", height=1400)

    return to


def place(browser: Any) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(at(browser).removeprefix("#")).items()}


def side_by_side(browser: Any) -> dict[int, list[float]]:
    """The weights that each head has in the reading, by the other token's position."""
    script = """return [...document.querySelectorAll('.reading li')]
        .map(({ dataset }) => [Number(dataset.position), dataset.weights.split(' ')])"""
    return {position: list(map(float, weights)) for position, weights in browser.execute_script(script)}


def rests(browser: Any) -> float:
    """The part of the weight that the reading says it leaves out."""
    told = next(hint for hint in texts(browser, ".reading .hint") if "of its weight" in hint and "left out" not in hint)
    return 0.0 if "all of its weight" in told else float(told.split("other ")[1].split("\u202f")[0]) / 100


def assert_rows(shown: dict[int, float], row: torch.Tensor, slack: float) -> None:
    """What is listed is the row's, and what isn't is no more than is said to be left out."""
    for position, weight in shown.items():
        assert weight == pytest.approx(float(row[position]), abs=slack)
    assert shown and sum(shown.values()) > 0.9


@pytest.mark.browser
def test_several_heads_stand_side_by_side_with_python_s_numbers(opened: Open, seen: Seen) -> None:
    browser = opened("head=5&also=3.7.5.99")
    assert place(browser)["also"] == "3.7"
    point(browser, "query", 4)
    shown = side_by_side(browser)
    for n, head in enumerate((5, 3, 7)):
        row = seen[LAYER].rows([4], head)[0]
        assert_rows({key: weights[n] for key, weights in shown.items() if not math.isnan(weights[n])}, row, STEP)
    assert texts(browser, ".columns-of > span") == ["5", "3", "7"]
    assert len(set(browser.execute_script(SWATCHES))) == 3


SWATCHES = "return [...document.querySelectorAll('.chip .swatch')].map((s) => getComputedStyle(s).backgroundColor)"


@pytest.mark.browser
def test_heads_are_added_and_taken_away(opened: Open) -> None:
    from selenium.webdriver.support.select import Select

    browser = opened("head=5")
    Select(find(browser, "select.add")[0]).select_by_visible_text("head 8")
    until(browser, lambda: place(browser).get("also") == "8")
    Select(find(browser, "select.add")[0]).select_by_visible_text("head 0")
    until(browser, lambda: place(browser).get("also") == "8.0")
    find(browser, "[aria-label='Take head 5 away']")[0].click()
    until(browser, lambda: (place(browser)["head"], place(browser).get("also")) == ("8", "0"))
    find(browser, "[aria-label='Take head 0 away']")[0].click()
    until(browser, lambda: "also" not in place(browser))


@pytest.mark.browser
def test_all_heads_lie_over_one_another_and_one_of_them_stands_alone(opened: Open, seen: Seen) -> None:
    from selenium.webdriver import ActionChains

    browser = opened("head=5&query=4")
    press_in(browser, "One head or all", "All heads")
    until(browser, lambda: place(browser).get("all") == "1")
    heads = seen[LAYER].heads
    assert len(set(browser.execute_script(SWATCHES))) == heads == 12
    shown = side_by_side(browser)
    rows = seen[LAYER].rows([4])[:, 0]
    for key, weights in shown.items():
        for head, weight in enumerate(weights):
            assert math.isnan(weight) or weight == pytest.approx(float(rows[head, key]), abs=STEP)
    for key, mean in numbers(browser).items():
        assert mean == pytest.approx(float(rows[:, key].mean()), abs=STEP + 0.02 / heads)
    every = sum(len([weight for weight in weights if not math.isnan(weight)]) for weights in shown.values())
    until(browser, lambda: find(browser, f".lines[data-drawn='{every}']"))
    assert not find(browser, ".portrait")  # which is of one head
    chip = find(browser, "[aria-label='Head 7 alone']")[0]
    ActionChains(browser).move_to_element(chip).perform()
    alone = sum(not math.isnan(weights[7]) for weights in shown.values())
    until(browser, lambda: find(browser, f".lines[data-drawn='{alone}']"))
    chip.click()
    until(browser, lambda: place(browser)["head"] == "7" and "all" not in place(browser))
    assert_rows(numbers(browser), rows[7], STEP)


def press_in(browser: Any, group: str, title: str) -> None:
    buttons = find(browser, f"[aria-label='{group}'] button")
    next(button for button in buttons if button.text == title).click()


@pytest.mark.browser
@pytest.mark.parametrize("units", ["tokens", "words"])
def test_without_a_key_the_others_weights_sum_to_all(opened: Open, seen: Seen, units: str) -> None:
    browser = opened(f"head=5&query=4&units={units}")
    weights = seen[LAYER].rows([4], 5)[0] if units == "tokens" else None
    if weights is None:
        words = seen[LAYER].words([]).keys
        weights = seen[LAYER].words([next(n for n, word in enumerate(words) if word.start == 4)], 5).weights[0]
    press_in(browser, "Keys left out", "Without the first token")
    until(browser, lambda: place(browser).get("without") == "0")

    def check(gone: list[int]) -> None:
        others = weights.clone()
        others[gone] = 0
        shown = numbers(browser)
        assert not set(gone) & shown.keys()
        slack = STEP * len(others) / float(others.sum())
        for key, weight in shown.items():
            assert weight == pytest.approx(float(others[key] / others.sum()), abs=slack)
        assert sum(shown.values()) + rests(browser) == pytest.approx(1, abs=6e-3)  # as the rest is rounded
        left_out = next(hint for hint in texts(browser, ".reading .hint") if "left out" in hint)
        told = float(left_out.split("\u202f")[0]) / 100
        assert told == pytest.approx(float(weights[gone].sum()), abs=len(gone) * STEP + 0.005)

    check([0])
    assert [text.strip() for text in texts(browser, ".column.key .gone .text")] == ["[CLS]"]
    # Any key that is held can be left out too.
    reach(browser, "query", 4).click()
    heaviest = int(weights.clone().index_fill(0, torch.tensor([0]), 0).argmax())
    reach(browser, "key", heaviest).click()
    until(browser, lambda: find(browser, ".leave-out"))
    find(browser, ".leave-out")[0].click()
    until(browser, lambda: "." in place(browser).get("without", ""))
    reach(browser, "key", heaviest).click()
    reach(browser, "query", 4).click()
    until(browser, lambda: numbers(browser) and "left out" in " ".join(texts(browser, ".reading .hint")))
    check([0, heaviest])
    find(browser, ".without .chip")[0].click()
    until(browser, lambda: place(browser)["without"] == "0")
    press_in(browser, "Keys left out", "Without the first token")
    until(browser, lambda: "without" not in place(browser))


@pytest.mark.browser
@pytest.mark.parametrize("position", [3, 30])
def test_on_a_phone_a_held_token_stays_in_sight_and_a_finger_lets_it_go(
    visit: Open, long: tuple[Path, LayerView], touch: Callable[..., None], position: int
) -> None:
    browser = visit(long[0], "#view=head&layer=0&head=0", width=360, height=640)
    token = reach(browser, "query", position)
    browser.execute_script("arguments[0].scrollIntoView({ block: 'end' })", token)
    press_with_a_finger(touch, token)
    until(browser, lambda: place(browser).get("query") == str(position))
    script = """const [token, sheet] = ['.column.query .pointed', '.reading.filled'].map((found) =>
        document.querySelector(found)?.getBoundingClientRect());
        return [token?.top, token?.bottom, sheet?.top, innerHeight, sheet?.bottom]"""
    until(browser, lambda: None not in browser.execute_script(script)[:3])
    top, bottom, sheet, tall, end = browser.execute_script(script)
    assert 0 <= top and bottom <= sheet < tall and end <= tall
    press_with_a_finger(touch, find(browser, ".let-go")[0])
    until(browser, lambda: "query" not in place(browser))
    until(browser, lambda: not find(browser, ".reading.filled"))


@pytest.mark.browser
def test_many_tokens_are_pinned_and_escape_lets_go_of_all(opened: Open, seen: Seen) -> None:
    browser = opened("head=5")
    for side, position in (("query", 4), ("key", 2), ("query", 9)):
        reach(browser, side, position).click()
    until(browser, lambda: place(browser).get("pins") == "k2.q9")
    assert place(browser)["query"] == "4"
    assert texts(browser, ".reading h2 .number") == ["4", "2", "9"]
    pinned = "[...document.querySelectorAll('[role=option][aria-selected=true]')].map(({ id }) => id.split('-'))"
    marked = {(side, int(position)) for side, _, position in browser.execute_script(f"return {pinned}")}
    assert marked == {("query", 4), ("key", 2), ("query", 9)}
    lists = browser.execute_script(
        """return [...document.querySelectorAll('.reading ol')].map((list) => [...list.children]
            .map(({ dataset }) => [Number(dataset.position), Number(dataset.weight)]))"""
    )
    weights = seen[LAYER].rows(range(len(seen[LAYER].keys())), 5)
    for pinned, listed in zip((weights[4], weights[:, 2], weights[9]), lists, strict=True):
        assert [weight for _, weight in listed] == pytest.approx([float(pinned[n]) for n, _ in listed], abs=STEP)
    reach(browser, "query", 4).click()  # once more: the next becomes the first
    until(browser, lambda: "query" not in place(browser))
    assert (place(browser)["key"], place(browser)["pins"]) == ("2", "q9")
    press(browser, "\ue00c")  # Escape
    until(browser, lambda: not {"query", "key", "pins"} & place(browser).keys())


@pytest.mark.browser
def test_the_lines_from_a_least_weight_on_are_counted_and_drawn(opened: Open, seen: Seen) -> None:
    script = """const slider = document.querySelector('.tools input');
        slider.value = arguments[0];
        slider.dispatchEvent(new Event('input', { bubbles: true }))"""
    weights = seen[LAYER].rows(range(len(seen[LAYER].keys())), 5)
    browser = opened("head=5")
    browser.execute_script(script, 7)
    until(browser, lambda: place(browser).get("least") == "10")
    least, most = (int((weights >= 0.1 + slack).sum()) for slack in (STEP, -STEP))
    shown = int(find(browser, ".tool-says")[0].get_attribute("data-shown"))
    assert least <= shown <= most
    assert texts(browser, ".tool-says")[0].startswith(f"10\u202f% · {shown} of ")
    until(browser, lambda: find(browser, f".lines[data-drawn='{shown}']"))
    browser.execute_script(script, 0)
    until(browser, lambda: "least" not in place(browser))


@pytest.mark.browser
@pytest.mark.parametrize("head", [0, 5])
def test_words_have_the_weights_that_python_sums(opened: Open, seen: Seen, head: int) -> None:
    browser = opened(f"head={head}&units=words")
    expected = seen[LAYER].words(range(len(seen[LAYER].words([]).keys)), head)
    assert texts(browser, ".column.key .text") == [word.text for word in expected.keys]
    assert len(expected.keys) < len(seen[LAYER].keys())
    # A word has its first token's number, which the map and the product of query and key have too.
    assert texts(browser, ".column.key .number") == [str(word.start) for word in expected.keys]
    assert texts(browser, ".column.query .number") == [str(word.start) for word in expected.queries]
    for n, word in enumerate(expected.queries):
        if word.text not in ("unbelievably", "uncomfortable", "cat"):
            continue
        point(browser, "query", n)
        pieces = max(w.stop - w.start for w in expected.keys)
        # What the lists leave out is missing, and no more.
        assert_rows(numbers(browser), expected.weights[n], pieces * STEP + rests(browser))
        assert rests(browser) < 0.021
    point(browser, "key", 8)
    column = numbers(browser)
    assert list(column.values()) == pytest.approx(
        [float(expected.weights[n, 8]) for n in column], abs=pieces * STEP + 0.01
    )


@pytest.mark.browser
def test_a_word_that_was_begun_before_the_first_query_is_there_with_the_rest(visit: Open, tmp_path: Path) -> None:
    tokens = ["un", "believ", "able", " to", "day"]
    keys = torch.arange(5).expand(1, 3, 5)
    weights = torch.tensor([[0.1, 0.2, 0.7, 0, 0], [0.4, 0.1, 0.1, 0.4, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])[None]
    layer = LayerView("step", "self", tokens[2:], tokens, keys.where(weights > 0, torch.tensor(-1)), weights)
    words = [None, {"starts": [0, 3], "texts": ["unbelievable", "today"]}]
    browser = visit(write(tmp_path / "look.html", [layer], words=words), "#view=head&units=words")
    assert texts(browser, ".column.query .text") == texts(browser, ".column.key .text") == ["unbelievable", "today"]
    point(browser, "query", 0)
    assert numbers(browser) == pytest.approx({0: 1.0}, abs=3 * STEP)
    assert texts(browser, ".column.query .number") == texts(browser, ".column.key .number") == ["0", "3"]
    point(browser, "query", 1)
    assert numbers(browser) == pytest.approx({0: (0.6 + 0.6) / 2, 1: (0.4 + 0.4) / 2}, abs=3 * STEP)


@pytest.mark.browser
def test_views_that_show_every_key_say_so_while_keys_are_left_out(opened: Open) -> None:
    def notes() -> list[str]:
        return [note.text for note in find(browser, ".every-key") if note.is_displayed()]

    browser = opened("head=5&without=0")
    assert notes() == []
    for tab in find(browser, ".tabs button"):
        tab.click()
        until(browser, lambda tab=tab: tab.get_attribute("aria-pressed") == "true")
        assert len(notes()) == (tab.text != "Head"), tab.text
    assert notes()[0].startswith("This view shows every key: keys are left out in the Head view only.")
    find(browser, ".every-key button")[0].click()
    until(browser, lambda: "without" not in place(browser))
    assert notes() == []


@pytest.mark.browser
@pytest.mark.parametrize("units", ["tokens", "words"])
def test_keys_that_the_module_added_stand_last_and_look_at_nothing(visit: Open, tmp_path: Path, units: str) -> None:
    tokens, added = ["un", "able", " to"], ["[bias_k]", "[zero_attn]"]
    weights = torch.tensor([[0.1, 0.2, 0.0, 0.6, 0.1], [0.0, 0.4, 0.2, 0.4, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])[None]
    keys = torch.arange(5).expand(1, 3, 5).where(weights > 0, torch.tensor(-1))
    layer = LayerView("step", "self", tokens, [*tokens, *added], keys, weights, added=2)
    words = [{"starts": [0, 2], "texts": ["unable", "to"]}, {"starts": [0, 2, 3, 4], "texts": ["unable", "to", *added]}]
    browser = visit(write(tmp_path / "look.html", [layer], words=words), f"#view=head&units={units}")
    assert [text.strip("·") for text in texts(browser, ".column.key .text")][-3:] == ["to", *added]
    assert len(texts(browser, ".column.query .text")) == len(texts(browser, ".column.key .text")) - 2
    assert texts(browser, ".column.query .number")[-1] == "2"
    last = 1 if units == "words" else 2
    point(browser, "query", last)
    row = dict(enumerate(weights[0, 2].tolist())) if units == "tokens" else {0: 0.4, 1: 0.2, 2: 0.2, 3: 0.2}
    assert numbers(browser) == pytest.approx(row, abs=2 * STEP)
    point(browser, "key", last + 1)
    of_bias = {0: 0.6, 1: 0.4, 2: 0.2} if units == "tokens" else {0: 0.5, 1: 0.2}
    assert numbers(browser) == pytest.approx(of_bias, abs=2 * STEP)


@pytest.mark.browser
def test_a_pin_stays_on_its_word_and_its_token(opened: Open, seen: Seen) -> None:
    word = next(word for word in seen[LAYER].words([]).keys if word.text == "unbelievably")
    browser = opened(f"head=0&query={word.start + 1}")
    assert texts(browser, ".reading h2 .number") == [str(word.start + 1)]
    find(browser, ".switch button:nth-child(2)")[-1].click()
    until(browser, lambda: texts(browser, ".reading h2 .text") == ["unbelievably"])
    assert place(browser)["query"] == str(word.start + 1)


@pytest.mark.browser
@pytest.mark.parametrize(("between", "of", "to"), [("0.1", 0, 1), ("1.0", 1, 0), ("within", 0, 0), ("across", 1, 0)])
def test_between_sentences_only_their_weights_count(opened: Open, seen: Seen, between: str, of: int, to: int) -> None:
    from selenium.webdriver.support.select import Select

    segments = seen.scene().contents["segments"][0]
    browser = opened("head=5")
    Select(find(browser, "[aria-label='Between sentences']")[0]).select_by_value(between)
    until(browser, lambda: place(browser).get("between") == between)
    query = segments.index(of) + 2
    row = seen[LAYER].rows([query], 5)[0]
    point(browser, "query", query)
    shown = numbers(browser)
    assert shown and {segments[key] for key in shown} == {to}
    for key, weight in shown.items():
        assert weight == pytest.approx(float(row[key]), abs=STEP)
    elsewhere = float(row[[segment != to for segment in segments]].sum())
    assert rests(browser) == pytest.approx(elsewhere, abs=0.02)


@pytest.mark.browser
def test_a_switch_leads_to_encoder_decoder_and_cross(visit: Open, tmp_path: Path) -> None:
    said, read = ["Oh", " dear"], ["O", " je", "."]
    layers = [
        LayerView(name, kind, queries, keys, torch.zeros(2, len(queries), 1).int(), torch.ones(2, len(queries), 1))
        for name, kind, queries, keys in [
            ("encoder.0", "self", read, read),
            ("decoder.0.self", "self", said, said),
            ("decoder.0.cross", "cross", said, read),
            ("decoder.1.self", "self", said, said),
        ]
    ]
    browser = visit(write(tmp_path / "look.html", layers), "#view=head&layer=3&head=1")
    kinds = "[aria-label='Kind of attention'] button"
    assert texts(browser, kinds) == ["Encoder", "Decoder", "Cross"]
    pressed = "[aria-label='Kind of attention'] [aria-pressed=true]"
    assert texts(browser, pressed) == ["Decoder"]
    for n, layer in ((0, 0), (2, 2), (1, 1)):
        find(browser, kinds)[n].click()
        until(browser, lambda layer=layer: place(browser)["layer"] == str(layer))
        assert texts(browser, pressed) == [texts(browser, kinds)[n]]
        assert texts(browser, ".column.key .text")[0] == ("Oh" if layer == 1 else "O")


@pytest.mark.browser
def test_every_script_stands_in_its_place_and_hides_nothing(visit: Open, tmp_path: Path) -> None:
    shown = {
        "word": "word",
        " שלום": "·שלום",
        "مرحبا": "مرحبا",
        " \u200fשל": "·U+200Fשל",
        "می\u200cخواهم": "میU+200Cخواهم",
        "日本語": "日本語",
        "\u3000": "U+3000",
        "👨\u200d👩\u200d👧": "👨\u200d👩\u200d👧",
        "🏳\ufe0f\u200d🌈": "🏳\ufe0f\u200d🌈",
        "❤\ufe0f": "❤\ufe0f",
        "\ufe0f": "U+FE0F",
        "\u200d": "U+200D",
        "a\u200db": "aU+200Db",
        "\udcf0\udc9f": "\\xf0\\x9f",
        "e\u0301": "e\u0301",
        "\u0301": "◌\u0301",
        " \u0301": "·◌\u0301",
    }
    tokens = list(shown)
    layer = LayerView(
        "attn", "self", tokens, tokens, torch.zeros(1, len(tokens), 1).int(), torch.ones(1, len(tokens), 1)
    )
    browser = visit(write(tmp_path / "look.html", [layer]), "#view=head", height=1400)
    assert texts(browser, ".column.key .text") == list(shown.values())
    script = """return [...document.querySelectorAll(`.column.${arguments[0]} [role=option]`)].map((row) => {
        const text = row.querySelector('.text').getBoundingClientRect();
        const number = row.querySelector('.number').getBoundingClientRect();
        return [text.left, text.right, number.left, number.right].map(Math.round); })"""
    queries, keys = (browser.execute_script(script, side) for side in ("query", "key"))
    assert len({(right, number) for _, right, number, _ in queries}) == 1  # flush with the lines, numbers outside
    assert len({(left, number) for left, _, _, number in keys}) == 1
    assert all(number < left for left, _, number, _ in queries)
    assert all(number > right for _, right, number, _ in keys)
    # A sign in a text that runs from the right stands where the text begins.
    signs = """const row = document.querySelectorAll('.column.key .text')[1];
        return row.querySelector('.sign').getBoundingClientRect().right - row.getBoundingClientRect().right"""
    assert abs(browser.execute_script(signs)) < 1


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LayerView]:
    """Two heads, each query with the key before it and some others."""
    i = torch.arange(LONG)[:, None]
    keys = torch.cat([i - 1, i - 7, i // 2 - 1, torch.zeros_like(i)], 1).clamp(min=-1)
    keys[:16, 1:] = -1
    weights = torch.tensor([0.5, 0.25, 0.125, 0.0625]).expand(2, LONG, 4) * (keys >= 0)
    tokens = [f" token{n}" for n in range(LONG)]
    layer = LayerView("attn", "self", tokens, tokens, keys.expand(2, LONG, 4), weights)
    return write(tmp_path_factory.mktemp("long") / "look.html", [layer, layer]), layer


@pytest.mark.browser
def test_8192_tokens_open_at_once_with_the_rows_in_sight_alone(visit: Open, long: tuple[Path, LayerView]) -> None:
    browser = visit(long[0], "#view=head")  # compiled
    before = processor_seconds(browser)
    browser = visit(long[0], "#view=head&layer=1&head=1")
    assert processor_seconds(browser) - before < LIMIT
    rows = find(browser, ".column.key [role=option]")
    assert len(rows) < 100
    assert {row.get_attribute("aria-setsize") for row in rows} == {str(LONG)}
    assert browser.execute_script("return document.querySelector('.token-box').scrollHeight") == LONG * 26


@pytest.mark.browser
def test_8192_tokens_are_walked_through_with_the_keyboard(visit: Open, long: tuple[Path, LayerView]) -> None:
    END, HOME, PAGE_DOWN, DOWN, UP, ENTER = "\ue010", "\ue011", "\ue00f", "\ue015", "\ue013", "\ue007"
    browser = visit(long[0], "#view=head&layer=0&head=0")
    column = find(browser, ".column.query")[0]

    def active() -> int:
        row = find(browser, f"#{column.get_attribute('aria-activedescendant')}")[0]
        box, seen = (found.rect for found in (find(browser, ".token-box")[0], row))
        assert box["y"] - 1 <= seen["y"] <= box["y"] + box["height"] - 25
        return int(row.get_attribute("data-position"))

    column.send_keys(END)
    assert active() == LONG - 1
    assert numbers(browser).keys() == {LONG - 2, LONG - 8, (LONG - 1) // 2 - 1, 0}
    press(browser, UP, UP)
    assert active() == LONG - 3
    press(browser, ENTER)
    until(browser, lambda: place(browser).get("query") == str(LONG - 3))
    press(browser, HOME)
    assert active() == 0
    press(browser, PAGE_DOWN, DOWN)
    assert 10 < active() < 60
    assert len(find(browser, ".column.query [role=option]")) < 100


@pytest.mark.browser
def test_8192_tokens_scroll_and_a_sink_is_read_in_time(visit: Open, long: tuple[Path, LayerView]) -> None:
    browser = visit(long[0], f"#view=head&layer=0&head=0&query={LONG - 100}")
    assert find(browser, f".column.query [data-position='{LONG - 100}']")[0].is_displayed()
    press(browser, "\ue00c")
    point(browser, "key", 3000)
    assert numbers(browser).keys() == {3001, 3007, 6002, 6003}
    before = processor_seconds(browser)
    browser = visit(long[0], "#view=head&layer=0&head=0&key=0")
    assert processor_seconds(browser) - before < LIMIT
    assert len(find(browser, ".reading li")) == 100
    assert f"The 100 heaviest of {(LONG - 16) + 1:,}." in texts(browser, ".reading .hint")[0]
    until(browser, lambda: find(browser, ".lines[data-drawn]"))


@pytest.mark.browser
def test_the_picture_shows_the_tokens_and_lines_in_sight(opened: Open, seen: Seen) -> None:
    browser = opened("head=5&also=2&query=4")
    kept = """URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; };
        document.querySelector('[data-kind=svg]').click()"""
    shown = [weight for weights in side_by_side(browser).values() for weight in weights if not math.isnan(weight)]
    browser.execute_script(kept)
    drawing = until_saved(browser)
    told = browser.execute_script(
        """const drawing = new DOMParser().parseFromString(arguments[0], 'image/svg+xml');
        return [[...drawing.querySelectorAll('text')].map((text) => text.textContent),
            [...drawing.querySelectorAll('path')].map((path) => [path.getAttribute('stroke'),
                Number(path.getAttribute('stroke-opacity'))]), drawing.querySelector('parsererror') === null]""",
        drawing,
    )
    words, lines, sound = told
    assert sound
    *words, model, in_sight = words
    tokens = len(seen[LAYER].keys())
    assert (words[0], model) == (f"Layer {LAYER}, heads 5, 2", seen[LAYER].name)
    assert in_sight == f"all {tokens} tokens"
    assert words[-2::-2][::-1][-2 * len(seen[LAYER].keys()) :] == 2 * seen[LAYER].keys()  # each with its number
    assert sorted(opacity for _, opacity in lines) == pytest.approx(sorted(0.25 + 0.75 * w for w in shown), abs=2e-3)
    assert len({colour for colour, _ in lines}) == 2
    assert "var(" not in drawing


def until_saved(browser: Any) -> str:
    read = partial(browser.execute_script, "return window.saved")
    until(browser, read)
    return str(read())
