"""A record: what one watch kept of a model's attentions, and the table of its heads."""

import importlib.util
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
import torch
from torch import Tensor

from clearhead.attend import backends, reference
from clearhead.attend.api import checked
from clearhead.attend.arguments import whole_number
from clearhead.attend.biases import dense
from clearhead.attend.call import Call
from clearhead.attend.statistics import Statistics
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope import alike, flow, region, taking, words
from clearhead.scope.added import distance_of_tokens, with_added
from clearhead.scope.budget import Budget, Kept
from clearhead.scope.byte_sizes import in_bytes
from clearhead.scope.columns import head_row
from clearhead.scope.copying import Copying
from clearhead.scope.head import Head
from clearhead.scope.indexing import index
from clearhead.scope.interface import Asked
from clearhead.scope.layer import Keys, Layer, Step, summarise
from clearhead.scope.masks import MaskReader
from clearhead.scope.sequences import continued, real_keys, real_queries
from clearhead.scope.sighting import Sighting
from clearhead.scope.store import KeysOnDisk, Store
from clearhead.scope.tally import Tally
from clearhead.scope.tokens import marks, reference_to
from clearhead.scope.trimming import Trimmer

Keep = Literal["qk", "statistics"]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far weights · v may be from what the model computed, relative to its largest value."""


class Record:
    """What a watch saw: a `Layer` for every attention, by name or number, and a table of all heads.

    Memory is O(T) for each layer: q, k, and the statistics of every query (`keep="qk"`), or the statistics
    alone. A model that shows only its softmax (BLOOM, MPT) gives scores that are T × T already, and some add a
    mask that is no pattern and no table of distances: with `keep="qk"` those are kept as they are, and `in_full`
    names the layers.
    """

    def __init__(
        self,
        tokenizer: words.Tokenizer | None = None,
        *,
        keep: Keep = "qk",
        values: bool = False,
        store: str | os.PathLike[str] | None = None,
        memory: int | float | str | None = None,
    ):
        if keep not in ("qk", "statistics"):
            raise ClearheadError(f"keep: got {keep!r}, expected 'qk' or 'statistics'.")
        if store is not None and keep != "qk":
            raise ClearheadError(f"store: keep={keep!r} keeps nothing that could go to disk; keep='qk' does.")
        self.tokenizer = tokenizer
        self.keep = keep
        self.values = values
        self.store = None if store is None else Store(store)
        self.budget = None if memory is None else Budget(in_bytes(memory))
        self.calls = 0
        """How many attentions were seen, each step of a generation counted."""
        self.kernels = Tally()
        """How many attentions our kernels computed, with the statistics in the same pass, and how many the model's
        own, and why: `seen.kernels.explain()`."""
        self.check = 0.0
        """The self-check: the largest |what was seen − what the model's own kernel makes| over sampled rows of each
        call."""
        self.checked = 0
        """How many calls the self-check could look at: those that showed an output without dropout."""
        self.in_full: list[str] = []
        self.unseen: list[str] = []
        """Modules that look like attentions and ran, but in which none was seen."""
        self._layers: dict[str, Layer] = {}
        self._masks = MaskReader()
        self._now: Counter[tuple[str, int | None]] = Counter()
        self._step = -1
        self._trimmer = Trimmer()

    @property
    def layers(self) -> list[Layer]:
        """The attentions seen, in the order in which the model defines them."""
        return sorted(self._layers.values(), key=lambda layer: layer.order)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        by = f"{self.kernels.taken} on {self.kernels.backend} kernels"
        return (
            f"{type(self).__name__}({self.calls} attentions seen in {len(self)} layers, {by}, check={self.check:.1e})"
        )

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __contains__(self, layer: object) -> bool:
        """Whether an attention of that name was seen, or whether the layer is one of these."""
        return layer in self._layers if isinstance(layer, str) else any(layer is one for one in self.layers)

    @overload
    def __getitem__(self, layer: str | SupportsIndex) -> Layer: ...
    @overload
    def __getitem__(self, layer: slice | list[Any]) -> list[Layer]: ...
    @overload
    def __getitem__(self, layer: tuple[str | SupportsIndex, SupportsIndex]) -> Head: ...
    def __getitem__(self, layer: Any) -> Any:
        """A layer by its module's name, or by its number among those seen; several by a slice or a list; a head.

        `seen[17]`, `seen["model.layers.17.self_attn"]`, `seen[-1]` are a `Layer`, `seen[0:2]` and `seen[[0, 2]]` a
        list of layers, and `seen[17, 3]` is a `Head`. Numbers may be of Python, NumPy or PyTorch.
        """
        layers = self.layers
        if isinstance(layer, slice):
            return layers[layer]
        if isinstance(layer, tuple) and len(layer) == 2:
            one = self[layer[0]]
            if isinstance(one, Layer):
                head = index(layer[1], f"head of {one.name}", one.heads)
                return Head(one, head)
        if isinstance(layer, str):
            if layer not in self._layers:
                raise ClearheadError(
                    f"no attention named {layer!r} was seen; there are: {', '.join(x.name for x in layers) or 'none'}."
                )
            return self._layers[layer]
        number = whole_number(layer)
        if number is None and isinstance(layer, list | range | Tensor | np.ndarray) and np.ndim(layer) == 1:
            return [self[one] for one in layer]
        if number is None:
            raise ClearheadError(
                f"{layer!r} is no layer; expected a number, the name of a module, a slice or a list of these, or a "
                "layer and a head: seen[17, 3]."
            )
        if not -len(layers) <= number < len(layers):
            raise ClearheadError(f"there is no layer {layer}: {len(layers)} attentions were seen, counted from 0.")
        return layers[number]

    def heads(self, *, copying: Copying | None = None, pandas: bool | None = None) -> Any:
        """A table with one row a head: every statistic, every role and its uniform baseline.

        The columns that say most come first, so that a print that is cut at its edge shows them.

        | column | is |
        |---|---|
        | layer, head, kind, name | which head; kind is "self" or "cross", name that of the module |
        | entropy, peak, distance, lse | the means of `Statistics`; of max_score the maximum |
        | entropy_normalised | the mean over queries that see two keys or more |
        | each of `clearhead.scope.roles` | the mean weight on its targets; `<role>_uniform`: a uniform head's |
        | effective_context | the fewest keys that hold 90 % of a query's weight: an estimate |
        | effective_context_stderr | its standard error: how far the mean over all queries may be from it |
        | sampled | from how many queries effective_context is estimated |
        | sink | the share of queries that put more than 0.3 on the first token |
        | queries | how many queries were averaged: those that are no padding and see some key in every head |
        | copying | `clearhead.copying(model)`'s score, where that is given |

        effective_context takes whole rows, O(T) each, so it comes from an even sample of each call's queries: 32 at
        most, the first and the last among them. Its standard error is 0 where no call has more.
        Gu et al. 2024 call a head a sink if the mean weight on the first token is more than 0.3; that is
        `first_token`, and `sink` says how many queries make it so. A role is NaN where the text has no such target,
        and in cross-attention.
        A pandas DataFrame where pandas is installed, a list of dicts else; `pandas=` chooses.
        """
        rows = [
            head_row(number, head, layer.kind, layer.name, row)
            for number, layer in enumerate(self.layers)
            for head, row in enumerate(layer.summary().rows(layer.heads))
        ]
        if copying is not None:
            rows = [{**row, "copying": copying.of(row["name"], row["head"])} for row in rows]
        if pandas is None:
            pandas = importlib.util.find_spec("pandas") is not None
        if not pandas:
            return rows
        from pandas import DataFrame  # optional, and slow to import

        return DataFrame(rows)

    def close(self, unseen: list[str]) -> None:
        """The watch is over."""
        self.unseen = unseen

    def expect(self, asked: Asked, attentions: int) -> None:
        """Sees the first attention before it is computed, of so many: raises if the budget will not hold them."""
        if self.budget is not None:
            self.budget.expect(self._kept(asked), attentions)

    def _kept(self, asked: Asked) -> Kept:
        in_memory = self.keep == "qk" and self.store is None
        return Kept.of(asked, in_memory, self.values)

    @torch.no_grad()
    def add(self, sighting: Sighting) -> None:
        """Takes in one call of one attention."""
        self.kernels.note(sighting.name, sighting.passed)
        call, statistics = self._seen(sighting)
        if sighting.out is not None and sighting.dropout == 0:
            self._self_check(sighting, call)
        whole = isinstance(call.bias, dense) and call.bias_weights[0].shape[-1] > 1
        if self.keep == "qk" and whole and sighting.name not in self.in_full:
            self.in_full.append(sighting.name)
        layer = self._layer(sighting)
        B, H, Tq, Tk = *call.q.shape[:3], call.k.shape[2]
        T = Tk - len(sighting.added)
        sequence = continued(layer, call, sighting)
        before = sequence[-1] if sequence else None
        scores = sighting.scores
        kept = self._kept(sighting.asked) if scores is None else Kept.of_scores(scores, self.keep == "qk")
        kept = replace(kept, known=0 if before is None else before.shape[3])
        if self.budget is not None:
            self.budget.take(kept)
        queries = real_queries(sighting, call)
        step = Step(
            statistics=statistics,
            shape=(B, H, Tq, Tk),
            ids_q=sighting.ids_q,
            ids_k=sighting.ids_k,
            real=real_keys(sighting, call, before, queries),
            valid=queries,
            added=sighting.added,
            newest=call.k[:, :, T - 1 : T].clone(),
            marks=marks(call.k[:, 0, max(T - Tq, 0) : T]),
            cache=reference_to(sighting.cache),
            row=sighting.row,
        )
        if self.keep == "statistics":
            step.call, step.keys = _without_keys(call), Keys(call.k)
            step.summary = summarise(step, layer.kind, self.tokenizer)
            step.call = step.keys = None
        else:
            self._put(step, call, sighting.v if self.values else None, layer, None if before is None else before.keys)
        self._trimmer.look()
        sequence.append(step)
        if before is None:
            layer.sequences.append(sequence)
        self._layers[layer.name] = layer  # only now: a full disk or budget must leave no layer without a step
        self.calls += 1

    def _put(self, step: Step, call: Call, v: Tensor | None, layer: Layer, known: Keys | KeysOnDisk | None) -> None:
        """Keeps q and k, in memory or on disk; of keys that were known before, what is new."""
        if call.sinks is not None:  # a parameter, which training changes in place
            call = replace(call, sinks=call.sinks.clone())
        if self.store is None:
            step.call = _without_keys(replace(call, q=call.q.clone()))
            grown = isinstance(known, Keys) and known.grow(call.k)
            step.keys = known if grown else Keys(call.k.clone())
            step.values = None if v is None else v.clone()
            return
        new = known.new(call.k) if isinstance(known, KeysOnDisk) else None
        if new is None:
            known = KeysOnDisk()
            new = known.new(call.k)
        assert isinstance(known, KeysOnDisk)
        step.file = self.store.write(layer.name, q=call.q, k=new, v=v)
        known.files.append(step.file)
        step.keys = known
        step.call = _without_keys(replace(call, q=call.q.new_empty(*call.q.shape[:3], 0)))

    def _seen(self, sighting: Sighting) -> tuple[Call, Statistics]:
        """The attention in our own words, and its statistics: those of the kernel that computed it, or made beside."""
        if sighting.taken is not None and sighting.taken.statistics is not None:
            call, statistics = sighting.taken.call, sighting.taken.statistics
        else:
            call = self._call_of_scores(sighting) if sighting.scores is not None else self._call(sighting)
            statistics = backends.choose(call, "auto").forward(call, True)[2]
        call = with_added(call, len(sighting.added))
        statistics = distance_of_tokens(call, statistics, len(sighting.added))
        # The log-sum-exp is a part of a larger tensor, which is not to be kept; a key's number needs no 64 bits.
        statistics = replace(statistics, lse=statistics.lse.clone(), peak_at=statistics.peak_at.int())
        return replace(call, v=call.v[..., :0], dropout=0.0), statistics

    def _call(self, sighting: Sighting) -> Call:
        assert sighting.q is not None and sighting.k is not None
        options = taking.options(sighting.asked) | {"dropout": 0.0}
        return checked(sighting.q, sighting.k, sighting.k[..., :0], **options)

    def _call_of_scores(self, sighting: Sighting) -> Call:
        """Where only scores were shown, they are a bias on queries and keys that say nothing."""
        scores = sighting.scores
        assert scores is not None
        B, H, Tq, Tk = scores.shape
        if self.keep == "qk":
            scores = scores.clone()
        q, k = scores.new_zeros(B, H, Tq, 0), scores.new_zeros(B, H, Tk, 0)
        pattern, bias = self._masks.read(scores, Tq, Tk)
        return checked(q, k, k, pattern=pattern, bias=bias, scale=sighting.scale)

    def _self_check(self, sighting: Sighting, call: Call) -> None:
        """On a sample of rows our output must be what the model's own kernel makes of them.

        Where its own kernel computed the whole, that must be weights · v.
        """
        out, taken, Tq = sighting.out, sighting.taken, call.q.shape[2]
        assert out is not None
        if Tq == 0:
            return
        rows = torch.tensor(sorted({0, Tq // 2, Tq - 1}), device=call.q.device)
        if taken is not None and taken.own is not None:
            ours, theirs = out[:, :, rows], taken.own(taken.asked, rows)
        else:
            assert sighting.v is not None
            weighed = reference.forward(replace(call.take(rows), v=sighting.v, finite=False), False)[0]
            ours = weighed if sighting.project is None else sighting.project(weighed)
            theirs = out[:, :, rows]
        # PyTorch gives NaN for a query that may see nothing, the contract 0.
        meant = (call.runs.take(rows).count()[..., None] > 0).all(1, keepdim=True).expand(theirs.shape)
        difference = float((ours - theirs).double().abs().where(meant, 0).max())
        largest = float(theirs.double().abs().where(meant, 0).max())
        self.check = max(self.check, difference)
        self.checked += 1
        if not difference <= TOLERANCE[theirs.dtype] * max(1.0, largest):
            warnings.warn(
                f"{sighting.name}: on rows {rows.tolist()} the attention that was seen differs by {difference:.2g} "
                f"from what the model's own kernel computed (whose largest value is {largest:.2g}). What is shown of "
                "this layer is not what happened.",
                WatchWarning,
                stacklevel=2,
            )

    def _layer(self, sighting: Sighting) -> Layer:
        """The layer of this name. A module that attends several times in one step has a layer for each time."""
        if sighting.step != self._step:
            self._step = sighting.step
            self._now.clear()
        self._now[sighting.name, sighting.row] += 1
        nth = self._now[sighting.name, sighting.row]
        name = sighting.name if nth == 1 else f"{sighting.name}#{nth}"
        return self._layers.get(name) or Layer(name, sighting.kind, sighting.layer, self.tokenizer)

    # What is asked of several layers, or of a region: each in a file of its own.
    alike = alike.alike
    map = region.region
    flow = flow.flow


def _without_keys(call: Call) -> Call:
    none = call.k.new_empty(*call.k.shape[:2], 0, call.k.shape[3])
    return replace(call, k=none, v=none)
