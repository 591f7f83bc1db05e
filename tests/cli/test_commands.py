"""Help, version and wrong usage come at once: nothing is imported for them that takes seconds."""

import subprocess
import sys

import pytest

from clearhead.cli import main

SLOW = {"torch", "numpy", "transformers", "rich.progress", "pydantic", "tokenizers", "gguf", "uvicorn", "matplotlib"}
USAGE_ERRORS = (
    ["lok"],
    ["--colour"],
    ["heads", "a", "--colour"],
    ["heads"],
    ["heads", "a", "--sort", "beauty"],
    ["heads", "a", "--columns", "peak,beauty"],
    ["look", "a", "--by", "beauty"],
    ["look", "a", "--head", "1"],
    ["look", "a", "--layer", "x"],
    ["look", "a", "--tokens", "0"],
    ["compare", "a"],
    ["compare", "a", "b"],
    ["compare", "a", "b", "--text", "c", "--by", "beauty"],
    ["survey", "a", "--long", "no"],
    ["survey", "a", "--json", "-", "--csv", "-"],
    ["serve", "--port", "x"],
    ["generate"],
    ["generate", "a", "--dtype", "float8"],
)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        *(([name, "--help"], 0) for name in main.commands),
        *((args, 2) for args in USAGE_ERRORS),
    ],
    ids=lambda args: " ".join(args) if isinstance(args, list) else "",
)
def test_help_version_and_wrong_usage_import_nothing_slow(args: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "clearhead", *args], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert done.returncode == code, done.stderr[-500:]
    assert imported >= {"clearhead", "clearhead.cli.commands"}
    assert imported & SLOW == set()
    assert lines[-1].startswith("Error: ") if code else "clearhead" in done.stdout, done.stderr[-500:]
