"""All commands: files of others, streams that are full, closed or not UTF-8, half characters, and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clearhead.atomic_write import MARK
from clearhead.cli import main

COMMAND = [sys.executable, "-m", "clearhead"]


def run(*args: str, encoding: str = "utf-8", **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*COMMAND, *args], env=environment, check=False, **piped)


def refused(*args: str) -> str:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    return result.stderr.splitlines()[-1]


# The model is one that isn't there: what is said of a path is said before a model is opened.
WRITING = {
    "look": ["look", "a", "--model", "none", "--html"],
    "look, its numbers": ["look", "a", "--model", "none", "--json"],
    "heads": ["heads", "a", "--model", "none", "--csv"],
    "compare": ["compare", "none", "none", "--text", "a", "--html"],
    "survey": ["survey", "corpus.txt", "--model", "none", "--json"],
}


@pytest.mark.parametrize("command", WRITING.values(), ids=WRITING)
def test_a_file_that_clearhead_did_not_write_is_replaced_by_force_alone(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, contents in (("corpus.txt", "A text.\n"), ("thesis", "Chapter 1"), ("ours", MARK), ("empty", "")):
        (tmp_path / name).write_text(contents)
    assert refused(*command, "thesis") == (
        "Error: thesis is there already, and Clearhead did not write it. Name another file, or replace this one with "
        "--force (force=True in Python)."
    )
    assert refused(*command, "") == (
        "Error: . cannot be written: it is a folder, as an empty name is; give a file's name."
    )
    for allowed in (["thesis", "--force"], ["ours"], ["empty"], ["new"]):
        assert "'none'" in refused(*command, *allowed)
    assert (tmp_path / "thesis").read_text() == "Chapter 1"


def test_a_checkpoint_is_kept_in_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("A text.\n")
    said = refused("survey", "corpus.txt", "--model", "none", "--checkpoint", "/dev/null")
    assert said == "Error: The checkpoint /dev/null cannot be kept there: it is a device or a pipe; name a file."


@pytest.mark.parametrize(
    "args",
    [
        ["look", "x \udcff y"],
        ["look", "--pair", "x", "\ud800"],
        ["heads", "x \udcff y"],
        ["compare", "a", "x \udcff y", "--model", "minilm"],
        ["compare", "a", "b", "--text", "x \udcff y"],
        ["generate", "x \udcff y"],
    ],
    ids=" ".join,
)
def test_half_a_character_is_refused_before_a_model_is_opened(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        pytest.fail("a model was opened")

    for name in ("look.open_model", "heads.open_model", "compare.open_model", "generate.load"):
        monkeypatch.setattr(f"clearhead.cli.{name}", opened)
    said = "is half of a surrogate pair" if "\ud800" in args else "is the byte 0xff, which is not UTF-8"
    assert said.removeprefix("is ") in refused(*args)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_is_not_utf_8_gets_plain_signs(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(charset=encoding)
    result = runner.invoke(main, ["look", "a ½ cup → of 猫", "--model", "minilm", "--layer", "0", "--head", "1"])
    assert result.exit_code == 0, result.stderr
    said = result.stdout
    assert "> look.html#layer=0&head=1\n" in said
    assert set(said) <= {*map(chr, range(32, 127)), "\n", *("" if encoding == "ascii" else "×±·½–—•…")}


def test_every_sign_of_the_pictures_has_a_plain_one() -> None:
    """Found in the source, so that a new one is not forgotten; what a text holds is written as Python escapes it."""
    from clearhead import view
    from clearhead.cli import standard

    drawn = {
        c
        for name in ("terminal", "surveyed", "changes", "table", "compared")
        for c in (Path(str(view.__file__)).parent / f"{name}.py").read_text(encoding="utf-8")
        if ord(c) > 127
    }
    assert drawn - set("²√π") <= set(standard.PLAIN)
    assert all(len(plain) == 1 and plain.isascii() for plain in standard.PLAIN.values())


def test_json_is_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    from clearhead.cli.tables import HERE, Files

    result = CliRunner(charset="latin-1")
    with result.isolation() as (out, *_):
        Files(json=HERE).print([{"head": 0}], {"text": "½ → 猫"})
    assert json.loads(out.getvalue().decode("ascii"))["text"] == "½ → 猫"


def test_a_standard_output_that_is_full_or_closed_ends_with_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("--version", stdout=full)
    assert (done.returncode, done.stderr) == (
        2,
        b"Error: Standard output cannot be written: No space left on device.\n",
    )
    closed: Callable[[], None] = lambda: os.close(1)  # noqa: E731
    done = run("--version", stdout=None, preexec_fn=closed)
    assert (done.returncode, done.stderr) == (
        2,
        b"Error: Standard output is closed; send it to /dev/null if it is not wanted.\n",
    )


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "not ignored"])
def test_ctrl_c_ends_with_130_also_where_it_is_ignored_at_the_start(tmp_path: Path, handler: signal.Handlers) -> None:
    """It is ignored under nohup, and after a shell's & in a script. The command waits for its model for ever here."""
    waiting = (
        "import time\nfrom clearhead.cli import look, main\n"
        "def open_model(name, report):\n    report('opening')\n    time.sleep(600)\n"
        "look.open_model = open_model\nmain()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "look", "a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "opening\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "Stopped.\n")
    assert list(tmp_path.iterdir()) == []
