"""Steps are told as they begin, and warnings as sentences."""

import contextlib
import io
import warnings

import pytest

from clearhead.cli.steps import telling


def test_without_a_terminal_each_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with telling() as steps:
        steps.begin("opening [the] model")
        steps.begin("running", 2)
        steps.advance()
        steps.advance()
    assert capsys.readouterr() == ("", "opening [the] model\nrunning\n")


def test_on_a_terminal_there_is_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with telling() as steps:
        steps.begin("running", 2)
        steps.advance()
        steps.bar.refresh()
    out, err = capsys.readouterr()
    assert out == ""
    assert "running" in err
    assert "━" in err
    assert err.endswith("\x1b[2K")  # its line is erased


def test_steps_are_told_even_while_stderr_is_redirected(capsys: pytest.CaptureFixture[str]) -> None:
    with telling() as steps, contextlib.redirect_stderr(io.StringIO()) as other:
        steps.begin("converting")
    assert (other.getvalue(), capsys.readouterr().err) == ("", "converting\n")


def test_warnings_are_told_as_sentences_and_not_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with telling():
        warnings.warn("Less was seen.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "! Less was seen.\n"
    assert warnings.showwarning is before
