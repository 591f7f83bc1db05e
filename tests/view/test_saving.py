"""What is to be seen is saved as it is: SVG and PNG as downloads, PDF by printing the drawing alone."""

import base64
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.view import page
from clearhead.view.fitting import saved
from tests.view.browsing import Open, at, find, texts, until

SVG = "{http://www.w3.org/2000/svg}"
PLACE = "#view=product&layer=0&head=1&query=9&at=6"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    with torch.no_grad(), ch.watch(layer) as seen:
        layer(torch.randn(1, 12, 16))
    contents, blocks = saved(seen.scene(), 10_000_000)
    blocks["vectors-0-1"] = seen.scene().block("vectors-0-1")
    return page.write(tmp_path_factory.mktemp("saving") / "look.html", contents, blocks)


def opened(visit: Open, written: Path, folder: Path, theme: str = "light") -> Any:
    browser = visit(written, PLACE, theme=theme)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    until(browser, lambda: find(browser, "[data-strip=scores]"))
    return browser


def save(browser: Any, kind: str) -> None:
    find(browser, ".save summary")[0].click()
    find(browser, f".save [data-kind={kind}]")[0].click()


def download(browser: Any, kind: str, folder: Path) -> Path:
    save(browser, kind)
    until(browser, lambda: list(folder.glob(f"*.{kind}")))
    until(browser, lambda: find(browser, ".said")[0].text == "Saved.")
    (file,) = folder.iterdir()
    assert file.name == f"clearhead-product-layer0-head1.{kind}"
    return file


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "paper"), [("light", "#fcfbf8"), ("dark", "#14171b")])
def test_an_svg_stands_alone_and_holds_what_is_shown(
    visit: Open, written: Path, tmp_path: Path, theme: str, paper: str
) -> None:
    browser = opened(visit, written, tmp_path, theme)
    drawn = ET.fromstring(download(browser, "svg", tmp_path).read_text(encoding="utf-8"))
    assert drawn.tag == f"{SVG}svg"
    assert drawn[0].attrib["fill"] == paper and drawn[0].attrib["width"] == drawn.attrib["width"] == "760"
    script = "return [...document.querySelectorAll('.strips [data-strip] rect')].map((bar) => bar.dataset.value)"
    bars = [bar.attrib["data-value"] for bar in drawn.iter(f"{SVG}rect") if "data-value" in bar.attrib]
    assert bars == browser.execute_script(script)
    assert len(bars) == 3 * 8
    words = ["".join(text.itertext()) for text in drawn.iter(f"{SVG}text")]
    assert "Layer 0, head 1" in words
    for value, says in zip(texts(browser, ".step .sum"), texts(browser, ".step small"), strict=True):
        assert says in words and any(value.endswith(word) for word in words)
    whole = ET.tostring(drawn, encoding="unicode")
    assert not re.search(r"url\(|href|style=|class=\"(?!paper)|var\(", whole)


@pytest.mark.browser
def test_a_png_has_twice_the_drawing_s_pixels_and_ink_on_them(visit: Open, written: Path, tmp_path: Path) -> None:
    browser = opened(visit, written, tmp_path)
    data = download(browser, "png", tmp_path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    script = "return document.querySelector('.strips svg').viewBox.baseVal.height"
    assert width == 2 * 760
    assert height > 2 * browser.execute_script(script)
    parts, at_byte = b"", 8
    while at_byte < len(data):
        size, kind = struct.unpack(">I4s", data[at_byte : at_byte + 8])
        parts += data[at_byte + 8 : at_byte + 8 + size] if kind == b"IDAT" else b""
        at_byte += 12 + size
    assert len(set(zlib.decompress(parts))) > 50


@pytest.mark.browser
def test_a_pdf_is_one_sheet_of_the_drawing_s_size_and_nothing_else(visit: Open, written: Path, tmp_path: Path) -> None:
    browser = opened(visit, written, tmp_path)
    browser.execute_script("window.print = () => { window.asked = document.title }")
    title = browser.title
    save(browser, "pdf")
    until(browser, lambda: browser.execute_script("return window.asked") == "clearhead-product-layer0-head1")
    size = "const { width, height } = document.querySelector('.clearhead-printed svg').attributes"
    width, height = map(float, browser.execute_script(f"{size}; return [width.value, height.value]"))
    options = {"printBackground": True, "preferCSSPageSize": True}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert pdf.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert len(boxes) == 1
    assert [float(x) for x in boxes[0]] == pytest.approx([0.75 * width, 0.75 * height], abs=1.5)
    assert b"/Font" in pdf  # letters are letters

    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    until(browser, lambda: not find(browser, ".clearhead-printed"))
    assert browser.title == title
    assert browser.execute_script("return document.adoptedStyleSheets.length") == 0
    assert find(browser, ".step")[0].is_displayed()


@pytest.mark.browser
def test_the_menu_is_worked_by_keyboard_and_tells_what_went_wrong(visit: Open, written: Path, tmp_path: Path) -> None:
    browser = opened(visit, written, tmp_path)
    menu = find(browser, ".save summary")[0]
    menu.send_keys("\ue007")
    until(browser, lambda: find(browser, ".save [open]"))
    assert texts(browser, ".save button b") == ["SVG", "PNG", "PDF"]
    find(browser, ".save button")[0].send_keys("\ue00c")
    until(browser, lambda: not find(browser, ".save [open]"))
    assert browser.execute_script("return document.activeElement.textContent") == "Save picture"
    browser.execute_script("HTMLCanvasElement.prototype.toBlob = (done) => done(null)")
    save(browser, "png")
    until(browser, lambda: texts(browser, ".said") != [""])
    assert re.fullmatch(r"It could not be saved\. 1520 × \d+ pixels are more than .*", texts(browser, ".said")[0])
    assert list(tmp_path.iterdir()) == []
    assert "view=product" in at(browser)
