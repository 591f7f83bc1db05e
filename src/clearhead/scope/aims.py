"""Aims: the weight that the queries of a text put on the targets of each role, without a pass over all scores.

One target a query costs one product of a query and a key. Where the targets lie apart, as the copies of a token or
the punctuation do, the keys are listed so that each query's targets are a run of the list, and the queries so that
those with the same runs lie side by side. Then the kernel touches little more than the pairs that count, and of a text
that is one token repeated, where all pairs count, it makes one pass over the scores for each of the roles.

What the kernels don't take is read from whole rows, some at a time.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.attend import native, reference, second
from clearhead.attend.call import Call
from clearhead.attend.runs import Runs
from clearhead.attend.statistics import Statistics
from clearhead.scope import sampled
from clearhead.scope.roles import MARKED, REPEATED, SINGLE, Repeats, Text
from clearhead.scope.words import Kinds

ELEMENTS = 2**22
"""How many numbers of whole rows are held at a time: 16 MiB of float32."""

Found = tuple[Tensor, Tensor]
"""Which of the queries looked at have a target in sight, (n,), and what a uniform head puts on it, (H or 1, n)."""


@dataclass(frozen=True, eq=False)
class Listed:
    """The targets of several roles, as runs of one list of keys."""

    order: Int[Tensor, " Tq"]
    """The queries, those with the same targets side by side."""
    keys: Int[Tensor, "roles n"]
    """For each role the keys that are some query's targets; filled up with 0."""
    runs: Runs
    """Which of all of them, role after role, are the targets of each query of `order`."""

    @classmethod
    def of(cls, repeats: list[Repeats], runs: list[Runs], order: Int[Tensor, " Tq"]) -> "Listed":
        """Each role's keys as long as the longest list, and the runs of all of them, counted through."""
        keys = [of_role.keys for of_role in repeats]
        n = max(second.TILE, *(-(-len(of_role) // second.TILE) * second.TILE for of_role in keys))
        ordered = [of_role.take(order) for of_role in runs]
        start, stop = (
            torch.cat([getattr(of_role, side) + role * n for role, of_role in enumerate(ordered)], -1)
            for side in ("start", "stop")
        )
        padded = [torch.nn.functional.pad(of_role, (0, n - len(of_role))) for of_role in keys]
        return cls(order, torch.stack(padded).int(), Runs(start, stop, n * len(keys)))


@dataclass(frozen=True, eq=False)
class Aims:
    """What one text decides for all heads of all layers: which queries count, and where each role's targets are."""

    counted: Bool[Tensor, " Tq"]
    """The queries that may see something, and are no padding: one that may see nothing says nothing of its head."""
    several: Bool[Tensor, " Tq"]
    """Those of them that may see two keys or more."""
    sample: Int[Tensor, " m"]
    """Those of which whole rows are looked at."""
    found: dict[str, Found] = field(default_factory=dict)
    """Of each role for which the text has a target."""
    single: dict[str, Int[Tensor, " Tq"]] = field(default_factory=dict)
    """The one target of each query; 0 where there is none."""
    lists: tuple[Listed, ...] = ()
    """The targets of `REPEATED`, and of `MARKED`; none where the tokens are not known."""

    @classmethod
    def of(cls, text: Text | None, visible: Runs, counted: Bool[Tensor, " Tq"]) -> "Aims":
        """Of one text and what it may see; without roles where the tokens are not known."""
        sample, several = sampled.sample(counted), counted & (visible.count()[0] > 1).all(0)
        if text is None:
            return cls(counted, several, sample)
        # Heads of one layer may see different keys; a query counts where every head sees a target.
        found: dict[str, Found] = {}
        visible_keys = visible.count()[0].double()

        def find(role: str, targets: Tensor) -> None:
            some = ((targets > 0).all(0) & counted).nonzero()[:, 0]
            if len(some):
                found[role] = some, targets[:, some] / visible_keys[:, some]

        i = torch.arange(len(counted), device=counted.device)
        single = {role: target(text) for role, target in SINGLE.items()}
        for role, j in single.items():
            find(role, (visible.sees(i, j.clamp(min=0))[0] & (j >= 0)).double())
        lists = []
        for roles in (REPEATED, MARKED):
            repeats = [find_targets(text) for find_targets in roles.values()]
            runs = [targets.seen(visible) for targets in repeats]
            for role, of_role in zip(roles, runs, strict=True):
                find(role, of_role.count()[0].double())
            order = i
            if roles is REPEATED:  # those of the same token side by side, at the end those without a copy in sight
                repeating = torch.stack([of_role.count()[0].any(0) for of_role in runs]).any(0)
                order = torch.where(repeating, text.numbers[text.past :], len(text.ids)).argsort(stable=True)
            lists.append(Listed.of(repeats, runs, order))
        single = {role: j.clamp(min=0) for role, j in single.items() if role in found}
        return cls(counted, several, sample, found, single, tuple(lists))

    def weights(self, call: Call, seen: Statistics) -> dict[str, tuple[Tensor, Tensor]]:
        """For each role the weight that queries put on their targets, (H, n), and a uniform head's, (H or 1, n)."""
        if not self.lists:
            return {}
        # A bias hangs on where a key stands, which a list doesn't say.
        by_kernels = call.bias is None and native.refuses(call) is None
        named = self._by_kernels(call, seen) if by_kernels else self._from_rows(call)
        on = dict(zip((*self.single, *REPEATED, *MARKED), named, strict=True))
        return {role: (on[role].index_select(1, at), uniform) for role, (at, uniform) in self.found.items()}

    def _by_kernels(self, call: Call, seen: Statistics) -> list[Float[Tensor, "H Tq"]]:
        """The weight on the targets of `single`, then of each list."""
        known = call, seen.max_score, seen.peak
        single = [second.toward(*known, torch.stack(list(self.single.values()))[:, None])] if self.single else []
        lists = [second.held(*known, one.order, one.keys, one.runs) for one in self.lists]
        return [on[0] for part in (*single, *lists) for on in part]

    def _from_rows(self, call: Call) -> list[Float[Tensor, "H Tq"]]:
        """The same from whole rows, some at a time."""
        H, Tq, Tk = *call.q.shape[1:3], call.k.shape[2]
        on = call.q.new_zeros(len(self.single) + sum(len(one.keys) for one in self.lists), H, Tq, dtype=call.dtype)
        for some in torch.arange(Tq, device=call.q.device).split(max(1, ELEMENTS // (H * Tk))):
            w = reference.softmax(call.take(some))[1][0]
            parts = [w.gather(2, j[some].expand(H, -1)[..., None])[..., 0] for j in self.single.values()]
            for one in self.lists:
                targets = one.runs.take(one.order.argsort()[some]).dense()[0].unflatten(-1, one.keys.shape).unbind(-2)
                parts += [(w[..., keys] * mine).sum(-1) for keys, mine in zip(one.keys, targets, strict=True)]
            on[:, :, some] = torch.stack(parts)
        return list(on)


def of_text(call: Call, b: int) -> Call:
    """The call of one text of the batch."""
    q, k, v = (x[b : b + 1] for x in (call.q, call.k, call.v))
    # Of a bias's tensors only those of four dimensions have a batch: dense ones, and ALiBi's slopes.
    bias = tuple(x[b : b + 1] if x.dim() == 4 and len(x) > 1 else x for x in call.bias_weights)
    return replace(call, q=q, k=k, v=v, runs=_runs_of_text(call.runs, b), bias_weights=bias)


def _runs_of_text(runs: Runs, b: int) -> Runs:
    return runs if len(runs.start) == 1 else Runs(runs.start[b : b + 1], runs.stop[b : b + 1], runs.keys)


_KNOWN: deque[tuple[tuple[object, ...], list[Aims]]] = deque(maxlen=2)
"""The last two readings: the layers of a model share one, or two in turn where some look through a window."""


def read(
    visible: Runs,
    past: int,
    ids: Int[Tensor, "B Tk"] | None,
    real: Bool[Tensor, "B Tk"] | None,
    valid: Bool[Tensor, "B Tq"] | None,
    kinds: Kinds | None,
    batch: int,
) -> list[Aims]:
    """The aims of each text of a batch, made again only where the texts are others than just now.

    `real` says which tokens are no padding, `valid` which queries are none.
    """
    said = (visible.start, visible.stop, past, ids, real, valid, kinds, batch)
    for known, aims in _KNOWN:
        if all(_same(x, y) for x, y in zip(known, said, strict=True)):
            return aims
    made = []
    named = {} if kinds is None or ids is None else kinds.among(ids)
    for b in range(batch):
        one = _runs_of_text(visible, b)
        counted = (one.count() > 0).all(1)[0]
        counted = counted if valid is None else counted & valid[b]
        text = None
        if ids is not None:
            is_real = torch.ones_like(ids[b], dtype=torch.bool) if real is None else real[b]
            text = Text(ids[b], is_real, past, one, **{kind: x[b] & is_real for kind, x in named.items()})
        made.append(Aims.of(text, one, counted))
    # A model may put its next text into the same memory.
    _KNOWN.append((tuple(x.clone() if isinstance(x, Tensor) else x for x in said), made))
    return made


def _same(x: object, y: object) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.shape == y.shape and x.device == y.device and torch.equal(x, y)
    return not isinstance(x, Tensor) and not isinstance(y, Tensor) and x == y
