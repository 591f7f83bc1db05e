"""The page in a real browser: how soon it shows a picture, what it holds in memory, and how smoothly it moves.

A headless Chromium that paints as fast as it can, so that what is measured between two pictures is the page's work and
not the screen's pace. The pages are SmolLM2's, of the text of docs/texts.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.cases import Case, Quantity
from benchmarks.goals import Holds, Lasts
from benchmarks.looking import LONG, SHORT, opened, tokens, watched
from benchmarks.peers import Cannot

FRAMES, WARM = 240, 20
FIRST_PICTURE = """
new MutationObserver((_, observer) => {
  const page = document.getElementById("clearhead");
  if (!page?.dataset.at) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.firstPicture = performance.now(); }));
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-at"] });
"""
"""Notes when the page is there and painted, in ms from the moment it was asked for."""
MOVE = """
const [frames, move, done] = arguments;
const step = new Function("frame", move);
const times = [];
const next = (now) => {
  times.push(now);
  if (times.length > frames) return done(times);
  step(times.length);
  requestAnimationFrame(next);
};
requestAnimationFrame(next);
"""
SCROLL, FLING = (f"document.querySelector('.token-box').scrollTop += {px};" for px in (61, 200))
"""A step of the head view: some rows further down."""
PAN = """
const way = frame % 80 < 40 ? 1 : -1;
document.querySelector("canvas.map").dispatchEvent(new WheelEvent("wheel", {
  bubbles: true, cancelable: true, shiftKey: true, deltaX: 31 * way, deltaY: 17 * way }));
"""
"""A step of the map: 35 px along its diagonal, forth and back."""
MIDDLE = f"x={LONG // 2}&y={LONG * 3 // 4}"
MOVED = {
    "head view": ("view=head", SCROLL),
    "head view, five heads flung": ("view=head&also=0.1.2.3", FLING),
    "map": (f"view=map&zoom=1500&{MIDDLE}", PAN),
    "map, its single weights": (f"view=map&zoom=20&{MIDDLE}", PAN),
}
"""What moves: the place where it begins, and a step."""


@contextmanager
def chromium() -> Iterator[tuple[Any, str]]:
    """A browser, and the folder of its profile."""
    driver = shutil.which("chromedriver")
    if driver is None:
        raise Cannot("no Chromium with its driver; on Debian: apt-get install chromium chromium-driver")
    from selenium import webdriver

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        size, unpaced = "--window-size=1400,1000", ("--disable-frame-rate-limit", "--disable-gpu-vsync")
        for flag in ("--headless=new", "--no-sandbox", size, *unpaced, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
            chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST_PICTURE})
            yield chrome, profile


def visit(chrome: Any, page: Path, place: str = "") -> float:
    """Seconds from asking for the page to its first picture."""
    from selenium.webdriver.support.wait import WebDriverWait

    chrome.get("about:blank")
    chrome.get(f"{page.as_uri()}#{place}")
    waiting = WebDriverWait(chrome, 60, poll_frequency=0.05)
    return float(waiting.until(lambda browser: browser.execute_script("return window.firstPicture"))) / 1000


@cache
def saved(count: int) -> Path:
    """The page of so many tokens; it is there as long as the process is."""
    folder = tempfile.mkdtemp()
    return watched(opened(), tokens(count)).page(Path(folder) / "look.html")


def of_opening() -> float:
    """Seconds to the first picture of a page of 1,000 tokens; the median of five, after one that starts the browser."""
    with chromium() as (chrome, _):
        return median([visit(chrome, saved(SHORT)) for _ in range(6)][1:])


def of_memory() -> float:
    """Bytes that the browser holds for the page of 1,000 tokens, its own machinery included."""
    with chromium() as (chrome, profile):
        visit(chrome, saved(SHORT))
        time.sleep(2)
        return max(_proportional(process) for process in Path("/proc").glob("[0-9]*") if _renders(process, profile))


def _renders(process: Path, profile: str) -> bool:
    try:
        command = (process / "cmdline").read_bytes().decode()
    except OSError:  # ended meanwhile
        return False
    return "--type=renderer" in command and profile in command


def _proportional(process: Path) -> int:
    """Its memory, of what it shares only its part."""
    rollup = (process / "smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


@cache
def frames(place: str, move: str) -> list[float]:
    """Seconds between two pictures while a page of 8,192 tokens moves."""
    with chromium() as (chrome, _):
        visit(chrome, saved(LONG), place)
        time.sleep(1)
        _see(chrome, move)
        chrome.set_script_timeout(120)
        times = chrome.execute_async_script(MOVE, FRAMES + WARM, move)
        return [(after - before) / 1000 for before, after in pairwise(times[WARM:])]


def _see(chrome: Any, move: str) -> None:
    """That each step shows another picture."""
    pictures = set()
    for step in range(1, 6):
        chrome.execute_script("new Function('frame', arguments[1])(arguments[0])", step, move)
        time.sleep(0.3)
        pictures.add(chrome.get_screenshot_as_png())
    if len(pictures) < 5:
        raise RuntimeError(f"nothing to time: five steps showed {len(pictures)} pictures. The step: {move.strip()}")


def of_frames(place: str, move: str, summary: Callable[[list[float]], float]) -> float:
    """Their median, or another summary."""
    return summary(frames(place, move))


def p95(seconds: list[float]) -> float:
    """The 95th percentile."""
    return quantiles(seconds, n=20)[-1]


def _cases() -> Iterator[Case]:
    opening = f"page of {SHORT} tokens"
    yield Case(f"{opening}: to its first picture", Quantity(of_opening), (Lasts("nothing", 1, 1),), False)
    yield Case(f"{opening}: memory of its process", Quantity(of_memory), (Holds("nothing", 300e6, 300e6),), False)
    for what, (place, move) in MOVED.items():
        for name, summary, seconds in (("median", median, 0.016), ("95th percentile", p95, 0.033)):
            measure = partial(of_frames, f"{place}&layer=17&head=5", move, summary)
            case = f"moving the {what}, {LONG} tokens: a frame, {name}"
            yield Case(case, Quantity(measure), (Lasts("nothing", seconds, seconds),), False)


CASES = list(_cases())
