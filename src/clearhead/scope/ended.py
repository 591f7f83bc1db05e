"""Which texts of a batch have ended, while Transformers' `generate` goes on with the others."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

_watching: list["Ended"] = []
_undo = ExitStack()
_lock = threading.Lock()


class Ended:
    """In a `with` block: which texts of the batch that `generate` writes in this thread have ended.

    `generate` feeds the whole batch to the model until its stopping criteria have held for every text. What it feeds
    of a text after they have held for it (the end-of-sequence token, then padding) are no queries of the text:
    `generate` on the text alone stops before it. The criteria are called with all tokens so far, so they say when a
    text has ended, regardless of its end and padding tokens.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._ids: Tensor | None = None
        self._going_on: Tensor | None = None

    def __enter__(self) -> "Ended":
        with _lock:
            if not _watching:
                _undo.enter_context(_criteria_shown())
            _watching.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _watching.remove(self)
            if not _watching:
                _undo.close()

    def note(self, ids: Int[Tensor, "B T"], done: Bool[Tensor, " B"]) -> None:
        """Takes the tokens that the criteria were called with, the newest of which no model has read, and the result.

        A text for which they have held once has ended, as long as each call has one token more than the last.
        """
        if threading.get_ident() != self._thread:
            return
        before, ended = self._ids, done
        if before is not None and self._going_on is not None and torch.equal(before, ids[:, :-1]):
            ended = done | ~self._going_on
        over = bool(ended.all())  # then `generate` returns, and the model may be called with these tokens anew
        self._ids = None if over else ids
        self._going_on = None if over or not bool(ended.any()) else ~ended

    def going_on(self, ids: Int[Tensor, "B Tq"]) -> Bool[Tensor, " B"] | None:
        """Which texts have not ended, of those whose tokens a call reads; None if all go on.

        The call is that of `generate` if it reads the newest tokens that the criteria were called with.
        """
        if self._ids is None or self._going_on is None:
            return None
        newest = self._ids[:, max(self._ids.shape[1] - ids.shape[1], 0) :].to(ids)
        return self._going_on.to(ids.device) if torch.equal(newest, ids) else None


@contextmanager
def _criteria_shown() -> Iterator[None]:
    """Replaces `StoppingCriteriaList.__call__`, if Transformers' generation is imported."""
    criteria: Any = getattr(sys.modules.get("transformers.generation.stopping_criteria"), "StoppingCriteriaList", None)
    if criteria is None:
        yield
        return
    original = criteria.__call__

    def called(self: Any, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        done = original(self, input_ids, scores, **kwargs)
        for one in tuple(_watching):
            one.note(input_ids, done)
        return done

    criteria.__call__ = called
    try:
        yield
    finally:
        criteria.__call__ = original
