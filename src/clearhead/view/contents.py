"""Contents: what a page knows of a text before it asks for anything, as JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from clearhead.view.payload import LayerView, width


@runtime_checkable
class Described(Protocol):
    """One attention, as far as the page must know it at once; a `LayerView` is one."""

    @property
    def name(self) -> str:
        """The module's."""

    @property
    def kind(self) -> str:
        """'self' or 'cross'."""

    @property
    def heads(self) -> int:
        """H."""

    @property
    def queries(self) -> list[str]:
        """The text of each query."""

    @property
    def keys(self) -> list[str]:
        """The text of each key."""

    @property
    def added(self) -> int:
        """How many of the keys, the last ones, are those of no token."""


def contents(
    layers: Sequence[Described],
    *,
    title: str,
    heads: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    **more: Any,
) -> dict[str, Any]:
    """What the page knows at once, ready for JSON: no NaN, each text once.

    `heads` is the head table (a row a head, `name` and `head` saying which). `statistics` holds each of its
    statistics as `[layer][head]`, null where the table has no number. `facts` are shown as they are: the model, what
    was seen, what was left out. `more` stands beside these, as it is.
    """
    texts: list[list[str]] = []
    rows = {(row["name"], row["head"]): row for row in heads}
    entries = []
    for index, layer in enumerate(layers):
        queries, keys = layer.queries, layer.keys
        for text in (queries, keys):
            if text not in texts:
                texts.append(text)
        entries.append(
            {
                "position": rows.get((layer.name, 0), {"layer": index})["layer"],
                "name": layer.name,
                "kind": layer.kind,
                "heads": layer.heads,
                "queries": texts.index(queries),
                "keys": texts.index(keys),
                "added": layer.added,
                "width": width(len(keys)),
            }
        )
    not_statistics = {"layer", "name", "kind", "head", "queries", "sampled"}
    names = [name for name in (heads[0] if heads else ()) if name not in not_statistics]
    statistics = {
        name: [[number(rows.get((layer.name, head), {}).get(name)) for head in range(layer.heads)] for layer in layers]
        for name in names
    }
    return {
        "title": title,
        "facts": dict(facts),
        "layers": entries,
        "statistics": statistics,
        "texts": texts,
        **more,
    }


def held(layers: Sequence[LayerView]) -> dict[str, float] | None:
    """The part of all weight that is on the keys listed: the mean and the least over the queries that list a key."""
    shares = torch.cat([layer.shares().flatten().cpu() for layer in layers])
    shares = shares[~shares.isnan()]
    return {"mean": float(shares.mean()), "worst": float(shares.min())} if len(shares) else None


def number(value: float | int | None, digits: int = 4) -> float | None:
    """For JSON, which has no NaN and no infinity. Four digits are more than the page shows."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None
