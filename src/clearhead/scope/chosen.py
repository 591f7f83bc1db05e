"""Chosen: layers of a record that read one text, and of an attention's weights one text's, or one head's."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Protocol, SupportsIndex, runtime_checkable

from torch import Tensor

from clearhead.attend.runs import Runs
from clearhead.attend.statistics import Statistics
from clearhead.errors import ClearheadError
from clearhead.scope.indexing import index
from clearhead.scope.layer import Layer, Step
from clearhead.scope.weights import Weights


@runtime_checkable
class Layered(Protocol):
    """What is asked of a record here: its layers, in order, and by name or number."""

    @property
    def layers(self) -> list[Layer]:
        """All of them."""

    def __getitem__(self, layer: str | SupportsIndex, /) -> Layer:
        """One of them."""


def numbered(record: Layered, layer: str | SupportsIndex, what: str) -> tuple[int, Layer]:
    """One layer, given by number or name, with its number from 0. `what` is the caller, for the sentence."""
    found: object = record[layer]
    for number, one in enumerate(record.layers):
        if one is found:
            return number, one
    raise ClearheadError(f"{what}: got layer {layer!r}, expected one layer, by its number or its module's name.")


def layers_of_one_text(
    record: Layered, layers: Iterable[SupportsIndex | str] | None, sequence: SupportsIndex, what: str
) -> dict[int, Layer]:
    """The layers asked for, all if None, by number and in order, with one sequence each.

    Refused unless all read the same text: as many queries and keys, the same tokens where they are known.
    `what` is who asks, for the sentence.
    """
    everything = record.layers
    wanted = range(len(everything)) if layers is None else [numbered(record, layer, what)[0] for layer in layers]
    numbers = sorted(set(wanted))
    if not numbers:
        raise ClearheadError(f"{what}: no layer was chosen, or none was seen; expected at least one.")
    chosen = {n: everything[n].sequence(sequence) for n in numbers}
    first, *others = chosen.values()
    for other in others:
        if not same_text(first, other):
            raise ClearheadError(
                f"{what}: the layers must have read one text, but {_said(first)} and {_said(other)}"
                f"{' of another text' if _read(first) == _read(other) else ''}. Name those that did: layers=[…]."
            )
    return chosen


def same_text(one: Layer, other: Layer) -> bool:
    """Whether two layers had as many queries and keys, and the same tokens as far as these are known."""
    a, b = (layer.steps[-1].ids_k for layer in (one, other))
    same_tokens = a is b if a is None or b is None else a.shape == b.shape and bool((a == b).all())
    return _read(one) == _read(other) and same_tokens


def _read(layer: Layer) -> tuple[str, int, int]:
    """Kind, queries and keys."""
    return layer.kind, *layer.lengths


def _said(layer: Layer) -> str:
    kind, queries, keys = _read(layer)
    return f"{layer.name} is {kind}-attention of {queries} queries to {keys} keys"


def only_step(layer: Layer, what: str) -> Step:
    """The one call in which a layer read a whole text."""
    if len(layer.steps) != 1:
        raise ClearheadError(
            f"{what}: {layer.name} read this text in {len(layer.steps)} calls, as generation does; "
            "watch one forward pass over the whole text."
        )
    return layer.steps[0]


def part_of(weights: Weights, batch: SupportsIndex, head: SupportsIndex | None = None) -> Weights:
    """The weights of one text of the batch, and of one head unless all are wanted: a pass then costs one head's."""
    B, H, _, _ = weights.shape
    b = index(batch, "batch", B)
    heads, key_heads = slice(None), slice(None)
    call = weights.call
    if head is not None:
        h = index(head, "head", H)
        group = H // call.k.shape[1]
        heads, key_heads = slice(h, h + 1), slice(h // group, h // group + 1)

    def of_each(x: Tensor) -> Tensor:
        """Of a tensor (B or 1, H or 1, …)."""
        own = x if x.shape[0] == 1 else x[b : b + 1]
        return own if own.shape[1] == 1 else own[:, heads]

    def of_bias(x: Tensor) -> Tensor:
        if x.dim() == 4:
            return of_each(x)
        return x if len(x) == 1 else x[heads]

    part = replace(
        call,
        q=call.q[b : b + 1, heads],
        k=call.k[b : b + 1, key_heads],
        v=call.v[b : b + 1, key_heads],
        sinks=None if call.sinks is None else call.sinks[heads],
        bias_weights=tuple(map(of_bias, call.bias_weights)),
        runs=Runs(of_each(call.runs.start), of_each(call.runs.stop), call.runs.keys),
    )
    return Weights.made(part, each(weights.statistics, lambda x: x[b : b + 1, heads]))


def each(statistics: Statistics, change: Callable[[Tensor], Tensor]) -> Statistics:
    """The statistics with every tensor changed alike."""
    return Statistics(**{field.name: change(getattr(statistics, field.name)) for field in fields(Statistics)})
