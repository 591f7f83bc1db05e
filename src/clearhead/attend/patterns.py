"""The patterns of the field, each as runs of keys. True always means *may attend*."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from clearhead.attend.pattern import Pattern
from clearhead.attend.runs import Runs, runs_of_ids
from clearhead.errors import ClearheadError

Align = Literal["end", "start"] | int | Tensor
"""Where query 0 sits among the keys: at Tk − Tq ("end"), at 0 ("start"), or at a number (one a batch)."""

_FAR = 2**61
"""Beyond every sequence. Two numbers of this size can still be added in 64 bits."""

# The patterns are classes named like functions, because they are used as functions: a call says
# all there is to say, and the object that it makes prints as that call.


@dataclass(frozen=True, eq=False, repr=False)
class full(Pattern):
    """Every query sees every key."""

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return Runs.of(_integers(0, device), _integers(Tk, device), Tk)


@dataclass(frozen=True, eq=False, repr=False)
class causal(Pattern):
    """A query sees itself and what came before: `[0, i + 1)`.

    >>> causal(align="start").dense(2, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0]]
    """

    align: Align = "end"

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        stop = _positions(Tq, Tk, self.align, device, ahead=1)
        return Runs.of(torch.zeros_like(stop), stop, Tk)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class window(Pattern):
    """`window(w)`: the query and the w − 1 keys before it. `window(left, right)`: so many to each side.

    Windows count keys: `window(w)` is `[i − w + 1, i + 1)`, `window(left, right)` is
    `[i − left, i + right + 1)`. None for a side means without end. Beltagy et al. 2020.

    >>> window(2).dense(3, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    >>> window(0, 1).dense(3, 3)[0, 0].int().tolist()
    [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    """

    left: int | None
    right: int | None
    align: Align

    def __init__(self, left: int | None, right: int | Literal["none"] | None = "none", align: Align = "end"):
        for side in (left, right):
            if isinstance(side, bool) or not (isinstance(side, int) or side in (None, "none")):
                raise ClearheadError(f"window: got {side!r}, expected whole numbers of keys, or None for no end.")
        if right == "none":
            if left is None or left < 1:
                raise ClearheadError(f"window({left}) counts the query itself, so it must be at least 1.")
            left, right = left - 1, 0
        for side in (left, right):
            if side is not None and side < 0:
                raise ClearheadError(f"window({left}, {right}): a side counts keys, so it can't be negative.")
        object.__setattr__(self, "left", left)
        object.__setattr__(self, "right", right)
        object.__setattr__(self, "align", align)

    def __repr__(self) -> str:
        sides = f"{self.left + 1}" if self.left is not None and self.right == 0 else f"{self.left}, {self.right}"
        return f"window({sides})" if self.align == "end" else f"window({sides}, align={self.align!r})"

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        start, stop = _integers(0, device), _integers(Tk, device)
        if self.left is not None:
            start = _positions(Tq, Tk, self.align, device, ahead=-self.left)
        if self.right is not None:
            stop = _positions(Tq, Tk, self.align, device, ahead=self.right + 1)
        return Runs.of(start, stop, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class first(Pattern):
    """Every query sees the first n keys, which may be a number a batch `(B,)`: attention sinks.

    With causality write `causal() & (window(256) | first(4))`. Xiao et al. 2023 (StreamingLLM).
    """

    n: int | Integer[Tensor, " B"]

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return Runs.of(_integers(0, device), _integers(self.n, device), Tk)


@dataclass(frozen=True, eq=False, repr=False)
class prefix(Pattern):
    """A prefix LM: the first n keys are seen by all, the rest causally. n may be `(B,)`. Raffel et al. 2020."""

    n: int | Integer[Tensor, " B"]

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return (causal() | first(self.n)).runs(Tq, Tk, device)


@dataclass(frozen=True, eq=False, repr=False)
class padding(Pattern):
    """Only real tokens are seen: `lengths (B,)` of them, the padding after them, or before (`side="left"`)."""

    lengths: Integer[Tensor, " B"]
    side: Literal["right", "left"] = "right"

    def __post_init__(self) -> None:
        if self.side not in ("right", "left"):
            raise ClearheadError(f"padding: got side={self.side!r}, expected 'right' or 'left'.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        lengths = _integers(self.lengths, device).clamp(0, Tk)
        edges = (torch.zeros_like(lengths), lengths) if self.side == "right" else (Tk - lengths, lengths * 0 + Tk)
        return Runs.of(*edges, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class documents(Pattern):
    """Packed sequences: a query sees the keys of its own document. `ids (Tk,)` or `(B, Tk)`, in any order.

    The queries are the last Tq of the keys, or have their own `query_ids (Tq,)` or `(B, Tq)`, as where packed texts
    attend to packed memories that differ from them in length.

    >>> documents(torch.tensor([7, 7, 3, 7])).dense(4, 4)[0, 0, 0].int().tolist()
    [1, 1, 0, 1]
    >>> documents(torch.tensor([0, 0, 1]), query_ids=torch.tensor([1, 0])).dense(2, 3)[0, 0].int().tolist()
    [[0, 0, 1], [1, 1, 0]]
    """

    ids: Integer[Tensor, "*Bk Tk"]
    query_ids: Integer[Tensor, "*Bq Tq"] | None = None

    def __post_init__(self) -> None:
        for name, ids in (("ids", self.ids), ("query_ids", self.query_ids)):
            if isinstance(ids, Tensor) and ids.dim() in (1, 2):
                continue
            if name == "ids" or ids is not None:
                got = f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
                raise ClearheadError(f"documents: got {name} of {got}; expected a tensor (T,) or (B, T).")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        if torch.compiler.is_compiling():
            raise ClearheadError(
                "documents: torch.compile can't know how many runs the ids make; make the mask outside the compiled "
                "function and bring it: where(documents(ids).dense(Tq, Tk))."
            )
        ids = self.ids.to(device)
        if ids.shape[-1] != Tk or (self.query_ids is None and Tq > Tk):
            raise ClearheadError(
                f"documents: got ids for {ids.shape[-1]} keys in a call with Tq = {Tq}, Tk = {Tk}; expected one id "
                "for each key, and queries that are the last Tq of them, or have query_ids."
            )
        of_queries = ids[..., Tk - Tq :] if self.query_ids is None else self.query_ids.to(device)
        if of_queries.shape[-1] != Tq:
            raise ClearheadError(
                f"documents: got query_ids for {of_queries.shape[-1]} queries in a call with Tq = {Tq}; "
                "expected one id for each."
            )
        ids, of_queries = (x[None] if x.dim() == 1 else x for x in (ids, of_queries))
        if len(ids) != len(of_queries) and 1 not in (len(ids), len(of_queries)):
            raise ClearheadError(
                f"documents: got ids of {len(ids)} sequences and query_ids of {len(of_queries)}; "
                "expected as many of each, or 1."
            )
        B = len(ids) if len(of_queries) == 1 else len(of_queries)
        if B == 0:
            none = torch.full((0, 1, Tq, 1), Tk, device=device)
            return Runs.of(none, none, Tk)
        pairs = zip(ids.expand(B, -1), of_queries.expand(B, -1), strict=True)
        batches = [runs_of_ids(*pair) for pair in pairs]
        most = max(start.shape[-1] for start, _ in batches)
        grown = [[torch.nn.functional.pad(t, (0, most - t.shape[-1]), value=Tk) for t in b] for b in batches]
        start, stop = (torch.stack(side)[:, None] for side in zip(*grown, strict=True))
        return Runs.of(start, stop, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class chunks(Pattern):
    """A query sees its own chunk of `size` positions and the last `overlap` before it, ahead of it too.

    Add `causal() &` for chunked decoding. Child et al. 2019.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.overlap < 0:
            raise ClearheadError(f"{self!r}: size must be at least 1 and overlap at least 0.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        size = min(self.size, Tq + Tk + 1)  # which holds every position, so that a larger one makes the same chunk
        start = _positions(Tq, Tk, "end", device) // size * size
        return Runs.of(start - min(self.overlap, Tk), start + size, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class dilated(Pattern):
    """w keys, every `step`-th going back from the query: i, i − step, … Beltagy et al. 2020.

    >>> dilated(3, 2).dense(1, 6)[0, 0, 0].int().tolist()
    [0, 1, 0, 1, 0, 1]
    """

    w: int
    step: int

    def __post_init__(self) -> None:
        if self.w < 1 or self.step < 1:
            raise ClearheadError(f"{self!r}: w and step must be at least 1.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        step = min(self.step, Tk + 1)
        w = min(self.w, -(-Tk // step) + 1)  # further back there is no key
        j = _positions(Tq, Tk, "end", device) - step * torch.arange(w, device=device)
        return Runs.of(j, j + 1, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class blocks(Pattern):
    """Block-sparse: query position i sees key j where `matrix[i // size, j // size]`. Child et al. 2019.

    `matrix` is boolean, `(n, n)`, `(H, n, n)` or `(B, H, n, n)` with n · size at least Tk.
    """

    matrix: Bool[Tensor, "*heads n n"]
    size: int

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if self.matrix.dtype != torch.bool or shape[-2:-1] != shape[-1:] or self.size < 1:
            raise ClearheadError(
                f"blocks: got a matrix of {self.matrix.dtype}, shape {shape}, and blocks of {self.size}; "
                "expected torch.bool, as many rows as columns, and blocks of at least 1."
            )

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        n = self.matrix.shape[-1]
        if n * self.size < Tk or Tq > Tk:
            raise ClearheadError(
                f"blocks: a {n} × {n} matrix of blocks of {self.size} covers {n * self.size} positions, but the call "
                f"has Tq = {Tq} and Tk = {Tk}; bring a matrix that covers Tk, and no more queries than keys."
            )
        size = min(self.size, Tk + 1)
        of_blocks = Runs.of_mask(_four_dimensional(self.matrix.to(device)))
        rows = of_blocks.take(_positions(Tq, Tk, "end", device).view(-1) // size)
        return Runs.of(rows.start.long() * size, rows.stop.long() * size, Tk)


@dataclass(frozen=True, eq=False, repr=False)
class global_tokens(Pattern):
    """Tokens at these positions see everything and are seen by everything. Beltagy et al. 2020."""

    positions: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(p < 0 for p in self.positions):
            raise ClearheadError(f"{self!r}: positions count from the first token, so none can be negative.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        there = [p for p in self.positions if p < Tk]
        chosen = torch.zeros(1, 1, 1, Tk, dtype=torch.bool, device=device)
        chosen[..., there] = True
        i = _positions(Tq, Tk, "end", device)
        return Runs.of_mask(chosen) | _all_for(torch.isin(i, torch.tensor(there, device=device, dtype=i.dtype)), Tk)


def longformer(width: int, tokens: tuple[int, ...] = (0,)) -> Pattern:
    """Longformer: `width` keys around each query, half to each side, and global tokens. Beltagy et al. 2020."""
    if width < 0:
        raise ClearheadError(f"longformer: got a width of {width} keys, expected at least 0.")
    return window(width // 2, width // 2) | global_tokens(tokens)


@dataclass(frozen=True, eq=False, repr=False)
class bigbird(Pattern):
    """BigBird, in blocks of `size`: its neighbours, the first blocks globally, and random ones.

    A query's block sees `around` blocks to each side, `ends` global blocks at the start (seen by and seeing
    all) and `random` blocks drawn for it by `seed`. Zaheer et al. 2020.
    """

    size: int
    around: int = 1
    ends: int = 1
    random: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or min(self.around, self.ends, self.random) < 0:
            raise ClearheadError(f"{self!r}: size must be at least 1, and around, ends and random at least 0.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        size = min(self.size, Tq + Tk + 1)  # as in chunks
        i = _positions(Tq, Tk, "end", device)
        block, count = i // size, max(1, -(-Tk // size))
        around = min(self.around, Tq + Tk)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(count, (count, self.random), generator=generator).to(device)
        start = torch.cat([block - around, drawn[block.view(-1).clamp(min=0)][None, None]], -1)
        stop = torch.cat([block + around + 1, start[..., 1:] + 1], -1)
        near_and_random = Runs.of(start * size, stop * size, Tk)
        ends = min(self.ends * self.size, Tk)
        return near_and_random | first(ends).runs(Tq, Tk, device) | _all_for((i >= 0) & (i < ends), Tk)


@dataclass(frozen=True, eq=False, repr=False)
class where(Pattern):
    """A boolean mask of your own, True = may attend: `(Tq, Tk)`, `(H, Tq, Tk)` or `(B, H, Tq, Tk)`, 1 for any."""

    mask: Bool[Tensor, "*heads Tq Tk"]

    def __post_init__(self) -> None:
        if not isinstance(self.mask, Tensor) or self.mask.dtype != torch.bool:
            got = f"a tensor of {self.mask.dtype}" if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise ClearheadError(
                f"where: got {got}, expected a tensor of torch.bool with True = may attend. "
                "A float mask that is added to the scores is a bias: pass it as bias=."
            )

        if self.mask.is_nested or self.mask.layout is not torch.strided:
            kind = "nested" if self.mask.is_nested else f"of the layout {self.mask.layout}"
            raise ClearheadError(f"where: the mask is {kind}; expected a strided tensor, as mask.to_dense() gives.")

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        mask = _four_dimensional(self.mask.to(device))
        if mask.shape[-2] not in (1, Tq) or mask.shape[-1] not in (1, Tk):
            raise ClearheadError(
                f"where: got a mask of shape {tuple(self.mask.shape)} for Tq = {Tq}, Tk = {Tk}; "
                "expected its last two dimensions to be (Tq, Tk), or 1 where they are all alike."
            )
        return Runs.of_mask(mask.expand(-1, -1, -1, Tk))


def _positions(Tq: int, Tk: int, align: Align, device: torch.device, ahead: int = 0) -> Int[Tensor, "B 1 Tq 1"]:
    """The position of each query among the keys, or `ahead` keys after it.

    That of query 0 is clamped to −Tq … Tk: further out, all Tq of them lie before the first key, or after the last.
    """
    if isinstance(align, str):
        if align not in ("end", "start"):
            raise ClearheadError(f"align: got {align!r}, expected 'end', 'start', a number, or one a batch (B,).")
        align = Tk - Tq if align == "end" else 0
    of_first = _integers(align, device) + max(-_FAR, min(ahead, _FAR))
    return of_first.clamp(-Tq, Tk) + torch.arange(Tq, device=device).view(1, 1, Tq, 1)


def _integers(n: int | Tensor, device: torch.device) -> Int[Tensor, "B 1 1 1"]:
    """A number, or one a batch, as a tensor that broadcasts over heads, queries and runs; at most ±_FAR."""
    if isinstance(n, int) and not isinstance(n, bool):
        n = max(-_FAR, min(n, _FAR))
    n = torch.as_tensor(n, device=device)
    if n.is_floating_point() or n.dtype == torch.bool:
        raise ClearheadError(f"a pattern counts keys: got a number of {n.dtype}, expected whole numbers.")
    whole = n.long()
    if n.dtype == torch.uint64:  # the upper half of which has become negative
        whole = whole.masked_fill(whole < 0, _FAR)
    return whole.clamp(-_FAR, _FAR).view(-1, 1, 1, 1)


def _all_for(chosen: Bool[Tensor, "B 1 Tq 1"], Tk: int) -> Runs:
    """All keys for the chosen queries, and none for the others."""
    stop = torch.where(chosen, Tk, 0)
    return Runs.of(torch.zeros_like(stop), stop, Tk)


def _four_dimensional(mask: Bool[Tensor, "..."]) -> Bool[Tensor, "B H Tq Tk"]:
    if not 2 <= mask.dim() <= 4:
        raise ClearheadError(
            f"a mask of shape {tuple(mask.shape)} has {mask.dim()} dimensions; "
            "expected (Tq, Tk), (H, Tq, Tk) or (B, H, Tq, Tk)."
        )
    return mask[(None,) * (4 - mask.dim())]
