"""Fitting: what of a scene a saved page holds, within a budget of bytes."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clearhead.view.contents import held
from clearhead.view.payload import LayerView, pack
from clearhead.view.scene import MOST, Scene, view

LISTS = 0.7
"""The part of the budget that the lists of heaviest keys may take."""
OTHERS, LEAST = 1 / 3, 500_000
"""What other blocks may take, as a part of what the lists take, and so many bytes at least: of a short text the lists
say nearly all, and its page stays small.
"""
SAMPLED = 5
"""Of so many layers the sizes are measured, of the others taken to be alike, until a size is found that may fit."""


def saved(scene: Scene, budget: int, most: int = MOST) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The contents and the blocks of a page of a scene, the blocks in so many bytes.

    As many of each query's heaviest keys as there is room for, one at least; then other blocks, the most useful first.
    """
    views, packed = fitting([view(layer, scene.batch, most) for layer in scene.layers], int(LISTS * budget))
    blocks = {f"layer-{n}": block for n, block in enumerate(packed)}
    lists = in_base64(packed)
    left = min(budget - lists, max(OTHERS * lists, LEAST))
    full: set[str] = set()
    for name in scene.worth_saving():
        kind = name.partition("-")[0]
        if kind in full:
            continue
        block = scene.block(name)
        size = in_base64([block])
        if size > left:
            full.add(kind)
        else:
            blocks[name] = block
            left -= size
    return {**scene.contents, "share": held(views), "live": False}, blocks


def fitting(layers: Sequence[LayerView], budget: int) -> tuple[list[LayerView], list[bytes]]:
    """These attentions with the same number of keys for every query at most, the heaviest, in so many bytes; packed.

    One key a query is kept whatever it takes.
    """
    most = max((layer.top_keys.shape[-1] for layer in layers), default=0)
    some = layers[:: max(1, len(layers) // SAMPLED)]
    while most > 1:
        size = len(layers) / len(some) * in_base64(_packed(_cut(some, most)))
        # Only what may fit, by a few layers, is measured as a whole.
        if size <= budget:
            cut = _cut(layers, most)
            packed = _packed(cut)
            size = in_base64(packed)
            if size <= budget:
                return cut, packed
        most = max(1, min(most - 1, int(most * budget / size)))
    cut = _cut(layers, most)
    return cut, _packed(cut)


def _cut(layers: Sequence[LayerView], most: int) -> list[LayerView]:
    return [
        replace(layer, top_keys=layer.top_keys[..., :most], top_weights=layer.top_weights[..., :most])
        if most < layer.top_keys.shape[-1]
        else layer
        for layer in layers
    ]


def _packed(layers: Sequence[LayerView]) -> list[bytes]:
    return [zlib.compress(pack(layer)) for layer in layers]


def in_base64(blocks: Sequence[bytes]) -> int:
    """The bytes that these blocks take in a page: four for every three, and for what is left of a block.

    >>> in_base64([b"abc", b"abcd"])
    12
    """
    return sum(4 * -(-len(block) // 3) for block in blocks)
