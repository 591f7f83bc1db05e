"""A record: what one watch kept of a model's attentions, and the table of its heads."""

import importlib.util
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from clearhead.attend import backends, reference
from clearhead.attend.api import checked
from clearhead.attend.call import Call
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import causal
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope import words
from clearhead.scope.layer import Keys, Layer, Step, summarise
from clearhead.scope.masks import MaskReader
from clearhead.scope.sighting import Sighting

Keep = Literal["qk", "statistics"]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far weights · v may be from what the model computed, relative to its largest value."""


class Record:
    """What a watch saw: a `Layer` for every attention, by name or number, and a table of all heads.

    Memory is O(T) for each layer: q, k, and the statistics of every query (`keep="qk"`), or the statistics
    alone. A model that shows only its softmax (BLOOM, MPT) gives scores that are T × T already: with
    `keep="qk"` those are kept as they are, and `in_full` names the layers.
    """

    def __init__(self, tokenizer: words.Tokenizer | None = None, *, keep: Keep = "qk", values: bool = False):
        if keep not in ("qk", "statistics"):
            raise ClearheadError(f"keep: got {keep!r}, expected 'qk' or 'statistics'.")
        self.tokenizer = tokenizer
        self.keep = keep
        self.values = values
        self.calls = 0
        """How many attentions were seen, each step of a generation counted."""
        self.check = 0.0
        """The self-check: the largest |weights · v − the model's own output| over a sample of rows of each call."""
        self.checked = 0
        """How many calls the self-check could look at: those that showed v and an output without dropout."""
        self.in_full: list[str] = []
        self.unseen: list[str] = []
        """Modules that look like attentions and ran, but in which none was seen."""
        self._layers: dict[str, Layer] = {}
        self._masks = MaskReader()
        self._now: Counter[str] = Counter()
        self._step = -1

    @property
    def layers(self) -> list[Layer]:
        """The attentions seen, in the order in which the model defines them."""
        return sorted(self._layers.values(), key=lambda layer: layer.order)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.calls} attentions seen in {len(self)} layers, check={self.check:.1e})"

    def __getitem__(self, layer: str | int) -> Layer:
        """A layer by its module's name, or by its number among those seen."""
        layers = self.layers
        if isinstance(layer, str):
            if layer not in self._layers:
                raise ClearheadError(
                    f"no attention named {layer!r} was seen; there are: {', '.join(x.name for x in layers) or 'none'}."
                )
            return self._layers[layer]
        if not -len(layers) <= layer < len(layers):
            raise ClearheadError(f"there is no layer {layer}: {len(layers)} attentions were seen, counted from 0.")
        return layers[layer]

    def heads(self, *, pandas: bool | None = None) -> Any:
        """A table with one row a head: every statistic, every role and its uniform baseline.

        The columns are layer, name, kind, head, queries (how many were averaged), the means of the statistics
        of `Statistics` (of max_score the maximum), and for each role of `clearhead.scope.roles` the mean
        weight and `<role>_uniform`. A role is NaN where the text has no such target, and in cross-attention.
        A pandas DataFrame where pandas is installed, a list of dicts else; `pandas=` chooses.
        """
        rows = [
            {"layer": number, "name": layer.name, "kind": layer.kind, "head": head, **row}
            for number, layer in enumerate(self.layers)
            for head, row in enumerate(layer.summary().rows(layer.heads))
        ]
        if pandas is None:
            pandas = importlib.util.find_spec("pandas") is not None
        if not pandas:
            return rows
        from pandas import DataFrame  # optional, and slow to import

        return DataFrame(rows)

    def close(self, unseen: list[str]) -> None:
        """The watch is over."""
        self.unseen = unseen

    @torch.no_grad()
    def add(self, sighting: Sighting) -> None:
        """Takes in one call of one attention."""
        call, v = self._call(sighting)
        statistics = backends.choose(call, "auto").forward(call, True)[2]
        if v is not None and sighting.out is not None and sighting.dropout == 0:
            self._self_check(sighting, replace(call, v=v, finite=False))
        layer = self._layer(sighting)
        B, H, Tq, Tk = *call.q.shape[:3], call.k.shape[2]
        sequence = _continued(layer, call)
        before = sequence[-1] if sequence else None
        step = Step(
            statistics=statistics,
            shape=(B, H, Tq, Tk),
            ids_q=sighting.ids_q,
            ids_k=sighting.ids_k,
            real=_real_keys(sighting.valid, before, Tk),
            newest=call.k[:, :, -1:].clone(),
            call=replace(call, k=call.k[:, :, :0], v=call.k[:, :, :0]),
            keys=Keys(call.k),
        )
        if before is not None and before.keys is not None and before.keys.grow(call.k):
            step.keys = before.keys
        sequence.append(step)
        if before is None:
            layer.sequences.append(sequence)
        if self.keep == "statistics":
            step.summary = summarise(step, layer.kind, self.tokenizer)
            step.call = step.keys = None
        elif self.values:
            step.v = None if v is None else v.clone()
        self.calls += 1

    def _call(self, sighting: Sighting) -> tuple[Call, Tensor | None]:
        """The attention that was seen, in our own words, and its values."""
        if sighting.scores is not None:
            # Only scores were shown. They are a bias on queries and keys that say nothing.
            scores = sighting.scores
            B, H, Tq, Tk = scores.shape
            q, k, v = scores.new_zeros(B, H, Tq, 0), scores.new_zeros(B, H, Tk, 0), None
            mask: Tensor | None = scores.clone() if self.keep == "qk" else scores
            if self.keep == "qk" and sighting.name not in self.in_full:
                self.in_full.append(sighting.name)
        else:
            assert sighting.q is not None and sighting.k is not None
            q, k, v, mask = sighting.q, sighting.k, sighting.v, sighting.mask
            q, k = q.clone(), k.clone()
        pattern: Pattern | None = causal(align="start") if sighting.causal else None
        bias = None
        if mask is not None:
            said, bias = self._masks.read(mask, q.shape[2], k.shape[2])
            pattern = said if pattern is None or said is None else pattern & said
        call = checked(
            q,
            k,
            k[..., :0],
            pattern=pattern,
            bias=bias,
            scale=sighting.scale,
            softcap=sighting.softcap,
            sinks=sighting.sinks,
        )
        return call, v

    def _self_check(self, sighting: Sighting, call: Call) -> None:
        """On a sample of rows, weights · v must be what the model itself computed."""
        assert sighting.out is not None
        Tq = call.q.shape[2]
        if Tq == 0:
            return
        rows = torch.tensor(sorted({0, Tq // 2, Tq - 1}), device=call.q.device)
        ours = reference.forward(call.take(rows), False)[0]
        ours = ours if sighting.project is None else sighting.project(ours)
        theirs = sighting.out[:, :, rows]
        # PyTorch gives NaN for a query that may see nothing, the contract 0.
        meant = (call.runs.count()[:, :, rows, None] > 0).all(1, keepdim=True).expand(theirs.shape)
        difference = float((ours - theirs).double().abs().where(meant, 0).max())
        largest = float(theirs.double().abs().where(meant, 0).max())
        self.check = max(self.check, difference)
        self.checked += 1
        if not difference <= TOLERANCE[theirs.dtype] * max(1.0, largest):
            warnings.warn(
                f"{sighting.name}: the weights that were seen, times v, differ by {difference:.2g} from what the model "
                f"computed (whose largest value is {largest:.2g}). What is shown of this layer is not what happened.",
                WatchWarning,
                stacklevel=2,
            )

    def _layer(self, sighting: Sighting) -> Layer:
        """The layer of this name. A module that attends several times in one step has a layer for each time."""
        if sighting.step != self._step:
            self._step = sighting.step
            self._now.clear()
        self._now[sighting.name] += 1
        nth = self._now[sighting.name]
        name = sighting.name if nth == 1 else f"{sighting.name}#{nth}"
        if name not in self._layers:
            self._layers[name] = Layer(name, sighting.kind, sighting.layer, self.tokenizer)
        return self._layers[name]


def _continued(layer: Layer, call: Call) -> list[Step]:
    """The sequence that a call goes on with, or a new one.

    It is the one whose newest key the call looks back at, whichever texts were read in between. A batch of
    beams may come in another order.
    """
    back = call.past if layer.kind == "self" else call.k.shape[2]
    if back > 0:
        newest = call.k[:, None, :, back - 1 : back]
        for sequence in reversed(layer.sequences):
            known = sequence[-1].newest
            same = known.shape[1:] == newest.shape[2:] and (newest == known).flatten(2).all(-1).any(1).all()
            if same and (layer.kind == "self" or sequence[-1].shape[3] == back):
                return sequence
    return []


def _real_keys(valid: Tensor | None, before: Step | None, Tk: int) -> Tensor | None:
    """Which keys are no padding: those of this call's queries, after those that were known."""
    if valid is None or valid.shape[1] == Tk:
        return valid
    known = None if before is None else before.real
    missing = Tk - valid.shape[1]
    if known is None or known.shape[1] != missing:
        known = valid.new_ones(valid.shape[0], missing)
    return torch.cat([known, valid], 1)
