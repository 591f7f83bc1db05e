"""Everyone can use the page: axe-core finds no serious fault in any view, in either theme, wide or narrow."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from tests.view.browsing import Open

AXE = Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"
RUN = """const done = arguments[0];
axe.run({ resultTypes: ["violations"] }).then(({ violations }) => done(violations
  .filter(({ impact }) => impact === "serious" || impact === "critical")
  .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html }) => html.slice(0, 160)).join(" | ")}`)))"""
VIEWS = ("model", "head", "map", "product", "report")


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        said = "axe-core is not here; `make check` installs it where there is Node.js"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    return AXE.read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen:
        model(torch.randn(1, 40, 16))
    return seen.page(tmp_path_factory.mktemp("page") / "look.html", facts={"Model": "a small one"})


def faults(browser: Any, axe: str) -> list[str]:
    browser.execute_script(axe)
    return list(browser.execute_async_script(RUN))


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_no_view_has_a_serious_fault(visit: Open, written: Path, axe: str, view: str, theme: str) -> None:
    for width in (1400, 360):
        browser = visit(written, f"#view={view}&layer=1&head=2&query=7", theme=theme, width=width)
        assert faults(browser, axe) == []


@pytest.mark.browser
@pytest.mark.parametrize("view", ["changes", "head", "map"])
def test_a_comparison_has_no_serious_fault(visit: Open, compared: Any, axe: str, view: str, tmp_path: Path) -> None:
    browser = visit(compared.page(tmp_path / "compare.html"), f"#view={view}&layer=1&head=2")
    assert faults(browser, axe) == []
