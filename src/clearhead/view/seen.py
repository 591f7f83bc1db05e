"""What a watch gives: a record that can also be looked at as a page."""

import os
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from torch import nn

from clearhead.errors import ClearheadError
from clearhead.scope.byte_sizes import in_bytes
from clearhead.scope.record import Keep, Record
from clearhead.scope.seams import Kernels
from clearhead.scope.watch import Watch
from clearhead.scope.words import Tokenizer
from clearhead.view import page
from clearhead.view.figures import Figure, figure
from clearhead.view.fitting import saved
from clearhead.view.page_sizes import BUDGET, NOTEBOOK
from clearhead.view.rotary import Rotary, found
from clearhead.view.scene import MOST, Scene

if TYPE_CHECKING:
    from clearhead.view.widget import Widget


class Seen(Record):
    """What a watch saw, and its pictures."""

    rotary: Mapping[str, Rotary]
    """By how much the layers turn q and k, by their names, where that could be found out."""

    def __init__(self, *arguments: Any, model: nn.Module | None = None, **options: Any):
        super().__init__(*arguments, **options)
        self.rotary, self._model = {}, model

    def close(self, unseen: list[str]) -> None:
        """The watch is over, and the model's no longer needed."""
        super().close(unseen)
        if self._model is not None:
            widths = {layer.name: layer.steps[0].newest.shape[-1] for layer in self.layers if layer.kind == "self"}
            self.rotary, self._model = found(self._model, widths), None

    def page(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        most: int = MOST,
        budget: int | float | str = BUDGET,
        sequence: SupportsIndex = -1,
        batch: SupportsIndex = 0,
        image: object = None,
        force: bool = False,
    ) -> Path:
        """Writes a self-contained page of one text: for each query of each head its heaviest keys.

        It holds as many keys of a query as carry 98 % of its weight, but at most `most`, or fewer where they would
        take more than `budget` (bytes, or as "20 MB"; one at least), and says how much of the weight that is.
        `title` is the beginning of the text unless given; `facts` are shown beside it. If the model read several
        texts, `sequence` and `batch` choose one. `image` is the picture that a vision model read, cropped as it was,
        as a path, a PIL image, or numbers of shape (H, W, 3); the page then shows its patches. `force` replaces a file
        that Clearhead did not write.
        """
        scene = self.scene(title=title, facts=facts, sequence=sequence, batch=batch, image=image)
        return page.write(path, *saved(scene, in_bytes(budget, "budget"), most), force=force)

    def show(
        self,
        *,
        height: int = 720,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        budget: int | float | str = NOTEBOOK,
        sequence: SupportsIndex = -1,
        batch: SupportsIndex = 0,
        image: object = None,
    ) -> "Widget":
        """The page as a widget, to stand last in a notebook's cell, `height` pixels high.

        What a page of this `budget` would hold is saved with the notebook, and seen in it without a kernel; while the
        kernel runs, any part of it is made when it is looked at. `widget.place` says where the reader is, and can be
        set. The other arguments are as in `page`. Needs anywidget: `pip install 'clearhead[notebook]'`.

        Raises:
            ClearheadError: no anywidget, or a height that is none.
        """
        if find_spec("anywidget") is None:
            raise ClearheadError("show: needs anywidget; get it with: pip install 'clearhead[notebook]'.")
        from clearhead.view.widget import Widget  # optional, and slow to import

        scene = self.scene(title=title, facts=facts, sequence=sequence, batch=batch, image=image)
        return Widget(scene, height=height, budget=in_bytes(budget, "budget"))

    def figure(
        self, kind: str, layer: SupportsIndex | str | None = None, head: SupportsIndex | None = None, **options: Any
    ) -> Figure:
        """A figure for a paper or a notebook, drawn by matplotlib with no browser: `.save("x.pdf")`, .svg or .png.

        | kind | shows | options |
        |---|---|---|
        | "head" | tokens left and right, a line for each weight | query: its lines alone; rows, columns: slices |
        | "map" | the weights as a picture, coloured by their logarithm | rows, columns, size, as in `map` |
        | "model" | all heads as small pictures, or by a number | by: a column of `heads()` |
        | "query-key" | how one weight comes about; a telling one unless said | query, key |
        | "roles" | a head's score in each role, beside a uniform head's | |
        | "patches" | the picture that a vision model read, and where a token looks | image, as in `page`; query |
        | "report" | the strongest head of each role, and which heads are alike | |
        | "similarity" | the distances between heads, and the heads in a plane | |
        | "compare" | what changed from this run to another | other: its record; by, as in `Comparison.heads`; top |

        "model", "report", "similarity" and "compare" are of all heads, the others of one head of a layer. All but
        "roles" and "compare" are of one text: `sequence` and `batch` choose it.

        Raises:
            ClearheadError: another kind, what it doesn't take, or too many tokens for lines.

        >>> import clearhead as ch, tempfile, torch
        >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
        >>> with ch.watch(layer) as seen:
        ...     _ = layer(torch.randn(1, 5, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     seen.figure("head", layer=0, head=1).save(folder + "/head.svg").name
        'head.svg'
        """
        return figure(self, kind, layer, head, **options)

    def scene(
        self,
        *,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        sequence: SupportsIndex = -1,
        batch: SupportsIndex = 0,
        image: object = None,
    ) -> Scene:
        """All that a page can show of one text, block by block, as `page` takes its arguments."""
        return Scene(self, title=title, facts=facts, sequence=sequence, batch=batch, image=image)


