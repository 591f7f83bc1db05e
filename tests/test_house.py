"""The house rules of the code that a machine can check."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clearhead

HOUSE = Path(clearhead.__file__).parent
FILES = {str(file.relative_to(HOUSE)): file for file in sorted(HOUSE.rglob("*.py"))}

# Each floor may use those that it stands on, and nothing else of the house.
BELOW = {
    "errors": set(),
    "text": {"errors"},
    "atomic_write": {"errors"},
    "attend": {"text", "errors"},
    "nn": {"text", "attend", "errors"},
    "models": {"text", "nn", "attend", "errors"},
    "scope": {"text", "atomic_write", "attend", "errors"},
    "transformers": {"text", "scope", "attend", "errors"},
    "registration": {"transformers", "attend"},
    "view": {"text", "atomic_write", "scope", "attend", "errors"},
    "cli": {"text", "atomic_write", "view", "scope", "models", "nn", "attend", "errors"},
    "__main__": {"cli"},
}


def imports(file: Path) -> Iterator[str]:
    """The modules of Clearhead that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "clearhead")


@pytest.mark.parametrize("name", [name for name in FILES if name != "__init__.py"])
def test_no_file_imports_from_a_floor_above(name: str) -> None:
    floor = name.split("/")[0].removesuffix(".py")
    used = {module.split(".")[1] for module in imports(FILES[name])}
    assert used <= BELOW[floor] | {floor}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_in_its_first_line_what_it_is(name: str) -> None:
    assert FILES[name].read_text().startswith('"""')


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_read_in_one_sitting(name: str) -> None:
    lines = FILES[name].read_text().count("\n")
    assert lines <= 400


def test_annotated_shapes_are_checked_while_the_tests_run() -> None:
    ours = [module for name, module in sys.modules.items() if name.startswith("clearhead.")]
    files = [module for module in ours if not hasattr(module, "__path__")]  # a package holds names alone
    assert files
    assert [file for file in files if "jaxtyping" not in type(file.__loader__).__module__] == []
