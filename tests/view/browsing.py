"""What tests of the page share: a page of some layers, and what one does in a browser."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil

from clearhead.view import page
from clearhead.view.contents import contents, held
from clearhead.view.payload import LayerView, pack

Open = Callable[..., Any]
"""As the fixture `visit` does: opens a page at a place."""


def write(
    path: Path,
    layers: Sequence[LayerView],
    *,
    title: str = "",
    heads: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    blocks: Mapping[str, bytes] | None = None,
    **more: Any,
) -> Path:
    """A saved page of these layers; `blocks`, uncompressed, and `more` contents beside them."""
    known = contents(layers, title=title, heads=heads, facts=facts or {}, share=held(layers), live=False, **more)
    raw = {f"layer-{n}": pack(layer) for n, layer in enumerate(layers)} | dict(blocks or {})
    return page.write(path, known, {name: zlib.compress(block) for name, block in raw.items()})


def until(browser: Any, true: Callable[[], Any]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10, poll_frequency=0.02).until(lambda _: true())


def processor_seconds(browser: Any) -> float:
    """What the browser's processes have computed: unlike the clock, it does not grow while others use the machine."""
    processes = psutil.Process(browser.service.process.pid).children(recursive=True)
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def find(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def texts(browser: Any, selector: str) -> list[str]:
    """All at once, and what is scrolled out of sight too."""
    script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
    return list(browser.execute_script(script, selector))


def at(browser: Any) -> str:
    """The place that the page shows by now."""
    return browser.execute_script("return document.getElementById('clearhead')?.dataset.at ?? ''")


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def reach(browser: Any, side: str, position: int) -> Any:
    """Scrolls to a token of the head view, of which only those in sight are there, and finds it."""
    script = """const [side, position] = arguments;
        const first = document.querySelector(`.column.${side} [data-position]`);
        const row = position + parseFloat(first.style.top) / 26 - Number(first.dataset.position);
        const box = document.querySelector('.token-box');
        box.scrollTop = row * 26 - box.clientHeight / 2;"""
    browser.execute_script(script, side, position)
    until(browser, lambda: find(browser, f".column.{side} [data-position='{position}']"))
    token = find(browser, f".column.{side} [data-position='{position}']")[0]
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", token)
    return token


def point(browser: Any, side: str, position: int) -> None:
    """With the mouse, at a token of the head view."""
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(reach(browser, side, position)).perform()
    until(browser, lambda: find(browser, f".column.{side} .pointed[data-position='{position}']"))


def press_with_a_finger(touch: Callable[..., None], element: Any) -> None:
    """A tap in the middle of what is in sight of it."""
    script = (
        "const { x, y, width, height } = arguments[0].getBoundingClientRect(); return [x + width / 2, y + height / 2]"
    )
    x, y = element.parent.execute_script(script, element)
    touch(((x, y), (x, y)), steps=1)


def numbers(browser: Any) -> dict[int, float]:
    """The weights that the reading lists, by the other token's position."""
    script = """return [...document.querySelectorAll('.reading li')]
        .map(({ dataset }) => [Number(dataset.position), Number(dataset.weight)])"""
    return dict(browser.execute_script(script))


def picture(browser: Any) -> ElementTree.Element:
    """The drawing that the page would save."""
    script = """const done = arguments[0];
        HTMLAnchorElement.prototype.click = () => {};
        URL.createObjectURL = (blob) => (blob.text().then(done), 'blob:none');
        document.querySelector('[data-kind=svg]').click()"""
    return ElementTree.fromstring(browser.execute_async_script(script))
