"""The patches view shows over the picture what Python computed, and is there only where there is a picture."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import clearhead as ch
from clearhead.scope.record import Record
from tests.view.browsing import Open, at, find, press, texts, until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def vit() -> Record:
    """A small ViT that reads a picture of 4 × 4 patches."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=8)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(20)
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.randn(1, 3, 32, 32))
    return seen


@pytest.fixture(scope="module")
def written(vit: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = Image.linear_gradient("L").convert("RGB").resize((32, 32))
    return vit.page(tmp_path_factory.mktemp("vit") / "vit.html", image=picture)


def shown(browser: Any, query: int) -> list[float]:
    """The weights that the picture shows, by token, once it shows this query's."""
    until(
        browser,
        lambda: browser.execute_script("return document.querySelector('.patches')?.dataset.query") == str(query),
    )
    script = "return [...document.querySelectorAll('.patches-heat [data-token]')].map(({ dataset }) => dataset)"
    return [float(data["weight"]) for data in sorted(browser.execute_script(script), key=lambda d: int(d["token"]))]


def assert_row(got: list[float], seen: Record, layer: int, head: int, query: int) -> None:
    expected = seen[layer].rows([query], head=head)[0]
    torch.testing.assert_close(torch.tensor(got), expected, rtol=2**-10, atol=2e-6)


def test_the_class_token_s_look_is_shown_at_first(visit: Open, written: Path, vit: Record) -> None:
    browser = visit(written, "#view=patches&layer=1&head=1")
    assert_row(shown(browser, 0), vit, 1, 1, 0)
    assert find(browser, ".patches-picture img")[0].get_attribute("src").startswith("data:image/png")
    assert len(find(browser, ".patches-choose .patches-cells [data-token]")) == 16
    told = texts(browser, ".reading li .value")
    assert told and not find(browser, ".reading.filled")
    share = float(1 - vit[1].rows([0], head=1)[0, 0])
    assert f"{100 * share:.0f}\u202f%" in texts(browser, ".map-note")[0]


def test_a_patch_that_is_pointed_at_held_or_walked_to_shows_where_it_looks(
    visit: Open, written: Path, vit: Record
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser = visit(written, "#view=patches&layer=0&head=0")
    patch = find(browser, ".patches-choose [data-token='7']")[0]
    ActionChains(browser).move_to_element(patch).perform()
    assert_row(shown(browser, 7), vit, 0, 0, 7)
    patch.click()
    until(browser, lambda: "query=7" in at(browser))
    browser.execute_script("arguments[0].focus()", patch)
    press(browser, Keys.ESCAPE)
    until(browser, lambda: "query" not in at(browser))
    press(browser, Keys.ARROW_DOWN)
    assert_row(shown(browser, 11), vit, 0, 0, 11)
    press(browser, Keys.ARROW_LEFT)
    press(browser, Keys.ENTER)
    until(browser, lambda: "query=10" in at(browser))
    assert "head=0" in at(browser)
    assert_row(shown(browser, 10), vit, 0, 0, 10)


def test_the_heaviest_patch_is_the_clearest(visit: Open, written: Path, vit: Record) -> None:
    browser = visit(written, "#view=patches&layer=1&head=0&query=5")
    weights = torch.tensor(shown(browser, 5))[1:]
    script = (
        "return [...document.querySelectorAll('.patches-heat .patches-cells [data-token]')].map((e) => e.style.opacity)"
    )
    veils = torch.tensor([float(opacity) for opacity in browser.execute_script(script)])
    torch.testing.assert_close(veils, 0.9 * (1 - weights / weights.max()), rtol=0, atol=1e-3)
    heaviest = int(vit[1].rows([5], head=0)[0].argmax())
    assert find(browser, ".reading li")[0].get_attribute("data-position") == str(heaviest)


def test_the_view_is_there_only_with_a_picture(visit: Open, written: Path, vit: Record, tmp_path: Path) -> None:
    assert "Patches" in texts(visit(written), ".tabs button")
    browser = visit(vit.page(tmp_path / "without.html"), "#view=patches")
    assert "Patches" not in texts(browser, ".tabs button")
    assert not re.search("view=patches", at(browser))


def test_a_notebook_s_cell_has_the_picture_too(vit: Record) -> None:
    pytest.importorskip("anywidget")
    known = json.loads(vit.show(image=Image.new("RGB", (32, 32))).contents)["image"]
    assert (known["rows"], known["columns"], known["first"]) == (4, 4, 1)
