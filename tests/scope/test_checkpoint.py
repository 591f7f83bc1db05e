"""A checkpoint is whole or refused, by name."""

from pathlib import Path

import pytest

from clearhead import ClearheadError
from clearhead.scope import checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "survey.checkpoint"
    checkpoint.write(path, {"survey": {"long": "split"}, "sum": 3**200})
    return path


def test_what_was_written_is_read(path: Path) -> None:
    assert checkpoint.read(path) == {"survey": {"long": "split"}, "sum": 3**200}
    assert list(path.parent.iterdir()) == [path]


def test_a_torn_file_is_named(path: Path) -> None:
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ClearheadError, match=r"The checkpoint .*survey\.checkpoint is damaged: .* Remove it\."):
        checkpoint.read(path)


@pytest.mark.parametrize("data", [b"", b"My diary.\n", b"\xff\xfe"])
def test_a_file_of_another_kind_is_named_and_left_alone(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ClearheadError, match=r"survey\.checkpoint (is no checkpoint|cannot be read: it is no text)"):
        checkpoint.read(path)
    assert path.read_bytes() == data


def test_another_survey_is_refused_with_what_differs(path: Path) -> None:
    told = checkpoint.read(path)["survey"]
    checkpoint.check_same(path, told, {"long": "split"})
    with pytest.raises(ClearheadError, match=r"is of another survey: its long is split, this one's skip\. Go on with"):
        checkpoint.check_same(path, told, {"long": "skip"})


def test_a_checkpoint_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=r"cannot be written: there is no folder .*none; make it first\."):
        checkpoint.write(tmp_path / "none" / "checkpoint", {})
