"""The ground on which every test stands, and every doctest of src/: one seed, no network, two threads."""

import enum
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch

IN_CI = "CI" in os.environ

# Read when Transformers is imported, hence here: a test that reaches for a hub fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"

# The tests' tensors are small: more threads only wait for one another.
torch.set_num_threads(min(2, os.cpu_count() or 1))

hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if IN_CI else "here")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the types that are checked while tests run: they answer before our own sentences, and break a graph."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="session")
def core_in_ci() -> None:
    """Where there is no native core, its tests are skipped; but CI has one."""
    from clearhead.attend import library

    if IN_CI and library.missing():
        pytest.fail(str(library.missing()))


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NO_CHROMIUM = "no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver"
LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Without Chromium the tests that drive it are left out; in CI they fail."""
    if IN_CI or (CHROMIUM and DRIVER):
        return
    left_out = [item for item in items if "browser" in item.fixturenames]
    items[:] = [item for item in items if "browser" not in item.fixturenames]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{left_out} tests of the page did not run: {NO_CHROMIUM}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, driven by Selenium."""
    if not (CHROMIUM and DRIVER):
        pytest.fail(NO_CHROMIUM)

    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",  # which root needs
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield chrome
    chrome.quit()


class _Absent(ModuleType):
    """A stand-in for a module that isn't there: each name in it is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, imported without torchvision.

    timm names torchvision's datasets and image transforms when it is imported, and uses none of them to build
    and run a model. The package index has no torchvision for PyTorch's CPU build, and one that lacks its
    compiled part stops Transformers from importing; so stand-ins are there while timm is imported, no longer.
    """
    absent: dict[str, ModuleType] = {}
    for name in ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional"):
        module = absent["torchvision" + name] = _Absent("torchvision" + name)
        if name:
            parent, _, child = module.__name__.rpartition(".")
            setattr(absent[parent], child, module)
    modes = enum.Enum("InterpolationMode", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
    absent["torchvision.transforms.functional"].InterpolationMode = modes
    absent["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
    with pytest.MonkeyPatch.context() as patch:
        for name, module in absent.items():
            patch.setitem(sys.modules, name, module)
        return importlib.import_module("timm")
