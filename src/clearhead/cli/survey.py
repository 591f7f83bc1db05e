"""`clearhead survey`: the report of heads over many documents, with confidence intervals."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click
import torch.distributed as dist
from rich.console import Console
from rich.text import Text

from clearhead.cli.steps import Steps, telling
from clearhead.cli.tables import Files
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope import together
from clearhead.scope.checkpoint import check_place
from clearhead.scope.corpus import Corpus
from clearhead.scope.moments import SHARE
from clearhead.scope.reader import Long
from clearhead.scope.survey import Progress, Surveyed, own, survey
from clearhead.view import surveyed

PATIENCE = timedelta(days=7)
"""How long a machine that has read its share waits for the others; PyTorch's half an hour is soon over."""
LINE_EVERY = 30.0
"""Seconds between two lines of progress, where there is no terminal for a bar."""


def run(
    corpus: Path,
    name: str,
    field: str,
    context: int | None,
    long: Long,
    processes: int,
    threads: int | None,
    checkpoint: Path,
    resume: bool,
    by: str,
    files: Files,
) -> None:
    """Has the model `name` read the documents of the corpus, and prints or writes the table of its heads."""
    check_place(own(checkpoint))
    documents = Corpus(corpus, field)
    for path in (checkpoint, *files.paths):
        if corpus.is_dir() and path.resolve().is_relative_to(corpus.resolve()):
            raise ClearheadError(
                f"{path} would lie in the corpus {corpus}, and be read as a document next time; name a place outside."
            )

    with ExitStack() as stack:
        stack.enter_context(_machines())
        first = together.place()[0] == 0
        steps = stack.enter_context(telling()) if first else None
        opened = open_model(name, report=steps.begin if steps else lambda what: None)
        if steps is not None and resume and not own(checkpoint).exists():
            steps.begin(f"There is no {own(checkpoint)} to go on with: it begins at the first document.")
        # Each machine reads its share, and tells of that alone.
        told = None if steps is None else _Told(steps, corpus.name, documents.size // together.place()[1])
        at_once = min((n for n in (context, opened.context) if n is not None), default=None)
        kept = f"What is finished is kept in {own(checkpoint)}: go on with --resume."

        def write(found: Surveyed) -> None:
            if steps is None:
                return
            try:
                files.write(found.heads(pandas=False), _about(opened, corpus, at_once, long, found), steps)
            except ClearheadError:
                click.echo(kept, err=True)
                raise

        try:
            found = survey(
                opened.model,
                opened.tokenizer,
                documents,
                context=at_once,
                long=long,
                processes=processes,
                threads=threads,
                checkpoint=checkpoint,
                resume=resume,
                report=told or (lambda progress: None),
                finish=write,
            )
        except KeyboardInterrupt:
            if first and own(checkpoint).exists():
                click.echo(kept, err=True)
            raise
        if not first:
            return
    table = found.heads(pandas=False)
    if files.here:
        files.print(table, _about(opened, corpus, at_once, long, found))
        return
    out = Console(highlight=False)
    facts = f"  {opened.architecture} · {found.documents:,} documents · {found.tokens:,} tokens"
    out.print(Text.assemble((opened.name, "bold"), (facts, "dim")))
    out.print()
    out.print(surveyed.Survey(table, by))
    if found.notes:
        out.print()
        out.print(surveyed.noted(found.noted))
    out.print(*(f"→ {path}" for path in files.paths), sep="\n", markup=False)


def _about(opened: Opened, corpus: Path, context: int | None, long: str, found: Surveyed) -> dict[str, object]:
    """What the table is of. What may differ between two runs of the same survey, as their time, isn't here."""
    return {
        "model": opened.name,
        "architecture": opened.architecture,
        "corpus": str(corpus),
        "documents": found.documents,
        "tokens": found.tokens,
        "context": context,
        "long": long,
        "confidence": SHARE,
        "notes": [{"document": note.name, "what": note.what, "why": note.why} for note in found.notes],
    }


@contextmanager
def _machines() -> Iterator[None]:
    """Joins the other processes, where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not dist.is_available():
        yield
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # of a peer that is gone
            dist.destroy_process_group()


@dataclass
class _Told:
    """Tells of the progress: a bar with the tokens a second and the time left, or now and then a line."""

    steps: Steps
    corpus: str
    size: int
    clock: Callable[[], float] = time.monotonic
    first: Progress | None = None
    """The progress when this run began to count: after its first document, which pays for the warming up."""

    def __post_init__(self) -> None:
        self.start = self.last_line = self.clock()
        self.steps.begin(f"reading {self.corpus}", self.size)

    def __call__(self, progress: Progress) -> None:
        now = self.clock()
        if self.first is None:
            self.first, self.start = progress, now
        line = f"reading {self.corpus}: {progress.documents:,} documents, {self._pace(progress, now)}"
        self.steps.bar.update(self.steps.task, completed=progress.size, description=line)
        if not self.steps.console.is_terminal and now - self.last_line > LINE_EVERY:
            self.last_line = now
            self.steps.console.print(line, markup=False)

    def _pace(self, progress: Progress, now: float) -> str:
        assert self.first is not None
        seconds, read = now - self.start, progress.size - self.first.size
        if not (seconds and read):
            return "..."
        left = max(0, round((self.size - progress.size) * seconds / read))
        tokens = (progress.tokens - self.first.tokens) / seconds
        return f"{tokens:,.0f} tokens a second, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
