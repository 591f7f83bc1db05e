"""Which tokens an attention's queries and keys stand at."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.attend.heard import Row

TOKENS = ("input_ids", "idx", "tokens", "token_ids")
"""What models call the argument that holds their tokens."""
SIGNALS = ("pixel_values", "input_features", "input_values")
"""What models that see or hear call the argument that holds no tokens."""


class Arguments(NamedTuple):
    """The arguments of a call, by name."""

    names: Sequence[str]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def tensor(self, name: str) -> Tensor | None:
        """The argument of that name, if it is a tensor."""
        value = self.get(name)
        return value if isinstance(value, Tensor) else None

    def get(self, name: str) -> Any:
        """The argument of that name, None if it wasn't given."""
        if name in self.kwargs:
            return self.kwargs[name]
        if name in self.names[: len(self.args)]:
            return self.args[self.names.index(name)]
        return None


@dataclass(frozen=True, eq=False)
class Text:
    """What one module was given to read."""

    ids: Int[Tensor, "B T"] | None
    valid: Bool[Tensor, "B Tk"] | None
    """Which tokens are no padding, the cached ones included."""
    cache: object
    """Keys and values of earlier tokens, as Transformers keeps them; of our own models, those of the first layer."""
    is_open: bool
    """Whether the tokens, if they are not here, may be those of an outer module."""

    @staticmethod
    def of(arguments: Arguments) -> "Text | None":
        """What is in a module's arguments; None if the module was given neither tokens nor a signal."""
        given = (arguments.tensor(name) for name in TOKENS)
        ids = next((x for x in given if x is not None and x.ndim == 2 and _is_whole(x)), None)
        embedded = arguments.tensor("inputs_embeds") is not None
        signal = any(arguments.tensor(name) is not None for name in SIGNALS)
        cache = arguments.get("past_key_values")
        caches = arguments.get("caches")
        if cache is None and isinstance(caches, Sequence) and caches:
            cache = caches[0]
        # An encoder–decoder holds two texts: its encoder and its decoder are given theirs.
        if "decoder_input_ids" in arguments.names:
            return Text(None, None, cache, is_open=False)
        if ids is None and not embedded and not signal:
            return None
        mask = arguments.tensor("attention_mask")
        lengths = arguments.tensor("lengths")
        if mask is None and ids is not None and lengths is not None:
            mask = torch.arange(ids.shape[1], device=ids.device) < lengths.to(ids.device)[:, None]
        reads = (ids is not None or embedded) and mask is not None and mask.ndim == 2
        valid = mask.bool() if reads and mask is not None else None
        return Text(ids, valid, cache, is_open=ids is None and embedded)


def _is_whole(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


@dataclass(frozen=True, eq=False)
class _Cached:
    """The keys that an attention had in one call, as numbers, and their tokens."""

    keys: Int[Tensor, "B T"]
    ids: Int[Tensor, "B T"]
    cache: "weakref.ref[object] | None"
    row: int | None

    def before(self, keys: Int[Tensor, "B n"]) -> Int[Tensor, "B n"] | None:
        """The tokens of these keys, each row of which is the beginning or the end of one of these; else None."""
        n, T = keys.shape[1], self.keys.shape[1]
        for start in (0, T - n) if n <= T else ():
            kept = slice(start, start + n)
            same = (keys[:, None] == self.keys[None, :, kept]).all(-1)
            if same.any(1).all():
                return self.ids[same.int().argmax(1), kept]
        return None

    def is_of(self, cache: object, row: int | None, B: int, T: int) -> bool:
        """Whether it is what that cache held when it was T tokens long."""
        return self.ids.shape == (B, T) and is_same(self.cache, cache) and self.row == row


def reference_to(cache: object) -> "weakref.ref[object] | None":
    """A cache, by which it is known again and not kept alive; None where there is none that can be known again."""
    try:
        return None if cache is None else weakref.ref(cache)
    except TypeError:  # a tuple of tensors, as older models pass it
        return None


def is_same(known: "weakref.ref[object] | None", cache: object) -> bool:
    """Whether that is the cache."""
    return known is not None and cache is not None and known() is cache


class Memory:
    """The tokens of keys that were computed before: those in a cache, and those of an encoder."""

    def __init__(self) -> None:
        self._cached: dict[str, list[_Cached]] = {}
        self._read: dict[str, Tensor] = {}
        self._most = 1
        """How many calls of an attention are remembered: as many as a batch has had sequences that attend alone."""

    def remember(self, reader: str, ids: Int[Tensor, "B T"]) -> None:
        """Notes what a module of the model is reading."""
        self._read.pop(reader, None)
        self._read[reader] = ids

    def elsewhere(self, readers: set[str], batch: int, length: int) -> Tensor | None:
        """What another module than those has read last (the encoder, for a decoder), if it fits the keys."""
        for reader, ids in reversed(self._read.items()):
            if reader not in readers and ids.shape[1] == length and batch % ids.shape[0] == 0:
                return ids.repeat_interleave(batch // ids.shape[0], 0)  # generation repeats a text for each beam
        return None

    def extended(
        self,
        name: str,
        ids: Int[Tensor, "B Tq"],
        k: Float[Tensor, "B K Tk D"],
        row: Row | None = None,
        cache: object = None,
    ) -> Int[Tensor, "B Tk"] | None:
        """The tokens at the keys of a self-attention: the last Tq are new, the others were cached.

        Nothing says what happened to the cache in between: beams are reordered, tails cropped, windows slid. So the
        cached keys are looked for, by their bits, among those that this attention had last time: in one batch, or
        in one sequence after the other. A cache that rounds its keys has others, but is the same and as long.
        """
        keys, cached = marks(k[:, 0]), k.shape[2] - ids.shape[1]
        known = self._cached.setdefault(name, [])
        tokens = ids if cached == 0 else None
        of_row = None if row is None else row.number
        if cached > 0:
            found = ((old, old.before(keys[:, :cached])) for old in known)
            same = ((old, old.ids) for old in known if old.is_of(cache, of_row, len(ids), cached))
            for old, before in (*found, *same):
                if before is not None:
                    tokens = torch.cat([before, ids], 1)
                    known.remove(old)
                    break
        if tokens is not None:
            known.append(_Cached(keys, tokens, reference_to(cache), of_row))
        self._most = max(self._most, 1 if row is None else row.batch)
        del known[: -self._most]
        return tokens


def of_row(x: Tensor | None, row: Row, Tq: int) -> Tensor | None:
    """What concerns the first Tq tokens of one sequence, where x concerns all of the batch, padded on the right."""
    return x[row.number : row.number + 1, :Tq] if x is not None and len(x) == row.batch else None


def marks(keys: Float[Tensor, "B T D"]) -> Int[Tensor, "B T"]:
    """A number for each key by which it is known again, made of all its bits."""
    if keys.shape[2] == 0:  # of a model that shows nothing but its softmax
        return torch.zeros(keys.shape[:2], dtype=torch.int64, device=keys.device)
    size = keys.shape[2] * keys.element_size()
    width = next(width for width in (8, 4, 2, 1) if size % width == 0)
    words = keys.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[width])
    factors = 2 * torch.arange(1, words.shape[2] + 1, device=keys.device) * 0x9E3779B97F4A7 + 1
    return (words * factors).sum(-1)
