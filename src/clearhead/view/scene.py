"""The scene: all that a page can show of one text, some of it at once, the rest as blocks that it asks for by name."""

import re
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, SupportsIndex

from clearhead.errors import ClearheadError
from clearhead.scope.indexing import index
from clearhead.scope.layer import Layer
from clearhead.scope.record import Record
from clearhead.view.contents import contents
from clearhead.view.image import on_page
from clearhead.view.likeness import likeness
from clearhead.view.outline import outline, outlines
from clearhead.view.payload import LayerView, pack
from clearhead.view.rotary import told
from clearhead.view.spelling import as_read, keys, queries, query_ids, words_and_sentences
from clearhead.view.thumbs import thumbs
from clearhead.view.tiles import tile
from clearhead.view.tiles import worth_saving as finer_tiles
from clearhead.view.vectors import clearest, vectors

SHARE = 0.98
"""The share of each query's weight that a page holds, if so many keys suffice."""
MOST = 32
"""The most keys of a query that a page holds, unless said."""

TITLE = 48
"""So many characters of a text stand for it."""

Make = Callable[..., bytes]
MAKERS: dict[str, tuple[int, Make]] = {
    "layer": (0, lambda layer, batch: pack(view(layer, batch))),
    "thumbs": (0, thumbs),
    "pattern": (0, outline),
    "tile": (4, tile),
    "vectors": (1, vectors),
}
"""Kinds of block: how many numbers follow the layer's in the name, and what makes one of (layer, batch, *numbers)."""

_NAME = re.compile(r"([a-z]+)-(\d{1,6}(?:-\d{1,6})*)", re.ASCII)


class Scene:
    """What a page shows of one text that a model read.

    `contents` is known at once. A block is bytes, compressed (zlib), under a name: its kind, the layer's number and
    what numbers the kind takes, as "layer-3". A saved page holds some of them; a server and a notebook make any.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> with ch.watch(layer) as seen:
    ...     _ = layer(torch.randn(1, 5, 16))
    >>> scene = Scene(seen)
    >>> scene.contents["layers"][0]["name"], len(scene.block("layer-0")) > 0
    ('self_attn', True)

    If the model read several texts, `sequence` and `batch` choose one. `title` is the beginning of the text unless
    given; `facts` are shown beside it. `image` is the picture that a vision model read, as `image.on_page` takes it.

    Raises:
        ClearheadError: nothing was seen, or not of that text; a picture whose patches the tokens can't be.
    """

    def __init__(
        self,
        seen: Record,
        *,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        sequence: SupportsIndex = -1,
        batch: SupportsIndex = 0,
        image: object = None,
    ):
        if not seen.layers:
            raise ClearheadError("page: nothing was seen yet; run the model in the with block first.")
        self.layers = [layer.sequence(sequence) for layer in seen.layers]
        self.batch = index(batch, "batch", self.layers[0].steps[0].shape[0])
        self._seen, self._title, self._facts, self._sequence = seen, title, facts, sequence
        of_pictures = _of_pictures(self.layers)
        patches = of_pictures.lengths[1] - len(of_pictures.added)
        self.image = None if image is None else on_page(image, patches)
        """The picture that the model read, and where its patches are."""

    @cached_property
    def contents(self) -> dict[str, Any]:
        """What the page knows at once."""
        seen = self._seen
        texts = [_Texts(layer, self.batch) for layer in self.layers]
        facts = {
            **(self._facts or {}),
            "Attentions seen": f"{seen.calls} in {len(seen)} layers",
            "Self-check": _how_checked(seen),
        }
        begins = "A picture" if self.image else textwrap.shorten(texts[0].as_read, TITLE, placeholder=" …")
        known = contents(
            texts,
            title=self._title or begins,
            heads=self._heads,
            facts=facts,
            share=None,
            live=True,
            rotary=told(seen),
            patterns=outlines(self.layers, self.batch),
            image=self.image,
            likeness=likeness(seen, self._sequence, self.batch),
        )
        return known | words_and_sentences(self.layers, self.batch, known["layers"], len(known["texts"]))

    @cached_property
    def _heads(self) -> list[dict[str, Any]]:
        """The head table."""
        return list(self._seen.heads(pandas=False))

    def block(self, name: str) -> bytes:
        """A block by its name.

        Raises:
            ClearheadError: there is none of that name.
        """
        found = _NAME.fullmatch(name)
        kind, numbers = (found[1], [int(n) for n in found[2].split("-")]) if found else ("", [])
        if kind not in MAKERS or len(numbers) != 1 + MAKERS[kind][0] or numbers[0] >= len(self.layers):
            raise ClearheadError(f"The page asked for {name[:80]!r}, and there is no such block of it.")
        return zlib.compress(MAKERS[kind][1](self.layers[numbers[0]], self.batch, *numbers[1:]))

    def worth_saving(self) -> Iterator[str]:
        """The blocks beside the layers' that a saved page should hold, the most useful first."""
        yield from (f"thumbs-{n}" for n in range(len(self.layers)))
        patterns = (pattern["layer"] for pattern in outlines(self.layers, self.batch) if pattern)
        yield from (f"pattern-{n}" for n in sorted({n for n in patterns if n is not None}))
        best = clearest(self._heads)
        yield from (f"tile-{layer}-{head}-0-0-0" for layer, head in best)
        yield from (f"vectors-{layer}-{head}" for layer, head in best)
        yield from finer_tiles(self.layers, best)


class _Texts:
    """What the page knows at once of a layer."""

    def __init__(self, layer: Layer, batch: int):
        self.name, self.kind, self.heads = layer.name, layer.kind, layer.heads
        self.queries, self.keys = queries(layer, batch), keys(layer, batch)
        self.added = len(layer.added)
        self.as_read = as_read(layer, self.queries, query_ids(layer, batch))


def view(layer: Layer, batch: int, most: int = MOST) -> LayerView:
    """The heaviest keys of each query of a layer."""
    keys, weights = layer.top(most, SHARE)
    texts = layer.queries(batch), layer.keys(batch)
    return LayerView(layer.name, layer.kind, *texts, keys[batch], weights[batch], len(layer.added))


def _of_pictures(layers: list[Layer]) -> Layer:
    """The first layer that reads a picture's patches, which are no tokens of a vocabulary."""
    return next((layer for layer in layers if layer.kind == "self" and layer.steps[0].ids_k is None), layers[0])


def _how_checked(seen: Record) -> str:
    if not seen.checked:
        return "none: no call showed an output to compare with"
    return (
        f"on sampled rows what was seen is within {seen.check:.1e} of what the model's own kernel makes, "
        f"in {seen.checked} of {seen.calls} calls"
    )
