"""The server's page, in a browser: a text is typed, read while one watches, looked at, and kept beside others."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import uvicorn
from torch import nn

import clearhead as ch
from clearhead.view.progress import Progress
from clearhead.view.scene import Scene
from clearhead.view.seen import Seen
from clearhead.view.server.app import application
from clearhead.view.server.guard import Hosts
from clearhead.view.server.texts import Texts
from tests.view.browsing import find, texts, until

TOKEN = "t0ken"
ATTACK = "<script>document.title = 'in'</script><img src=x onerror=\"document.title = 'in'\">"
LAYERS = 3


class Model:
    """A small model that reads as many tokens as a text has words, and waits at each layer while it is held."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 4, batch_first=True)
        self.model = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()
        self.go = threading.Event()
        self.go.set()
        self.seen: dict[str, Seen] = {}

    def __call__(self, name: str, parts: tuple[str, ...], steps: Progress, memory: int) -> tuple[Scene, int]:
        torch.manual_seed(len(parts[0]))
        steps.begin(f"watching {name}", LAYERS)
        steps.advance()
        self.go.wait(20)
        steps.advance()
        with ch.watch(self.model) as seen:
            self.model(torch.randn(1, len(parts[0].split()), 16))
        self.seen[parts[0]] = seen
        scene = seen.scene(title=parts[0], facts={"Model": ATTACK})
        _ = scene.contents
        return scene, 1000


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def session(model: Model) -> Texts:
    return Texts(("tiny", ATTACK), model, 10**6)


