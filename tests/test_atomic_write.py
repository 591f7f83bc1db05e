"""A file is written in one step, where that loses nothing: links are followed, devices stay, others' files too."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import clearhead as ch
from clearhead import atomic_write
from clearhead.atomic_write import MARK, write
from clearhead.errors import ClearheadError
from clearhead.scope import checkpoint
from clearhead.view import export

ROWS = [{"head": 0, "peak": 0.5}]


@pytest.fixture(scope="module")
def seen() -> ch.Seen:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    with torch.no_grad(), ch.watch(layer) as seen:
        layer(torch.randn(1, 5, 8))
    return seen


SAVERS: dict[str, Callable[..., Any]] = {
    "page.html": lambda seen, path, **force: seen.page(path, **force),
    "compared.html": lambda seen, path, **force: ch.compare(seen, seen).page(path, **force),
    "head.svg": lambda seen, path, **force: seen.figure("head", 0, 0).save(path, **force),
    "head.pdf": lambda seen, path, **force: seen.figure("head", 0, 0).save(path, **force),
    "head.png": lambda seen, path, **force: seen.figure("head", 0, 0).save(path, **force),
    "map.png": lambda seen, path, **force: ch.draw(seen.map(0, 0), path, **force),
    "pixels.png": lambda seen, path, **force: ch.write_pixels(seen.map(0, 0), path, **force),
    "table.json": lambda seen, path, **force: export.write_rows(path, ROWS, **force),
    "table.csv": lambda seen, path, **force: export.write_rows(path, ROWS, **force),
    "table.parquet": lambda seen, path, **force: export.write_rows(path, ROWS, **force),
}


@pytest.mark.parametrize("name", SAVERS)
def test_what_clearhead_wrote_is_replaced_and_what_it_did_not_write_needs_force(
    seen: ch.Seen, name: str, tmp_path: Path
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not here; pip install pyarrow")
    path, save = tmp_path / name, SAVERS[name]
    save(seen, path)
    save(seen, path)
    path.write_text("a thesis")
    with pytest.raises(ClearheadError, match=r"is there already, and Clearhead did not write it.*--force \(force=True"):
        save(seen, path)
    assert path.read_text() == "a thesis"
    save(seen, path, force=True)
    assert path.read_bytes() != b"a thesis"
    path.write_bytes(b"")  # as tempfile makes one
    save(seen, path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_of_a_long_file_the_mark_at_its_end_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"x" * 300_000 + MARK.encode() + b"x" * 100)
    write(path, b"new")
    path.write_bytes(b"x" * 100_000 + MARK.encode() + b"x" * 100_000)
    with pytest.raises(ClearheadError, match="Clearhead did not write it"):
        write(path, b"new")


def test_a_csv_of_other_columns_is_somebody_else_s(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for theirs in ("name,grade\nKim,1\n", "head,peaks\n1,2\n"):
        path.write_text(theirs)
        with pytest.raises(ClearheadError, match="Clearhead did not write it"):
            export.write_rows(path, ROWS)
    path.write_text("layer,name,head\n0,attn,1\n")  # of the table of heads, whatever its columns
    export.write_rows(path, ROWS)


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
def test_a_symbolic_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "a.txt", tmp_path / "link", tmp_path / "second"
    if there:
        target.write_text(MARK)
    link.symlink_to(Path("far") / "a.txt")
    second.symlink_to(link)
    write(second, b"new")
    assert second.is_symlink() and link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(file.name for file in target.parent.iterdir()) == ["a.txt"]


def test_devices_and_pipes_are_written_to_as_they_are(tmp_path: Path) -> None:
    """A device through a link: were it replaced, as root it would be the machine's that was gone."""
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    write(device, b"new")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe, b"new")
    reader.join()
    assert read == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["null", "pipe"]


def test_permissions_stay_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(MARK)
    path.chmod(0o640)
    write(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_is_no_place_for_a_file_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere" / "a")
    for path, said in (
        (tmp_path, "it is a folder, as an empty name is; give a file's name"),
        (Path(""), r"\. cannot be written: it is a folder, as an empty name is"),
        (loop, "loop cannot be written: Too many levels of symbolic links"),
        (dangling, "there is no folder .*nowhere; make it first"),
        (tmp_path / "nowhere" / "a", "there is no folder .*nowhere; make it first"),
        (tmp_path / ("a" * 300), "cannot be written: File name too long"),
    ):
        with pytest.raises(ClearheadError, match=said):
            write(path, b"new")
    path = tmp_path / "a.txt"
    path.write_text(MARK)
    monkeypatch.setattr(atomic_write.os, "access", lambda *_: False)  # root may write what is write-protected
    with pytest.raises(ClearheadError, match="it is write-protected; name another file"):
        write(path, b"new")


def test_a_checkpoint_follows_links_and_is_kept_in_no_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for n in range(2):
        checkpoint.write(link, {"n": n})
    assert (link.is_symlink(), checkpoint.read(target)) == (True, {"n": 1})
    checkpoint.remove(link)
    assert (link.is_symlink(), target.exists()) == (True, False)
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    for path, said in ((device, "it is a device or a pipe; name a file"), (tmp_path, "it is a folder")):
        with pytest.raises(ClearheadError, match=said):
            checkpoint.check_place(path)
    target.write_text("a thesis")
    with pytest.raises(ClearheadError, match="Clearhead did not write it"):
        checkpoint.write(link, {})
