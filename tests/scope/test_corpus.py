"""A corpus gives its documents one at a time, and those that can't be read with what is wrong."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from clearhead import ClearheadError
from clearhead.scope import corpus
from clearhead.scope.corpus import Corpus


def test_a_folder_gives_its_files_by_name_and_those_of_its_folders(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", ".hidden", "sub/c.txt", ".git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"of {name}")
    corpus = Corpus(tmp_path)
    found = [(document.name, document.text) for document in corpus]
    assert found == [("a.txt", "of a.txt"), ("b.txt", "of b.txt"), ("sub/c.txt", "of sub/c.txt")]
    assert sum(document.size for document in corpus) == corpus.size


def test_a_name_that_is_no_text_is_spelt_so_that_it_can_be_written(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode("k\u00e4tzchen.txt".encode("latin-1"))).write_text("a")
    (document,) = Corpus(tmp_path)
    assert (document.name, document.text) == (r"k\xe4tzchen.txt", "a")


def test_a_file_gives_a_document_a_line(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufeffOne cat.\r\n\nZwei Kätzchen.".encode())
    documents = list(Corpus(file))
    assert [(d.name, d.text.strip()) for d in documents] == [
        ("lines.txt:1", "One cat."),
        ("lines.txt:2", ""),
        ("lines.txt:3", "Zwei Kätzchen."),
    ]
    assert sum(document.size for document in documents) == Corpus(file).size == file.stat().st_size


def test_json_lines_give_a_field(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(json.dumps({"text": "no", "body": f"cat\n{n}"}) for n in range(2)))
    assert [document.text for document in Corpus(file, "body")] == ["cat\n0", "cat\n1"]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    lines = [b'{"text": "good"}', b'{"text": "half', b'["text"]', b'{"title": "x"}', b'{"text": 3}', b"\xff", b""]
    file.write_bytes(b"\n".join([*lines, b'{"text": "last"}']))
    documents = list(Corpus(file))
    assert [document.text for document in documents if document.problem is None] == ["good", "\n", "last"]
    assert [document.problem for document in documents if document.problem] == [
        ("no JSON", "Invalid control character at: line 1 column 15 (char 14)"),
        ("no text", "the line is no object but of type list"),
        ("no text", "the object has no field 'text', but title"),
        ("no text", "its field 'text' is no string but of type int"),
        ("undecodable", "its byte 0 is 0xff, which is no UTF-8"),
    ]
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    ((_, problem),) = [(document.text, document.problem) for document in Corpus(tmp_path / "deep.jsonl")]
    assert problem is not None and problem[0] == "no JSON"
    (tmp_path / "gone.txt").symlink_to("nowhere")
    found = {document.name: document.problem for document in Corpus(tmp_path)}
    assert found["gone.txt"] == ("unreadable", "No such file or directory")


def test_fifos_devices_and_links_that_may_have_no_end_are_skipped_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    os.mkfifo(folder / "fifo.txt")
    (folder / "device.txt").symlink_to("/dev/zero")
    (folder / "again").symlink_to(folder)
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "z.txt").write_text("good")
    assert {document.name: document.problem or document.text for document in Corpus(folder)} == {
        "again": ("skipped", "it is a link to a folder"),
        "device.txt": ("skipped", "it is a device"),
        "fifo.txt": ("skipped", "it is a FIFO"),
        "loop.txt": ("unreadable", "Too many levels of symbolic links"),
        "z.txt": "good",
    }
    assert Corpus(folder).size == 4
    for path, kind in ((folder / "fifo.txt", "a FIFO"), ("/dev/zero", "a device")):
        with pytest.raises(ClearheadError, match=f"The corpus .* is {kind}; expected a folder or a file"):
            Corpus(path)


@pytest.mark.parametrize("piece", [1, 2, 7, 100])
def test_a_file_is_read_in_pieces(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE", piece)
    (tmp_path / "a.txt").write_bytes("\ufeffZwei Kätzchen, 三只小猫.".encode())
    (tmp_path / "b.txt").write_bytes("Kätzchen".encode() + b"\xff" + b"more" * 100)
    (tmp_path / "c.txt").write_bytes("ä".encode()[:1])
    good, bad, half = Corpus(tmp_path)
    assert (good.text, good.size) == ("Zwei Kätzchen, 三只小猫.", (tmp_path / "a.txt").stat().st_size)
    assert bad.problem == ("undecodable", "its byte 9 is 0xff, which is no UTF-8")
    assert half.problem == ("undecodable", "its byte 0 is 0xc3, which is no UTF-8")


@pytest.mark.parametrize("piece", [1, 2, 7, 100])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_beyond_the_limit_is_reported_and_the_next_lines_are_read(
    piece: int, end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PIECE", piece)
    monkeypatch.setattr(corpus, "LINE", 18)
    file = tmp_path / "corpus.jsonl"
    lines = [b'{"text": "short"}', b'{"text": "longer"}', b"[" * 5000, b"", '{"text": "ä"}'.encode(), b"x" * 18 + b"y"]
    file.write_bytes(b"\n".join(lines) + end)
    documents = list(Corpus(file))
    assert [document.name for document in documents] == [f"corpus.jsonl:{n}" for n in range(1, 7)]
    assert [document.text for document in documents] == ["short", "", "", "\n", "ä", ""]
    assert [document.problem for document in documents if document.problem] == [
        (
            "line too long",
            f"line {n} of corpus.jsonl has {size:,} bytes, {size - 18:,} more than the limit of 18; "
            "split it into several lines, one document each",
        )
        for n, size in ((2, 19), (3, 5001), (6, 19 + len(end)))
    ]
    assert sum(document.size for document in documents) == Corpus(file).size


def test_of_a_line_beyond_the_limit_no_more_than_the_limit_and_a_few_pieces_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = 2**16
    monkeypatch.setattr(corpus, "PIECE", piece)
    monkeypatch.setattr(corpus, "LINE", 4 * piece)
    file = tmp_path / "one_line.txt"
    with file.open("wb") as data:
        data.truncate(256 * piece)  # zeros, which take no room on the disk
        data.seek(0, os.SEEK_END)
        data.write(b"\nA cat.")
    tracemalloc.start()
    try:
        long, short = Corpus(file)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert long.problem is not None and (long.size, short.text) == (256 * piece + 1, "A cat.")
    assert most < 10 * piece


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=r"There is no corpus .*none: name a folder of texts, a file"):
        Corpus(tmp_path / "none")
    with pytest.raises(ClearheadError, match=r"The folder .* holds no files; put one text in each\."):
        Corpus(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ClearheadError, match=r"The file .*empty\.txt is empty; put one text on each line\."):
        Corpus(tmp_path / "empty.txt")
