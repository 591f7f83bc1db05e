"""Takes the pictures of page.md and the README: every view of a page, light and dark. Run it by `make picture`."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import patches
import torch
from picture import chromium, take
from selenium.webdriver.support.ui import WebDriverWait

import clearhead as ch
from clearhead.models.checkpoints import open_model

HERE = Path(__file__).parent
HEAD = "layer=17&head=5&by=induction"
PLACES = {
    "model": "view=model&by=induction",
    "head": f"view=head&{HEAD}&query=24",
    "map": f"view=map&{HEAD}",
    "product": f"view=product&{HEAD}",
    "report": "view=report",
}
PHONE = 360, 800
TEXTS = (
    "The cat sat on the mat. The dog sat on the log. The cat sat on the mat.",
    "The cat sat on the mat. The bird flew to the moon. The cat sat on the mat.",
)


def comparison(path: Path) -> Path:
    """The page of two texts in one model."""
    opened = open_model("smollm2")
    seen = []
    for text in TEXTS:
        with torch.no_grad(), ch.watch(opened.model, opened.tokenizer) as one:
            opened.model(**opened.inputs(text))
        seen.append(one)
    return ch.compare(*seen).page(path, names=("a dog and a log", "a bird and the moon"), facts={"Model": "smollm2"})


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with two models."""
    command = [sys.executable, "-m", "clearhead", "serve", "smollm2", "minilm"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def ask(chrome: Any, address: str, texts: Sequence[str]) -> None:
    """Types texts into the server's page, and waits until each is read."""
    chrome.get(address)
    waiting = WebDriverWait(chrome, 120)
    for n, text in enumerate(texts, 1):
        waiting.until(lambda browser: browser.find_element("id", "text").is_displayed())
        chrome.find_element("id", "text").send_keys(text)
        chrome.find_element("css selector", ".read").click()
        waiting.until(lambda browser, n=n: browser.find_elements("css selector", f"[data-number='{n}'][data-at]"))
        chrome.find_element("css selector", ".fresh").click()


def main(page: Path) -> None:
    """All of them."""
    (HERE / "page").mkdir(exist_ok=True)
    with chromium() as chrome, tempfile.TemporaryDirectory() as folder, served() as address:
        compared = comparison(Path(folder) / "compare.html")
        seen = patches.page(Path(folder) / "patches.html")
        ask(chrome, address, TEXTS)
        shown = {
            **{view: (page, place) for view, place in PLACES.items()},
            "compare": (compared, "view=head&layer=17&head=5&query=15"),
            "patches": (seen, "view=patches&layer=0&head=3&query=108"),
            "serve": (address, f"text=2&view=head&{HEAD}&query=15"),
        }
        for theme in ("light", "dark"):
            for name, (where, place) in shown.items():
                take(chrome, where, f"{place}&theme={theme}", HERE / f"page/{name}-{theme}.png")
        take(chrome, page, f"{PLACES['head']}&theme=light", HERE / "page/phone.png", PHONE)
    shutil.copy(HERE / "page/head-light.png", HERE / "look.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
