"""A corpus: documents, one at a time, from a folder, a file of lines, or JSON lines."""

import codecs
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clearhead.errors import ClearheadError

PIECE = 2**20
"""How many bytes of a file are read at a time."""
LINE = 2**26
"""The longest line that is read, in bytes with its newline: 64 MiB. A longer one is reported and skipped."""
JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Document:
    """One text, or what is wrong with it."""

    name: str
    """Where it stands: a file in the folder, or a line."""
    text: str
    problem: tuple[str, str] | None = None
    """Why there is no text: in a word, for counting, and in full."""
    size: int = 0
    """How many bytes of the corpus it takes."""


@dataclass(frozen=True)
class Corpus:
    """The documents of a folder, of a file with one a line, or of JSON lines; read anew each time, never held.

    A folder's documents are all its files, in its subfolders too, by name; what begins with a dot is left out.
    Links to folders, FIFOs and devices are given as documents that can't be read, as they may have no end.
    A file is JSON lines if its name ends in .jsonl, .ndjson or .json; their text stands in `field`. All are in
    UTF-8. A document that can't be read is given too, with what is wrong; so is a line longer than `LINE` bytes,
    of which no more than that is held.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     print('{"text": "A cat."}', '{"title": "None"}', sep="\\n", file=file, flush=True)
    ...     [document.text or document.problem for document in Corpus(file.name)]
    ['A cat.', ('no text', "the object has no field 'text', but title")]

    Raises:
        ClearheadError: if there is no such file or folder, nothing is in it, or it is a FIFO or a device.
    """

    path: str | Path
    field: str = "text"

    def __post_init__(self) -> None:
        path = Path(self.path)
        if not path.exists():
            raise ClearheadError(
                f"There is no corpus {path}: name a folder of texts, a file with one a line, or JSON lines."
            )
        if not path.is_dir() and not path.is_file():
            raise ClearheadError(
                f"The corpus {path} is {_kind(path.stat().st_mode)}; expected a folder or a file, which can be read "
                "twice. Write what it gives into a file first."
            )
        if path.is_dir() and next(_files(path), None) is None:
            raise ClearheadError(f"The folder {path} holds no files; put one text in each.")
        if path.is_file() and not path.stat().st_size:
            raise ClearheadError(f"The file {path} is empty; put one text on each line.")

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        path = Path(self.path)
        return sum(_size(file) for file in (_files(path) if path.is_dir() else [path]))

    def __iter__(self) -> Iterator[Document]:
        path = Path(self.path)
        return self._of_folder(path) if path.is_dir() else self._of_lines(path)

    def _of_folder(self, folder: Path) -> Iterator[Document]:
        for file in _files(folder):
            name = _shown(file.relative_to(folder))
            try:
                yield _read(name, file)
            except OSError as error:
                yield Document(name, "", ("unreadable", str(error.strerror)), _size(file))

    def _of_lines(self, path: Path) -> Iterator[Document]:
        is_json = path.suffix.lower() in JSON_LINES
        try:
            with path.open("rb") as file:
                for number, (line, size) in enumerate(_lines(file), 1):
                    name = f"{_shown(path.name)}:{number}"
                    if line is None:
                        yield Document(name, "", _too_long(_shown(path.name), number, size), size)
                        continue
                    document = _decoded(name, line)
                    yield self._of_json(document) if is_json and not document.problem else document
        except OSError as error:
            raise ClearheadError(f"The corpus {path} cannot be read: {error.strerror}.") from error

    def _of_json(self, line: Document) -> Document:
        """The document of which one line of JSON tells."""
        if not line.text.strip():
            return line
        text, problem = "", None
        try:
            told = json.loads(line.text)
        except (ValueError, RecursionError) as error:  # json's own is one; the other is of [[[[ …
            problem = "no JSON", str(error)
        else:
            if not isinstance(told, dict):
                problem = "no text", f"the line is no object but of type {type(told).__name__}"
            elif not isinstance(told.get(self.field), str):
                kind = type(told[self.field]).__name__ if self.field in told else None
                lacks = f"the object has no field '{self.field}', but {', '.join(told)}"
                problem = (
                    "no text",
                    lacks if kind is None else f"its field '{self.field}' is no string but of type {kind}",
                )
            else:
                text = told[self.field]
        return Document(line.name, text, problem, line.size)


def _shown(name: str | Path) -> str:
    """A file's name as text that can be written: bytes in it that are no UTF-8 as \\xe4."""
    return os.fsencode(Path(name).as_posix()).decode(errors="backslashreplace")


def _read(name: str, file: Path) -> Document:
    """A whole file's document, read in pieces: what is no text is left at the first piece that shows it."""
    mode, size = file.stat().st_mode, _size(file)
    if not stat.S_ISREG(mode):
        return Document(name, "", ("skipped", f"it is {_kind(mode)}"), size)
    decoder, parts, before = codecs.getincrementaldecoder("utf-8")(), [], 0
    with file.open("rb") as data:
        while True:
            piece = data.read(PIECE)
            undecided = len(decoder.getstate()[0])
            try:
                parts.append(decoder.decode(piece, final=not piece))
            except UnicodeDecodeError as error:
                at = before - undecided + error.start
                why = f"its byte {at} is {error.object[error.start]:#04x}, which is no UTF-8"
                return Document(name, "", ("undecodable", why), size)
            if not piece:
                return Document(name, "".join(parts).removeprefix("\ufeff"), None, before)
            before += len(piece)


def _lines(file: BinaryIO) -> Iterator[tuple[bytearray | None, int]]:
    """Each line and its size in bytes, read in pieces; None for a line longer than LINE, which is skipped."""
    line, size = bytearray(), 0
    while piece := file.readline(PIECE):
        size += len(piece)
        if size <= LINE:
            line += piece
        else:
            line.clear()
        if piece.endswith(b"\n"):
            yield (line if size <= LINE else None), size
            line, size = bytearray(), 0
    if size:  # the last line, without a newline
        yield (line if size <= LINE else None), size


def _too_long(file: str, number: int, size: int) -> tuple[str, str]:
    return "line too long", (
        f"line {number} of {file} has {size:,} bytes, {size - LINE:,} more than the limit of {LINE:,}; "
        "split it into several lines, one document each"
    )


def _kind(mode: int) -> str:
    """What stands there that is no file."""
    kinds = {stat.S_IFDIR: "a link to a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _decoded(name: str, data: bytearray) -> Document:
    try:
        return Document(name, data.decode("utf-8").removeprefix("\ufeff"), None, len(data))
    except UnicodeDecodeError as error:
        why = f"its byte {error.start} is {data[error.start]:#04x}, which is no UTF-8"
        return Document(name, "", ("undecodable", why), len(data))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, folder by folder, by name; links to folders among them, which are not followed."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if Path(here, name).is_symlink()]
        yield from (Path(here, name) for name in sorted([*files, *links]) if not name.startswith("."))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # a link to nowhere, which is told of when it is to be read
        return 0
