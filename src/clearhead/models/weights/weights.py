"""Weights: a checkpoint's tensors by name, each read when it is asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape is known, the rest is read when it is asked for."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    part: Callable[[int], "Stored"] | None = None
    """One of its first dimension, by its number, where that can be read alone: an expert."""


class Weights(Mapping[str, Tensor]):
    """A checkpoint's tensors, by the names and in the shapes that Transformers gives them.

    Files are mapped to memory: a tensor that is stored as it is takes none of its own until it is written to. One
    that is stored quantised is made again at each reading: in bfloat16 from MXFP4 in a folder, else in float32.
    """

    config: dict[str, Any]
    """What the checkpoint says of its model, as Transformers' config.json does."""

    def __init__(self, stored: Mapping[str, Stored], config: dict[str, Any]) -> None:
        self._stored, self.config = stored, config

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._stored[name].shape

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
