"""Survey: the head table over many documents, merged exactly, with confidence intervals."""

import hashlib
import importlib.util
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from clearhead.errors import ClearheadError
from clearhead.scope import checkpoint as checkpoints
from clearhead.scope import together
from clearhead.scope.corpus import Document
from clearhead.scope.modules import class_name
from clearhead.scope.reader import Long, Reader
from clearhead.scope.totals import Totals
from clearhead.scope.workers import Task, readings

EVERY = 5.0
"""Seconds between two checkpoints."""


class Said(NamedTuple):
    """A note on a document: its number, from 0, its name, what is to be said in a word, and why."""

    number: int
    name: str
    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What a survey found."""

    totals: Totals
    notes: list[Said]
    """What was to be said of documents, in their order: those left out, cut, or read with a warning."""

    @property
    def documents(self) -> int:
        """How many were counted."""
        return self.totals.documents

    @property
    def tokens(self) -> int:
        """How many tokens these have, as far as they were read."""
        return self.totals.tokens

    @property
    def noted(self) -> dict[str, list[str]]:
        """The names of the documents of which there was something to say, by what it was."""
        found: dict[str, list[str]] = {}
        for note in self.notes:
            found.setdefault(note.what, []).append(note.name)
        return found

    def __repr__(self) -> str:
        noted = ", ".join(f"{count} {what}" for what, count in Counter(note.what for note in self.notes).items())
        return f"{type(self).__name__}({self.documents} documents, {self.tokens} tokens; {noted or 'nothing to note'})"

    def heads(self, *, pandas: bool | None = None) -> Any:
        """A table with one row a head: that of `Record.heads`, over all documents.

        Beside each mean stand the ends of its 95 % confidence interval, `<column>_low` and `<column>_high`, with
        the documents as the independent units (`Moments.intervals` has the formula). So the interval of
        effective_context has its sampling of queries in it. `max_score` is the largest
        of all. A pandas DataFrame where pandas is installed, a list of dicts else; `pandas=` chooses.
        """
        rows = self.totals.rows()
        if pandas is None:
            pandas = importlib.util.find_spec("pandas") is not None
        if not pandas:
            return rows
        from pandas import DataFrame  # optional, and slow to import

        return DataFrame(rows)


@dataclass(frozen=True)
class Progress:
    """How far a survey has come."""

    documents: int
    """How many documents it is through with."""
    size: int
    """Their bytes, where documents say them."""
    tokens: int
    """How many tokens were counted."""


class Done(NamedTuple):
    """Where a survey stands: replaced as a whole, so that wherever Ctrl-C strikes it is one that was."""

    documents: int
    digest: str
    """Of the documents that it is through with, so that going on can tell whether they are the same."""
    size: int
    totals: Totals


def survey(
    model: nn.Module,
    tokenizer: Any,
    documents: Iterable[str | Document],
    *,
    context: int | None = None,
    long: Long = "split",
    processes: int = 1,
    threads: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    finish: Callable[[Surveyed], None] = lambda found: None,
) -> Surveyed:
    """The table of heads over many documents, which are read one at a time and never held.

    Each document's sums over its queries are rounded to multiples of 2^−40 and added up as integers, so the
    result is the same to the bit in whatever parts the work was done: by any number of processes or machines, in
    one go or with interruptions. One thing must stay the same, `threads`: PyTorch's own products round
    differently on one thread and on two.

    A document that can't be read (empty, undecodable, with scores that are not finite) is noted and left out.

    Where torch.distributed is in use (gloo), every process is to call this with the same documents. Each takes
    its share of them, by their number, and all get the result for the whole.

    Args:
        model: a Transformers model of text. An encoder–decoder's decoder reads the same text as its encoder.
        tokenizer: its tokenizer, a fast one if `context` is given.
        documents: texts, a `Corpus`, or anything else that gives them in turn.
        context: how many tokens the model takes at a time; no end unless said.
        long: what becomes of a document with more: "split" reads it in pieces, which count as one document;
            "truncate" reads the first piece alone; "skip" leaves it out.
        processes: how many share the work; in a script, call this under `if __name__ == "__main__"` then.
        threads: on how many each computes; unless said, PyTorch's number is split among them.
        checkpoint: a file in which the state is kept while this runs, written every few seconds and when this
            is stopped. It is removed at the end.
        resume: go on with what the checkpoint holds, if it is there.
        report: is told of the progress after each document.
        finish: is given the result while the checkpoint is still there, which stays if this fails: to write it, say.

    Raises:
        ClearheadError: if the model fails on a document, no document could be read, or the checkpoint is damaged,
            of another survey, or there and not to be resumed.

    >>> import clearhead as ch
    >>> from clearhead.models.checkpoints import open_model
    >>> opened = open_model("minilm")
    >>> found = survey(opened.model, opened.tokenizer, ["The cat sat.", "", "A dog, too."])
    >>> found
    Surveyed(2 documents, 13 tokens; 1 empty)
    >>> row = found.heads(pandas=False)[0]
    >>> row["peak_low"] < row["peak"] < row["peak_high"]
    True
    """
    _check(model, tokenizer, documents, context, long, processes, threads)
    threads = threads or max(1, torch.get_num_threads() // processes)
    rank, world = together.place()
    reader = Reader(model, tokenizer, context, long)
    ours = {
        "model": f"{class_name(model)} with the weights {weights_sum(model)}",
        "context": context,
        "long": long,
        "threads": threads,
    }
    if world > 1:
        together.check_same("survey", ours)
    place = {"rank": f"{rank} of {world}"}
    path = None if checkpoint is None else own(checkpoint)
    if path is not None:
        checkpoints.check_place(path)
    done, notes = _begin(path, resume, ours | place)
    stream = _Stream(documents, done, rank, world, str(path))
    saved = time.monotonic()

    def save() -> None:
        if path is not None:
            state = done._asdict() | {"totals": done.totals.as_json()}
            ended = [note for note in notes if note.number < done.documents]
            checkpoints.write(path, {"survey": ours | place, **state, "notes": ended})

    with closing(readings(reader, stream, processes, threads)) as work:
        try:
            for (number, digest, document), reading in work:
                notes += [Said(number, document.name, *note) for note in reading.notes]
                done = Done(number + 1, digest, done.size + document.size, done.totals + reading.totals)
                report(Progress(done.documents, done.size, done.totals.tokens))
                if time.monotonic() - saved > EVERY:
                    save()
                    saved = time.monotonic()
        finally:
            save()
    totals = done.totals
    if world > 1:
        together.check_same("corpus", stream.digest)
        totals = together.summed(totals)
        notes = sorted(note for theirs in together.gathered(notes) for note in theirs)
    found = Surveyed(totals, notes)
    if totals.documents:
        finish(found)
    if path is not None:
        checkpoints.remove(path)
    if not totals.documents:
        whys = [f"{note.name}: {note.why}" for note in notes[:3]] or ["there were none"]
        raise ClearheadError(f"No document could be read: {'; '.join(whys)}.")
    return found


def own(checkpoint: str | os.PathLike[str]) -> Path:
    """This process's checkpoint: of several machines' processes, each has one, numbered by its rank."""
    rank, world = together.place()
    path = Path(checkpoint)
    return path if world == 1 else path.with_name(f"{path.name}.{rank}-of-{world}")


def _check(
    model: nn.Module,
    tokenizer: Any,
    documents: object,
    context: int | None,
    long: str,
    processes: int,
    threads: int | None,
) -> None:
    if isinstance(documents, str | bytes):
        raise ClearheadError(
            "documents: got one string, whose characters would be surveyed one by one; expected several: [text]."
        )
    if getattr(model, "main_input_name", None) != "input_ids":
        raise ClearheadError(
            f"A survey reads texts with a Transformers model that takes input_ids; got {class_name(model)}."
        )
    if model.training:
        raise ClearheadError(
            f"{class_name(model)} is in training mode, in which dropout has it read no text twice alike; call "
            "model.eval() first."
        )
    if long not in get_args(Long):
        raise ClearheadError(f"long: got {long!r}, expected 'split', 'skip' or 'truncate'.")
    for name, number in (("context", context), ("processes", processes), ("threads", threads)):
        if number is not None and number < 1:
            raise ClearheadError(f"{name}: got {number}, expected 1 or more.")
    if context is not None:
        if not tokenizer.is_fast:
            raise ClearheadError(
                f"{type(tokenizer).__name__} is no fast tokenizer and can't cut a text; leave out context."
            )
        special = tokenizer.num_special_tokens_to_add()
        if context <= special:
            raise ClearheadError(
                f"context: got {context}, but {special} of them are special tokens; expected {special + 1} or more."
            )


def _begin(path: Path | None, resume: bool, ours: dict[str, Any]) -> tuple[Done, list[Said]]:
    """Where to begin: at the start, or where the checkpoint stands."""
    if path is None or not path.exists():
        return Done(0, "", 0, Totals()), []
    told = checkpoints.read(path)
    if not resume:
        raise ClearheadError(
            f"{path} holds a survey that was interrupted after {told.get('documents', 'some')} documents. "
            "Go on with it (--resume), or remove it."
        )
    try:
        checkpoints.check_same(path, told["survey"], ours)
        done = Done(told["documents"], told["digest"], told["size"], Totals.of_json(told["totals"]))
        numbers = done.documents, done.size, done.totals.documents, done.totals.tokens
        if not isinstance(done.digest, str) or any(type(number) is not int or number < 0 for number in numbers):
            raise TypeError("a count is no count")
        return done, [Said(*note) for note in told["notes"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, ClearheadError):
            raise
        raise ClearheadError(
            f"The checkpoint {path} has the right sum but not the contents of a survey ({error!r}). Remove it, or name "
            "another with --checkpoint."
        ) from error


@dataclass(eq=False)
class _Stream:
    """The documents that are left for this process, each with its number and the digest of all up to it."""

    documents: Iterable[str | Document]
    done: Done
    rank: int
    world: int
    path: str
    digest: str = ""

    def __iter__(self) -> Iterator[Task]:
        count = 0
        for number, document in enumerate(self.documents):
            if isinstance(document, str):
                document = Document(f"document {number}", document, None, len(document.encode(errors="surrogatepass")))
            elif not isinstance(document, Document):
                raise ClearheadError(
                    f"documents: number {number} is {type(document).__name__}; expected a string or a Document."
                )
            self.digest, count = _after(self.digest, document), number + 1
            if count == self.done.documents and self.digest != self.done.digest:
                raise self._other("are other ones now")
            if count > self.done.documents and number % self.world == self.rank:
                yield (number, self.digest, document), document
        if count < self.done.documents:
            raise self._other(f"are {count} now")

    def _other(self, what: str) -> ClearheadError:
        return ClearheadError(
            f"The checkpoint {self.path} is of another survey: the first {self.done.documents} documents of the "
            f"corpus {what}. Go on with the same corpus, or begin anew with another --checkpoint."
        )


def _after(digest: str, document: Document) -> str:
    """The digest of the documents up to this one."""
    told = repr((digest, document.name, document.text, document.problem)).encode()
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def weights_sum(model: nn.Module) -> str:
    """A checksum of a model's parameters, by name: their shapes, and the sums of their bits read as integers."""
    told = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)
        integers = bits[: len(bits) // 4 * 4].view(torch.int32)
        rest = bits[len(integers) * 4 :]
        told.update(repr((name, tensor.shape, tensor.dtype, int(integers.sum()), int(rest.sum()))).encode())
    return told.hexdigest()
