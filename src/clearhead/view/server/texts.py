"""Texts: those that were given to the server, from the line in which they wait to the scene that is looked at."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from clearhead.errors import ClearheadError
from clearhead.scope.byte_sizes import in_words
from clearhead.view.progress import Progress
from clearhead.view.scene import Scene

COUNT = 12
"""How many texts are kept, unless they take too much memory before."""
WAITING = 4
"""How many texts may be read or wait to be read; one is read at a time."""
SECONDS = 900.0
"""How long reading one may take."""


class Busy(ClearheadError):
    """What would be done another time."""


class Missing(ClearheadError):
    """What isn't there, or no longer."""


class Stopped(Exception):
    """Ends the reading of a text, saying why."""


Read = Callable[[str, tuple[str, ...], Progress, int], tuple[Scene, int]]
"""Has a model, by its name, read a text or a pair, within so many bytes of memory: what it saw, and what that takes."""


def title(parts: tuple[str, ...]) -> str:
    """The beginning of a text, or of both of a pair.

    >>> title(("It was the best of times, it was the worst of times", "Oh dear"))
    'It was the best of times, it was … · Oh dear'
    """
    words = [part.split() for part in parts]
    return " · ".join(" ".join(some[:8])[:80] + (" …" if len(some) > 8 else "") for some in words)


@dataclass(eq=False)
class Text:
    """One text and how far it is: it tells of itself while it is read, and stops when it is told to."""

    number: int
    model: str
    parts: tuple[str, ...]
    state: Literal["waiting", "running", "ready", "failed"] = "waiting"
    what: str = "waiting"
    done: int = 0
    of: int | None = None
    said: str | None = None
    """Why it failed, in a sentence."""
    scene: Scene | None = None
    bytes: int = 0
    until: float = float("inf")
    stopped: bool = False

    @cached_property
    def title(self) -> str:
        """Its beginning."""
        return title(self.parts)

    def begin(self, what: str, total: int | None = None) -> None:
        """Goes on to the next step."""
        self._check()
        self.what, self.done, self.of = what, 0, total

    def advance(self) -> None:
        """One part more is done."""
        self._check()
        self.done += 1

    def told(self) -> dict[str, Any]:
        """What the page knows of it."""
        names = ("number", "title", "model", "state", "what", "done", "of", "said")
        return {name: getattr(self, name) for name in names}

    def _check(self) -> None:
        if self.stopped:
            raise Stopped("It was stopped.")
        if time.monotonic() > self.until:
            raise Stopped("It took too long, and was stopped; give a shorter text.")


@dataclass
class Texts:
    """The texts of a session, in the order in which they came: read one after another, the oldest let go for new ones.

    They share `memory` bytes for what is kept of them; while one is being read, it may take as much besides.
    """

    models: tuple[str, ...]
    read: Read
    memory: int
    count: int = COUNT
    waiting: int = WAITING
    seconds: float = SECONDS
    notice: str | None = None
    """What became of the texts that were let go last, in a sentence, until another text comes or one is taken away."""
    _texts: dict[int, Text] = field(default_factory=dict)
    _numbers: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "reader")

    def add(self, model: str, parts: tuple[str, ...]) -> Text:
        """Puts a text into the line.

        Raises:
            ClearheadError: a model that isn't one of `models`, or nothing to read.
            Busy: the line is full.
        """
        if model not in self.models:
            raise ClearheadError(f"Got the model {model[:80]!r}, expected one of {', '.join(self.models)}.")
        if not parts or not all(part.strip() for part in parts):
            raise ClearheadError("The text is empty; give at least a word.")
        with self._lock:
            under_way = sum(text.state in ("waiting", "running") for text in self._texts.values())
            if under_way >= self.waiting:
                raise Busy(f"{under_way} texts are being read or wait for it; wait for one of them, or stop it.")
            self.notice = None
            self._numbers += 1
            text = self._texts[self._numbers] = Text(self._numbers, model, parts)
        self._reader.submit(self._run, text)
        return text

    def remove(self, number: int) -> None:
        """Forgets a text; stops it, if it is being read.

        Raises:
            Missing: there is none of that number.
        """
        with self._lock:
            text = self._texts.pop(number, None)
            self.notice = None
        if text is None:
            raise Missing(f"There is no text {number} here, or no longer.")
        text.stopped = True

    def scene(self, number: int) -> Scene:
        """What a model saw of a text.

        Raises:
            Missing: there is none of that number, or none yet.
        """
        text = self._texts.get(number)
        if text is None:
            raise Missing(f"There is no text {number} here, or no longer: old ones are let go for new ones.")
        if text.scene is None:
            raise Missing(text.said or f"The text {number} has not been read yet.")
        return text.scene

    def told(self) -> dict[str, Any]:
        """What the page knows of the session."""
        with self._lock:
            texts = [text.told() for text in self._texts.values()]
        return {"models": list(self.models), "texts": texts, "notice": self.notice}

    def close(self) -> None:
        """Stops what is under way."""
        with self._lock:
            for text in self._texts.values():
                text.stopped = True
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _run(self, text: Text) -> None:
        text.until = time.monotonic() + self.seconds
        text.state = "running"
        try:
            text.begin("starting")
            text.scene, text.bytes = self.read(text.model, text.parts, text, self.memory)
            text.state = "ready"
        except (ClearheadError, Stopped) as error:
            text.state, text.said = "failed", str(error)
        except Exception as error:
            text.state, text.said = "failed", f"{text.model} failed on this text ({type(error).__name__}: {error})."
            logging.getLogger(__name__).exception("reading with %s", text.model)
        finally:
            self._make_room()

    def _make_room(self) -> None:
        """Lets the oldest go while there are too many, or while they take too much; the newest stays."""
        gone = []
        with self._lock:
            finished = [text for text in self._texts.values() if text.state in ("ready", "failed")]
            while len(finished) > 1 and (
                len(finished) > self.count or sum(text.bytes for text in finished) > self.memory
            ):
                gone.append(finished.pop(0))
                del self._texts[gone[-1].number]
        if gone:
            titles = ", ".join(f"“{text.title}”" for text in gone)
            self.notice = (
                f"To make room, {titles} {'was' if len(gone) == 1 else 'were'} let go: up to {self.count} texts "
                f"are kept, in {in_words(self.memory)}."
            )
