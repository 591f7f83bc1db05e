"""Streaming: the text of a sequence that is being written, as its tokens come, up to a stop string."""

from collections.abc import Sequence
from typing import Any

TAIL = 8
"""Tokens of the prompt that are decoded before the first new one, so that the space between them is kept."""


class Writing:
    """What a sequence's new tokens say. Pieces are whole characters, and never show a part of a stop string.

    >>> class Letters:  # a tokenizer
    ...     def stream(self):
    ...         return self
    ...     def add(self, token):
    ...         return chr(token)
    ...     def rest(self):
    ...         return ""
    >>> writing = Writing(Letters(), [], stop=["end"])
    >>> [writing.add(ord(letter)) for letter in "we end"]
    ['w', '', 'e ', '', '', '']
    >>> writing.text, writing.stopped
    ('we ', True)
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._stream = tokenizer.stream()
        for token in prompt[-TAIL:]:
            self._stream.add(token)
        self._stream.rest()
        self._stop = stop
        self._held = ""  # it may be the beginning of a stop string
        self.text = ""
        """All that was said so far."""
        self.stopped = False
        """Whether a stop string has come."""

    def add(self, token: int) -> str:
        """What can be said with this token: nothing, as long as it may go on to a stop string."""
        self._held += self._stream.add(token)
        found = [at for at in map(self._held.find, self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._say(min(found))
        return self._say(len(self._held) - max((_begun(self._held, stop) for stop in self._stop), default=0))

    def rest(self) -> str:
        """What was held back, once no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._stream.rest()
        return self._say(len(self._held))

    def _say(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        self.text += piece
        return piece


def _begun(text: str, stop: str) -> int:
    """How many characters at the text's end are the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
