"""What several tests of view share: two small models, compared, and a browser that opens pages."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead.view.compared import Compared
from tests.view.browsing import Open, at, until


@pytest.fixture(scope="session")
def compared() -> Compared:
    records = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        torch.manual_seed(0)
        with ch.watch(model) as seen:
            model(torch.randn(1, 12, 16))
        records.append(seen)
    return ch.compare(*records)


@pytest.fixture(scope="session")
def llama() -> torch.nn.Module:
    """A small model that turns q and k by their positions, with weights far from even."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(1)
    options = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(vocab_size=20, num_hidden_layers=3, pad_token_id=0, **options)).eval()
    for layer in model.layers:
        layer.self_attn.q_proj.weight.data *= 60
        layer.self_attn.k_proj.weight.data *= 60
    return model


@pytest.fixture
def touch(browser: Any) -> Iterator[Callable[..., None]]:
    """Fingers that move: each from one place to another."""
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})

    def move(*fingers: tuple[tuple[float, float], tuple[float, float]], steps: int = 12) -> None:
        for step in range(steps + 1):
            part = step / steps
            points = [
                {"x": x0 + part * (x1 - x0), "y": y0 + part * (y1 - y0), "id": n}
                for n, ((x0, y0), (x1, y1)) in enumerate(fingers)
            ]
            kind = "touchMove" if step else "touchStart"
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            time.sleep(0.02)
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    yield move
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page at a place, in a theme, and waits until it is there; then nothing may be amiss."""

    def to(page: Path | str, place: str = "", *, theme: str = "light", width: int = 1400, height: int = 900) -> Any:
        feature = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get((page.as_uri() if isinstance(page, Path) else page) + place)
        until(browser, lambda: at(browser))
        return browser

    browser.get_log("browser")
    yield to
    assert browser.get_log("browser") == []
