"""Likeness: which heads do the same, as a page tells it, where that takes no longer than a few seconds."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch

from clearhead.errors import ClearheadError
from clearhead.scope.alike import THRESHOLD, Alike, alike
from clearhead.scope.chosen import Layered, same_text
from clearhead.scope.layer import Layer
from clearhead.view.contents import number

HEADS = 768
"""Of more heads, finding the clusters alone takes longer than a page should."""
PAIRS = 2**31
"""How many pairs of weights are compared at most, about two seconds' work: two heads on one key of one query each."""
QUERIES = 32
LEAST = 6
"""Fewer queries than that say too little."""


def likeness(seen: Layered, sequence: SupportsIndex = -1, batch: SupportsIndex = 0) -> dict[str, Any]:
    """The distances between heads as the report shows them: points in a plane, the clusters, a sentence.

    Of the attentions that read one text, if there are several kinds (an encoder's, a decoder's), those with most
    heads. The more heads and keys there are, the fewer queries are compared, down to 6; beyond that, and where heads
    cannot be compared, the only entry is `without`: a sentence that says why.
    """
    group = _largest([layer.sequence(sequence) for layer in seen.layers])
    heads, keys = sum(heads for _, heads, _ in group), group[0][2]
    queries = min(QUERIES, 2 * PAIRS // (heads * heads * keys))
    if heads > HEADS or queries < LEAST:
        return {
            "without": f"{heads:,} heads on {keys:,} tokens take too long to compare for a page; "
            "in Python, seen.alike() compares them."
        }
    try:
        found = alike(seen, queries, layers=[n for n, _, _ in group], sequence=sequence, batch=batch)
    except ClearheadError as error:
        return {"without": str(error)}
    points, kept = found.layout
    clusters = found.clusters()
    return {
        "heads": [list(head) for head in found.heads],
        "points": [[number(x), number(y)] for x, y in points.tolist()],
        "nearest": [number(distance) for distance in found.nearest.tolist()],
        "clusters": [[list(head) for head in cluster] for cluster in clusters],
        "spans": [number(_span(found, cluster)) for cluster in clusters],
        "closest": [list(head) for head in _closest(found)],
        "kept": number(kept),
        "threshold": THRESHOLD,
        "verdict": found.verdict(),
    }


def _span(found: Alike, cluster: Sequence[tuple[int, int]]) -> float:
    """How far apart the two of a cluster are that differ most."""
    at = [found.heads.index(head) for head in cluster]
    return float(found.distances[at][:, at].max())


def _closest(found: Alike) -> list[tuple[int, int]]:
    """The two heads that are most alike."""
    n = int(found.nearest.argmin())
    others = found.distances[n].clone()
    others[n] = torch.inf
    return [found.heads[n], found.heads[int(others.argmin())]]


def _largest(layers: Sequence[Layer]) -> list[tuple[int, int, int]]:
    """The layers that read the same text with most heads in all: their numbers, heads and keys."""
    groups: list[list[int]] = []
    for n, layer in enumerate(layers):
        found = next((group for group in groups if same_text(layers[group[0]], layer)), None)
        if found is None:
            groups.append([n])
        else:
            found.append(n)
    most = max(groups, key=lambda group: sum(layers[n].heads for n in group))
    return [(n, layers[n].heads, layers[n].lengths[1]) for n in most]