@pytest.fixture(scope="module")
def address(session: Texts) -> Iterator[str]:
    """Where a server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = application(session, token=TOKEN, hosts=Hosts("127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{port}/{TOKEN}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def opened(browser: Any, address: str, session: Texts) -> Iterator[Any]:
    """The page, with no text in the session; afterwards nothing may be amiss."""
    browser.get_log("browser")
    for text in session.told()["texts"]:
        session.remove(text["number"])
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get(address)
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    yield browser
    assert browser.get_log("browser") == []


def at(browser: Any) -> str:
    """The place that the page of the text shows by now."""
    return str(browser.execute_script("return document.querySelector('.showing .page')?.dataset.at ?? ''"))


def ask(browser: Any, text: str) -> None:
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    find(browser, "#text")[0].clear()
    find(browser, "#text")[0].send_keys(text)
    find(browser, ".read")[0].click()


def read(browser: Any, text: str) -> None:
    ask(browser, text)
    until(browser, lambda: texts(browser, ".masthead h1") == [text])
    until(browser, lambda: at(browser))


def weights(browser: Any) -> dict[int, float]:
    script = """return [...document.querySelectorAll('.reading li')]
        .map(({ dataset }) => [Number(dataset.position), Number(dataset.weight)])"""
    return dict(browser.execute_script(script))


def look(browser: Any, place: str) -> None:
    number = browser.execute_script("return document.querySelector('.showing .page').dataset.number")
    browser.execute_script(f"location.hash = '#text={number}&{place}'")
    until(browser, lambda: place in at(browser))
    until(browser, lambda: weights(browser))


def assert_as_python_has_it(browser: Any, seen: Seen, layer: int, head: int, query: int) -> None:
    shown = weights(browser)
    expected = seen[layer].rows([query], head)[0]
    assert sum(shown.values()) > 0.9
    for key, weight in shown.items():
        assert weight == pytest.approx(float(expected[key]), abs=1 / 255)


@pytest.mark.browser
def test_a_text_is_typed_read_and_looked_at_and_another_kept_beside_it(opened: Any, model: Model) -> None:
    browser = opened
    first, second = "the cat sat on the mat", "a second text of seven words in all"
    model.go.clear()
    ask(browser, first)
    until(browser, lambda: texts(browser, ".telling .what") == ["watching tiny: 1 of 3 attentions"])
    assert find(browser, ".telling progress")[0].get_property("position") == pytest.approx(1 / 3)
    assert texts(browser, ".shelf bdi") == [first]
    model.go.set()
    until(browser, lambda: at(browser))
    assert texts(browser, ".masthead h1") == [first]
    look(browser, "view=head&layer=2&head=3&query=4")
    assert_as_python_has_it(browser, model.seen[first], 2, 3, 4)

    find(browser, ".fresh")[0].click()
    read(browser, second)
    look(browser, "view=head&layer=1&head=0&query=7")
    assert_as_python_has_it(browser, model.seen[second], 1, 0, 7)

    time.sleep(0.2)  # until the address is written
    assert texts(browser, ".shelf bdi") == [first, second]
    find(browser, ".shelf .one")[0].click()
    until(browser, lambda: texts(browser, ".masthead h1") == [first])
    until(browser, lambda: "layer=2&head=3&query=4" in at(browser))  # where one was
    assert_as_python_has_it(browser, model.seen[first], 2, 3, 4)
    assert "text=" in browser.current_url

    find(browser, ".shelf .remove")[0].click()
    until(browser, lambda: texts(browser, ".shelf bdi") == [second])
    until(browser, lambda: texts(browser, ".masthead h1") == [second])


@pytest.mark.browser
def test_a_link_opens_the_same_place(opened: Any, model: Model, address: str) -> None:
    browser = opened
    read(browser, "one two three four")
    look(browser, "view=head&layer=1&head=2&query=3")
    until(browser, lambda: "query=3" in browser.current_url)
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    until(browser, lambda: "view=head&layer=1&head=2&query=3" in at(browser))
    assert_as_python_has_it(browser, model.seen["one two three four"], 1, 2, 3)


@pytest.mark.browser
def test_reading_can_be_stopped(opened: Any, model: Model) -> None:
    browser = opened
    model.go.clear()
    ask(browser, "a text too many")
    until(browser, lambda: find(browser, ".telling .stop"))
    find(browser, ".telling .stop")[0].click()
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    model.go.set()
    assert texts(browser, ".shelf bdi") == []
    read(browser, "the next one")
    assert "a text too many" not in model.seen


@pytest.mark.browser
def test_markup_in_a_text_a_fact_or_a_models_name_is_shown_and_never_run(opened: Any) -> None:
    browser = opened
    assert texts(browser, "#model option") == ["tiny", ATTACK]
    read(browser, f"{ATTACK} and more")
    assert texts(browser, ".shelf bdi")[0].startswith(ATTACK[:70])
    assert texts(browser, ".masthead h1") == [f"{ATTACK} and more"]
    assert browser.title == "Clearhead"
    assert not find(browser, "img[src='x']")
    assert len(find(browser, "script")) == 1


@pytest.mark.browser
def test_the_chosen_theme_goes_from_text_to_text(opened: Any) -> None:
    browser = opened
    read(browser, "the first")
    before = browser.execute_script("return document.documentElement.dataset.theme")
    find(browser, ".masthead .theme")[0].click()
    until(browser, lambda: "theme=" in browser.current_url)
    find(browser, ".fresh")[0].click()
    read(browser, "the second")
    assert browser.execute_script("return document.documentElement.dataset.theme") != before


@pytest.mark.browser
def test_the_theme_is_chosen_before_any_text_is_there_and_once_only(opened: Any) -> None:
    browser = opened
    theme = "return document.documentElement.dataset.theme"
    before = browser.execute_script(theme)
    (switch,) = find(browser, ".theme")
    assert switch.get_attribute("aria-label") == ("Dark theme" if before == "light" else "Light theme")
    switch.click()
    after = browser.execute_script(theme)
    assert {before, after} == {"light", "dark"}
    read(browser, "in the other theme")
    assert browser.execute_script(theme) == after
    assert [button.is_displayed() for button in find(browser, ".theme")] == [False, True]  # one of them
    find(browser, ".masthead .theme")[0].click()
    until(browser, lambda: browser.execute_script(theme) == before)
    find(browser, ".fresh")[0].click()
    until(browser, lambda: find(browser, ".shelf .theme")[0].is_displayed())
    assert browser.execute_script(theme) == before


@pytest.mark.browser
def test_a_text_that_was_let_go_says_so(opened: Any, session: Texts) -> None:
    browser = opened
    read(browser, "here today")
    maps = "return Number(document.querySelector('.bands canvas')?.dataset.drawn)"
    until(browser, lambda: browser.execute_script(maps) == LAYERS * 4)  # nothing is asked for any more
    session.remove(session.told()["texts"][0]["number"])
    browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")  # as on coming back to the tab
    until(browser, lambda: texts(browser, ".serve > .trouble") == ["This text is no longer kept."])
    assert find(browser, ".asking:not([hidden])")


@pytest.mark.browser
def test_the_form_begins_with_an_example_has_two_and_keeps_what_was_typed(opened: Any, address: str) -> None:
    browser = opened

    def typed() -> str:
        return str(find(browser, "#text")[0].get_property("value"))

    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    examples = find(browser, ".examples button")
    assert len(examples) == 2
    begins = typed()
    assert len(begins.split()) > 10
    examples[1].click()
    assert typed() != begins and len(typed().split()) > 10
    examples[0].click()
    assert typed() == begins
    read(browser, "one two three four")
    find(browser, ".fresh")[0].click()
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    assert typed() == "one two three four"
    find(browser, "#text")[0].send_keys("\ue010 five")  # End, and on
    browser.refresh()
    until(browser, lambda: at(browser))
    find(browser, ".fresh")[0].click()
    until(browser, lambda: find(browser, ".asking:not([hidden])"))
    assert typed() == "one two three four five"
