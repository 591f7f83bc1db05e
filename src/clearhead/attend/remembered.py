"""The runs that a pattern had last, remembered while it lives: the layers of a model share one pattern."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from clearhead.attend.fingerprint import fingerprint
from clearhead.attend.pattern import Pattern
from clearhead.attend.runs import Runs

_LAST: WeakKeyDictionary[Pattern, tuple[tuple[Any, ...], Runs]] = WeakKeyDictionary()


def runs_of(pattern: Pattern, Tq: int, Tk: int, device: torch.device) -> Runs:
    """`pattern.runs`, made again only where sizes, device or what the pattern's tensors hold has changed."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return pattern.runs(Tq, Tk, device)
    state = (Tq, Tk, device, *map(fingerprint, tensors_of(pattern)))
    known, runs = _LAST.get(pattern, (None, None))
    if runs is None or known != state:
        with torch.inference_mode(False):  # so that a training call can use them too
            runs = pattern.runs(Tq, Tk, device)
        _LAST[pattern] = (state, runs)
    return runs


def tensors_of(pattern: Pattern) -> Iterator[Tensor]:
    """The tensors of a pattern and of those that it is composed of."""
    for field in fields(pattern):  # type: ignore[arg-type]  # every pattern is a dataclass
        value = getattr(pattern, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Pattern):
            yield from tensors_of(value)
