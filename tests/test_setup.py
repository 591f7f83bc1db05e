"""What the Makefile installs is what pyproject.toml names, pinned once; and what a wheel is called."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LOOK = ("requirements-look.lock", "requirements-models.lock")
REST = ("requirements.lock", "requirements-no-deps.lock")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(*files: str) -> list[str]:
    """The names that lock files pin."""
    lines = (line for file in files for line in (ROOT / file).read_text().splitlines())
    return [canonical(line.split("==")[0]) for line in lines if re.match(r"[\w.-]+==", line)]


def needed(*extras: str) -> set[str]:
    """The names that these extras ask for, and clearhead itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return {canonical(Requirement(line).name) for line in named} - {"clearhead"}


def test_no_package_is_pinned_twice() -> None:
    names = pinned(*LOOK, *REST)
    assert sorted(names) == sorted(set(names))


def test_make_look_installs_what_the_command_line_needs_and_make_test_the_rest() -> None:
    assert needed("hf", "serve") | {"cmake", "ninja", "scikit-build-core"} <= set(pinned(*LOOK))
    assert needed(*(set(EXTRAS) - {"bench"})) <= set(pinned(*LOOK, *REST))
    assert not {"pytest", "mypy", "pandas", "pyarrow", "matplotlib"} & set(pinned(*LOOK))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("target", ["native", "look"])
def test_without_the_core_the_last_line_of_the_set_up_says_so(target: str, tmp_path: Path) -> None:
    """Everything is installed, and CMake, which finds no compiler, makes no library."""
    for name in ("Makefile", "CMakeLists.txt", "pyproject.toml", *LOOK, *REST):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    programs_do = {"cmake": "mkdir -p build/native", "python": "exit 0", "clearhead": "echo The picture."}
    for name, does in programs_do.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    for stamp in (".tools", ".look", ".ready"):
        (programs.parent / stamp).touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    def made() -> list[str]:
        command = ["make", "--silent", f"PYTHON={sys.executable}", target]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    picture = ["The picture."] if target == "look" else []
    said = "The fast core is missing, so attention runs in PyTorch's operations, more slowly. "
    assert made() == [f"{said}Install GCC or Clang, then run: make native", *picture]
    kernels = tmp_path / "src" / "clearhead" / "kernels"
    kernels.mkdir(parents=True)
    (kernels / "libclearhead_kernels.so").touch()
    assert made() == picture


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "tag"), [("/no/such/compiler", "py3-none-any"), (None, "py3-none-(linux|mac|win)")]
)
def test_a_wheel_without_the_core_has_another_tag_than_one_with_it(
    compiler: str | None, tag: str, tmp_path: Path
) -> None:
    environment = os.environ | ({"CXX": compiler} if compiler else {})
    options = [
        "--config-settings=cmake.define.CLEARHEAD_ISAS=here",
        f"--config-settings=build-dir={tmp_path / 'build'}",
    ]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}"]
    done = subprocess.run([*command, *options, str(ROOT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert re.search(tag, wheel.name)
    inside = zipfile.ZipFile(wheel).namelist()
    assert any("libclearhead_kernels" in name for name in inside) is (compiler is None)
    assert {"clearhead/attend/api.py", "clearhead/__init__.pyi", "clearhead/models/__init__.pyi"} <= set(inside)
