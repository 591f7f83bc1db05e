"""decode(): a few new queries against a cache of keys and values, which may be longer than what is valid, or paged."""

import ctypes
from operator import gt
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import library, native, operators
from clearhead.attend.api import (
    attention,
    autocasted,
    check_options,
    check_shapes,
    check_tensors,
    without_autocast,
)
from clearhead.attend.arguments import described, is_whole
from clearhead.attend.biases import Bias, dense
from clearhead.attend.heard import listener, one_sequence
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import first, padding
from clearhead.attend.patterns import window as window_pattern
from clearhead.attend.scores import Scaled
from clearhead.attend.statistics import Statistics, normalised
from clearhead.errors import ClearheadError


def decode(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "_ K _ D"],
    v: Float[Tensor, "_ K _ Dv"],
    *,
    lengths: Int[Tensor, " B"] | None = None,
    leftpad: Int[Tensor, " B"] | None = None,
    blocks: Int[Tensor, "B n"] | None = None,
    causal: bool = True,
    window: int | tuple[int | None, int | None] | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    return_lse: bool = False,
    probe: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention of the last Tq positions of each sequence over its cache: out_i = Σ_j w[i, j] v_j, j ≤ i.

    The queries of sequence b are the last Tq of its lengths[b] positions: query r sits at i = lengths[b] − Tq + r and
    sees the keys from leftpad[b] up to i, or the last `window` of them; with causal=False, up to the last valid one.
    What else the cache holds is never read. So a sequence gives what `attention(q, k, v, pattern=causal())` gives on
    its valid keys alone; with probe=, distances count from i.

    A paged cache (Kwon et al. 2023) is read in place: k and v are pools of blocks, and key j of sequence b is
    k[blocks[b, j // block], :, j % block]. A pool of another order, such as vLLM's (blocks, block, K, D), is passed by
    a view: `pool.transpose(1, 2)`.

    Args:
        q: queries `(B, H, Tq, D)`.
        k: the cache of keys, `(B, K, Tk, D)`; or a pool `(blocks, K, block, D)`. H is a multiple of K.
        v: the cache of values, `(B, K, Tk, Dv)`; or a pool `(blocks, K, block, Dv)`.
        lengths: where the valid keys end, `(B,)`, the new ones included; None is at Tk.
        leftpad: where they begin, `(B,)`, in a batch that is padded on the left; None is at 0.
        blocks: the block table `(B, n)`; entries beyond a sequence's length are not looked at.
        causal: whether a query sees no key after its own position. False for cross-attention and for the positions of
            a block that see one another.
        window: how many keys a query sees, itself included (Mistral); or (left, right), so many before and after it,
            as `window(left, right)` has it; None is all.
        bias: `alibi(H)`, `relative(table)` or `t5(...)`, by the distance j − i.
        scale: None is 1/√D.
        softcap: c of softcap(x) = c · tanh(x / c), taken of the scaled score; or None.
        sinks: one logit a head `(H,)`, joined to the softmax's denominator only.
        return_lse: also return the log-sum-exp `(B, H, Tq)`.
        probe: also return the `Statistics` of every row.
        backend: "auto" takes the native core where it can; any other, by name, goes through `attention`, on a copy of
            the blocks, and sequence by sequence where positions that differ matter.

    Returns:
        out `(B, H, Tq, Dv)` in q's type; with lse and statistics, in this order, where asked for.

    Raises:
        ClearheadError: in a sentence, for what does not fit, and where a gradient would be wanted: there is none here.

    >>> import clearhead as ch, torch
    >>> k, v = torch.randn(2, 2, 1024, 64), torch.randn(2, 2, 1024, 64)
    >>> q = torch.randn(2, 8, 1, 64)
    >>> ch.decode(q, k, v, lengths=torch.tensor([700, 35])).shape
    torch.Size([2, 8, 1, 64])
    >>> pool_of_k, pool_of_v = torch.randn(50, 2, 16, 64), torch.randn(50, 2, 16, 64)
    >>> blocks = torch.randperm(50).view(2, 25)
    >>> ch.decode(q, pool_of_k, pool_of_v, blocks=blocks, lengths=torch.tensor([400, 35])).shape
    torch.Size([2, 8, 1, 64])
    """
    q, k, v = autocasted(q, k, v)
    with without_autocast(q):
        seen = _checked(q, k, v, lengths, leftpad, blocks, causal, window, bias, scale, softcap, sinks)
        reason = native.refuses_tensors(q, v) or library.missing()
        if backend == "native" and reason:
            raise ClearheadError(f"backend 'native' can't do this call: {reason}. backend='auto' takes one that can.")
        options: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks}
        if (backend == "native" or (backend == "auto" and not reason)) and not listener():
            out, lse, statistics = _native(q, k, v, seen, blocks, bias, probe, **options)
        else:
            out, lse, statistics = _by_attention(q, k, v, seen, blocks, bias, probe, backend, **options)
    extras = ((lse,) if return_lse else ()) + ((statistics,) if probe else ())
    return (out, *extras) if extras else out


class _Seen(NamedTuple):
    """Sequence b's valid keys are [start[b], stop[b]). A query sees `left` of them before it and `right` after it."""

    start: list[int]
    stop: list[int]
    left: int | None
    right: int | None

    def runs(self, Tq: int) -> tuple[list[int], list[int]]:
        """The keys [start, stop) of every query, sequence after sequence; empty ones are [0, 0)."""
        starts, stops = [], []
        for begin, end in zip(self.start, self.stop, strict=True):
            for i in range(end - Tq, end):
                start = begin if self.left is None else max(begin, i - self.left)
                stop = end if self.right is None else min(end, i + self.right + 1)
                starts.append(start if start < stop else 0)
                stops.append(stop if start < stop else 0)
        return starts, stops


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    leftpad: Tensor | None,
    blocks: Tensor | None,
    causal: bool,
    window: int | tuple[int | None, int | None] | None,
    bias: Bias | None,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> _Seen:
    """Which keys each sequence sees; or a sentence that says what does not fit."""
    if blocks is None:
        B, H, Tq, Tk = check_shapes(q, k, v)
    else:
        check_tensors(q, k, v)
        check_shapes(q[:0], k[:0], v[:0])
        B, H, Tq = q.shape[:3]
        if len(k) != len(v):
            raise ClearheadError(f"k {tuple(k.shape)} and v {tuple(v.shape)} are pools of unlike many blocks.")
        if not is_whole(blocks, 2) or len(blocks) != B:
            raise ClearheadError(
                f"blocks: got {described(blocks)}, expected whole numbers (B, n), n blocks for each of the B = {B} "
                f"sequences of q {tuple(q.shape)}."
            )
        Tk = blocks.shape[1] * k.shape[2]
    if k.shape[-1] != q.shape[-1]:
        raise ClearheadError(f"q has D = {q.shape[-1]} but k has D = {k.shape[-1]}; expected one width.")
    check_options(H, scale, softcap, sinks)
    if isinstance(bias, (Tensor, dense)):
        raise ClearheadError(
            "bias: got one for each pair, expected one by distance: alibi(H), relative(table) or t5(...). "
            "attention() takes the other."
        )
    if not (bias is None or isinstance(bias, Bias)):
        raise ClearheadError(f"bias: got {bias!r}, expected alibi(H), relative(table), t5(...), or None.")
    if bias is not None:
        bias.check(B, H, Tq, Tk)
    tensors = (q, k, v, sinks, *(() if bias is None else bias.weights))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        raise ClearheadError(
            "decode has no gradient, and one of its tensors requires one. Call it under torch.no_grad(), or use "
            "attention(q, k, v, pattern=causal())."
        )
    left, right = _sides(window)
    start, stop = _counts("leftpad", leftpad, B, Tk, 0), _counts("lengths", lengths, B, Tk, Tk)
    if any(map(gt, start, stop)):
        raise ClearheadError(
            f"leftpad: got {start} where the valid keys end at {stop}; expected no sequence to begin after its end."
        )
    if blocks is not None:
        _check_blocks(blocks, start, stop, len(k), k.shape[2])
    return _Seen(start, stop, left, 0 if causal else right)


def _sides(window: int | tuple[int | None, int | None] | None) -> tuple[int | None, int | None]:
    """How many keys before a query are seen, and how many after it; None for all."""
    if window is None:
        return None, None
    if isinstance(window, tuple) and len(window) != 2:
        raise ClearheadError(f"window: got {window!r}, expected a number of keys, or two of them, (left, right).")
    pattern = window_pattern(*window) if isinstance(window, tuple) else window_pattern(window)
    return pattern.left, pattern.right


def _counts(name: str, x: Tensor | None, B: int, Tk: int, all_keys: int) -> list[int]:
    """One number of keys for each sequence; with None, that at which all keys are valid."""
    valid = [all_keys] * B
    if x is None:
        return valid
    if not is_whole(x, 1) or len(x) != B:
        raise ClearheadError(f"{name}: got {described(x)}, expected one whole number a sequence, (B,) = ({B},).")
    if x.is_meta:  # which keys are valid is not known, and changes no shape
        return valid
    counts: list[int] = x.tolist()
    if counts and not 0 <= min(counts) <= max(counts) <= Tk:
        raise ClearheadError(
            f"{name}: got {min(counts)} to {max(counts)}, expected 0 to Tk = {Tk}, the keys that the cache has "
            "room for."
        )
    return counts


def _check_blocks(blocks: Tensor, start: list[int], stop: list[int], pool: int, block: int) -> None:
    """Every block that is read is there."""
    if blocks.is_meta or blocks.numel() == 0 or (0 <= int(blocks.min()) and int(blocks.max()) < pool):
        return
    for b, (row, begin, end) in enumerate(zip(blocks.tolist(), start, stop, strict=True)):
        for n in row[begin // block : -(-end // block)] if begin < end else ():
            if not 0 <= n < pool:
                raise ClearheadError(
                    f"blocks: got block {n} for sequence {b}, which has {end} keys; expected 0 to {pool - 1}, as k "
                    f"holds {pool} blocks of {block} keys."
                )


def _native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: _Seen,
    blocks: Tensor | None,
    bias: Bias | None,
    probe: bool,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor, Statistics | None]:
    """All sequences in one call of the kernel, cache and blocks read where they lie."""
    q, k, v = map(operators.readable, (q, k, v))
    (B, H, Tq, D), (K, block, Dv) = q.shape, v.shape[1:]
    Tk = block if blocks is None else blocks.shape[1] * block
    starts, stops = seen.runs(Tq)
    start, stop, lengths = map(_ints, (starts, stops, seen.stop))
    table = None if bias is None else native.by_distance(bias, bias.weights, Tq, Tk)
    sinks = None if sinks is None else operators.resolved(sinks).float().contiguous()
    out, lse = q.new_empty(B, H, Tq, Dv), torch.empty(B, H, Tq)
    call = library.NativeCall(
        B, H, K, Tq, Tk, D, Dv, operators.TYPES[q.dtype], library.threads(), *map(operators.strided, (q, k, v, out))
    )
    call.runs = library.RunsOf(ctypes.addressof(start), ctypes.addressof(stop), Tq, 0, 1)
    call.past, call.scale, call.softcap = Tk - Tq, Scaled().default_scale(D) if scale is None else scale, softcap or 0.0
    call.lengths, call.lse = ctypes.addressof(lengths), lse.data_ptr()
    if blocks is not None:
        blocks = blocks.int().contiguous()
        call.blocks, call.block, call.blocks_row = blocks.data_ptr(), block, blocks.shape[1]
    if sinks is not None:
        call.sinks = sinks.data_ptr()
    if table is not None:
        operators.point_table(call, table)
    if probe:
        probed = torch.empty(len(operators.PROBES), B, H, Tq)
        peak_at = torch.empty(B, H, Tq, dtype=torch.int32)
        operators.point(call.probe, operators.PROBES, probed)
        call.probe.peak_at = peak_at.data_ptr()
    library.loaded().clearhead_decode(ctypes.byref(call))
    if not probe:
        return out, lse, None
    visible = (
        (torch.tensor(stops, dtype=torch.int64) - torch.tensor(starts, dtype=torch.int64))
        .view(B, 1, Tq)
        .expand(B, H, Tq)
    )
    named = dict(zip(operators.PROBES, probed, strict=True))
    statistics = Statistics(
        lse=lse,
        entropy_normalised=normalised(named["entropy"], visible),
        peak_at=peak_at.long(),
        visible=visible,
        **named,
    )
    return out, lse, statistics


def _ints(numbers: list[int]) -> ctypes.Array[ctypes.c_int32]:
    """An array in C: of a few numbers it is made ten times sooner than a tensor."""
    return (ctypes.c_int32 * len(numbers))(*numbers)


def _by_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: _Seen,
    blocks: Tensor | None,
    bias: Bias | None,
    probe: bool,
    backend: str,
    **options: Any,
) -> tuple[Tensor, Tensor, Statistics | None]:
    """What decode means: for each sequence, attention over its valid keys; in one call where that can be said."""
    options |= {"backend": backend, "return_lse": True, "probe": probe}
    B, Tq, longest = len(q), q.shape[2], max(seen.stop, default=0)
    if blocks is not None:
        k, v = (torch.cat([_gathered(x, row) for row in blocks]) if B else x[:0] for x in (k, v))
    k, v = k[:, :, :longest], v[:, :, :longest]
    if longest == min(seen.stop, default=0):
        pattern: Pattern = window_pattern(seen.left, seen.right)
        if any(seen.start):
            pattern = pattern & ~first(torch.tensor(seen.start, device=q.device))
        made = attention(q, k, v, pattern=pattern, bias=bias, **options)
    elif bias is None and not probe and not listener():
        start, stop = (torch.tensor(x, device=q.device) for x in (seen.start, seen.stop))
        pattern = window_pattern(seen.left, seen.right, align=stop - Tq) & padding(stop) & ~first(start)
        made = attention(q, k, v, pattern=pattern, **options)
    else:  # where a query is counts for the bias and for the statistics
        each = []
        for b in range(B):
            with one_sequence(b, B):
                each.append(_of_one(b, q, k, v, seen, bias, **options))
        out, lse, *statistics = zip(*each, strict=True)
        joined = [
            Statistics(**{name: torch.cat([getattr(s, name) for s in all_]) for name in vars(all_[0])})
            for all_ in statistics
        ]
        made = (torch.cat(out), torch.cat(lse), *joined)
    return made if probe else (*made, None)


def _of_one(b: int, q: Tensor, k: Tensor, v: Tensor, seen: _Seen, bias: Bias | None, **options: Any) -> Any:
    """Attention of one sequence over its valid keys."""
    pattern: Pattern = window_pattern(seen.left, seen.right)
    if seen.start[b]:
        pattern = pattern & ~first(seen.start[b])
    one = slice(b, b + 1)
    k, v = (x[one, :, : seen.stop[b]] for x in (k, v))
    return attention(q[one], k, v, pattern=pattern, bias=None if bias is None else bias.of_sequence(b), **options)


def _gathered(pool: Float[Tensor, "_ K _ D"], blocks: Int[Tensor, " n"]) -> Float[Tensor, "1 K _ D"]:
    """One sequence's blocks, copied one after the other."""
    there = blocks.long().clamp(0, len(pool) - 1)  # those beyond its length may say anything
    return pool[there].movedim(0, 1).flatten(1, 2)[None]
