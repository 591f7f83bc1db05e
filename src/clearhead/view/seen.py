"""What a watch gives: a record that can also be looked at as a page."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from clearhead.scope.budget import in_bytes
from clearhead.scope.record import Keep, Record
from clearhead.scope.seams import Kernels
from clearhead.scope.watch import Watch
from clearhead.scope.words import Tokenizer
from clearhead.view import page
from clearhead.view.fitting import BUDGET, saved
from clearhead.view.scene import MOST, Scene


class Seen(Record):
    """What a watch saw, and its pictures."""

    def page(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        most: int = MOST,
        budget: int | float | str = BUDGET,
        sequence: int = -1,
        batch: int = 0,
    ) -> Path:
        """Writes a self-contained page of one text: for each query of each head its heaviest keys.

        It holds as many keys of a query as carry 99 % of its weight, but at most `most`, or fewer where they would
        take more than `budget` (bytes, or as "20 MB"; one at least), and says how much of the weight that is.
        `title` is the beginning of the text unless given; `facts` are shown beside it. If the model read several
        texts, `sequence` and `batch` choose one.
        """
        scene = self.scene(title=title, facts=facts, sequence=sequence, batch=batch)
        return page.write(path, *saved(scene, in_bytes(budget, "budget"), most))

    def scene(
        self,
        *,
        title: str | None = None,
        facts: Mapping[str, str] | None = None,
        sequence: int = -1,
        batch: int = 0,
    ) -> Scene:
        """All that a page can show of one text, block by block, as `page` takes its arguments."""
        return Scene(self, title=title, facts=facts, sequence=sequence, batch=batch)


def watch(
    model: nn.Module,
    tokenizer: Tokenizer | None = None,
    *,
    keep: Keep = "qk",
    layers: int | str | Iterable[int | str] | None = None,
    values: bool = False,
    store: str | os.PathLike[str] | None = None,
    memory: int | float | str | None = None,
    kernels: Kernels = "clearhead",
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
    return Watch(model, tokenizer, record=Seen, layers=layers, kernels=kernels, **options)