def watch(
    model: nn.Module,
    tokenizer: Tokenizer | None = None,
    *,
    keep: Keep = "qk",
    layers: SupportsIndex | str | Iterable[SupportsIndex | str] | None = None,
    values: bool = False,
    store: str | os.PathLike[str] | None = None,
    memory: int | float | str | None = None,
    kernels: Kernels = "clearhead",
    expect: int | None = None,
) -> Watch[Seen]:
    """Sees every attention that a model computes in a `with` block; its results stay the same up to rounding.

    On the CPU Clearhead's kernels compute meanwhile, with the statistics in the same pass; `seen.kernels.explain()`
    says which attentions were left to the model's own, and why.

    Args:
        model: any PyTorch module: Transformers, timm, nn.TransformerEncoder, your own.
        tokenizer: names the tokens, and says which are delimiters.
        keep: "qk" keeps q, k and the statistics of every query, from which any row is made again; "statistics"
            keeps the statistics and the roles' sums alone. Both are O(T).
        layers: the attentions to keep, by number or by name; all unless said.
        values: keep v as well.
        store: an empty folder, in which q and k are kept as safetensors files, one a call, instead of in memory. They
            are read as memory maps, where they are looked at. The files stay when the record is gone.
        memory: how much what is kept may take, in bytes or as "2 GiB": refused if it will take more, as soon as the
            first attention shows its shape and before it is computed.
        kernels: "clearhead", or "model" to have the model's own kernels compute all: results and gradients are then
            the same to the bit, second derivatives included, at the cost of a second pass over each attention.
        expect: how many attentions there are to be seen; another number is an error at the end of the block.

    Raises:
        ClearheadError: if what is kept would take more than `memory`, in a sentence that says what would fit; if
            nothing was seen, in a sentence that says why; see `clearhead.scope.watch.Watch`.

    >>> import clearhead as ch, torch
    >>> layer = torch.nn.TransformerEncoderLayer(d_model=16, nhead=2, batch_first=True).eval()
    >>> with ch.watch(layer) as seen:
    ...     _ = layer(torch.randn(1, 5, 16))
    >>> seen.calls, seen[0].name, seen[0].rows([4], head=1).shape
    (1, 'self_attn', torch.Size([1, 5]))
    """
    options = {"keep": keep, "values": values, "store": store, "memory": memory}
    return Watch(
        model, tokenizer, record=partial(Seen, model=model), layers=layers, kernels=kernels, expect=expect, **options
    )
