"""Takes one picture of a page in Chromium: python docs/picture.py look.html out.png 'theme=light&layer=17&head=5'."""

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

SIZE = 1280, 1280
DRAWN = "return document.querySelector('[data-at]') !== null"
SOON = "setTimeout(arguments[0], 800)"
"""What comes when it is in sight, as pictures of heads, has come by then."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        with webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))) as chrome:
            yield chrome


def take(chrome: Any, page: Path | str, place: str, picture: Path, size: tuple[int, int] = SIZE) -> None:
    """A picture of a page, a file's or a server's, at a place, in 256 colours: its flat areas need no more."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chrome.get("about:blank")
    chrome.get(f"{page.resolve().as_uri() if isinstance(page, Path) else page}#{place}")
    WebDriverWait(chrome, 20).until(lambda browser: browser.execute_script(DRAWN))
    chrome.execute_async_script(SOON)
    chrome.execute_script("scrollTo(0, 0)")
    seen = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    seen.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    with chromium() as chrome:
        take(chrome, Path(sys.argv[1]), sys.argv[3], Path(sys.argv[2]))
