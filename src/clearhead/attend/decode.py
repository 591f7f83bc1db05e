"""decode(): a few new queries against a cache of keys and values, which may be longer than what is valid, or paged."""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.attend import library, native, operators
from clearhead.attend.api import attention, autocasted, check_shapes, check_strided, without_autocast
from clearhead.attend.biases import Bias, dense
from clearhead.attend.heard import listener
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import Align, causal, padding
from clearhead.attend.patterns import window as window_of
from clearhead.attend.statistics import Statistics, normalised
from clearhead.errors import ClearheadError


def decode(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "_ K _ D"],
    v: Float[Tensor, "_ K _ Dv"],
    *,
    lengths: Int[Tensor, " B"] | None = None,
    blocks: Int[Tensor, "B n"] | None = None,
    window: int | None = None,
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
    sees the keys up to i, or the last `window` of them. What the cache holds beyond is never read. So a sequence gives
    what `attention(q, k, v, pattern=causal())` gives on its valid keys alone; with probe=, distances count from i.

    A paged cache (Kwon et al. 2023) is read in place: k and v are pools of blocks, and key j of sequence b is
    k[blocks[b, j // block], :, j % block]. A pool of another order, such as vLLM's (blocks, block, K, D), is passed by
    a view: `pool.transpose(1, 2)`.

    Args:
        q: queries `(B, H, Tq, D)`.
        k: the cache of keys, `(B, K, Tk, D)`; or a pool `(blocks, K, block, D)`. H is a multiple of K.
        v: the cache of values, `(B, K, Tk, Dv)`; or a pool `(blocks, K, block, Dv)`.
        lengths: how many keys are valid, `(B,)`, the new ones included; None is all Tk.
        blocks: the block table `(B, n)`; entries beyond a sequence's length are not looked at.
        window: how many keys a query sees, itself included (Mistral); None is all up to itself.
        bias: `alibi(H)`, `relative(table)` or `t5(...)`, by the distance j − i.
        scale: None is 1/√D.
        softcap: c of softcap(x) = c · tanh(x / c), taken of the scaled score; or None.
        sinks: one logit a head `(H,)`, joined to the softmax's denominator only.
        return_lse: also return the log-sum-exp `(B, H, Tq)`.
        probe: also return the `Statistics` of every row.
        backend: "auto" takes the native core where it can; any other, by name, goes through `attention`, sequence by
            sequence, on a copy of the blocks.

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
        valid = _checked(q, k, v, lengths, blocks, window, bias, softcap, sinks)
        reason = native.refuses_tensors(q, v) or library.missing()
        if backend == "native" and reason:
            raise ClearheadError(f"backend 'native' can't do this call: {reason}. backend='auto' takes one that can.")
        options: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks}
        if (backend == "native" or (backend == "auto" and not reason)) and not listener():
            out, lse, statistics = _native(q, k, v, valid, blocks, window, bias, probe, **options)
        else:
            out, lse, statistics = _by_attention(q, k, v, valid, blocks, window, bias, probe, backend, **options)
    extras = ((lse,) if return_lse else ()) + ((statistics,) if probe else ())
    return (out, *extras) if extras else out


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    blocks: Tensor | None,
    window: int | None,
    bias: Bias | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> list[int]:
    """How many keys of each sequence are valid; or a sentence that says what does not fit."""
    check_strided("q", q)
    B, H, Tq = q.shape[:3]
    if blocks is None:
        check_shapes(q, k, v)
        Tk = k.shape[2]
    else:
        check_shapes(q[:0], k[:0], v[:0])
        if len(k) != len(v):
            raise ClearheadError(f"k {tuple(k.shape)} and v {tuple(v.shape)} are pools of unlike many blocks.")
        if blocks.shape[:1] != (B,) or blocks.dim() != 2 or blocks.is_floating_point():
            raise ClearheadError(
                f"blocks: got {blocks.dtype} of shape {tuple(blocks.shape)}, expected whole numbers (B, n), n blocks "
                f"for each of the B = {B} sequences of q {tuple(q.shape)}."
            )
        Tk = blocks.shape[1] * k.shape[2]
    if k.shape[-1] != q.shape[-1]:
        raise ClearheadError(f"q has D = {q.shape[-1]} but k has D = {k.shape[-1]}; expected one width.")
    if window is not None and window < 1:
        raise ClearheadError(f"window: got {window}; it counts the query itself, so expected at least 1, or None.")
    if softcap is not None and not softcap > 0:
        raise ClearheadError(f"softcap: got {softcap!r}, expected a number above 0, or None for no cap.")
    if sinks is not None and sinks.shape != (H,):
        raise ClearheadError(f"sinks: got shape {tuple(sinks.shape)}, expected one logit a head, (H,) = ({H},).")
    if isinstance(bias, (Tensor, dense)):
        raise ClearheadError(
            "bias: got one for each pair, expected one by distance: alibi(H), relative(table) or t5(...). "
            "attention() takes the other."
        )
    if bias is not None:
        bias.check(B, H, Tq, Tk)
    tensors = (q, k, v, sinks, *(() if bias is None else bias.weights))
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        raise ClearheadError(
            "decode has no gradient, and one of its tensors requires one. Call it under torch.no_grad(), or use "
            "attention(q, k, v, pattern=causal())."
        )
    valid = _valid(lengths, B, Tk)
    if blocks is not None:
        _check_blocks(blocks, valid, len(k), k.shape[2])
    return valid


def _valid(lengths: Tensor | None, B: int, Tk: int) -> list[int]:
    if lengths is None:
        return [Tk] * B
    if lengths.shape != (B,) or lengths.is_floating_point():
        raise ClearheadError(
            f"lengths: got {lengths.dtype} of shape {tuple(lengths.shape)}, expected one whole number a sequence, "
            f"(B,) = ({B},)."
        )
    if lengths.is_meta:  # how many are valid is not known, and changes no shape
        return [Tk] * B
    valid: list[int] = lengths.tolist()
    if valid and not 0 <= min(valid) <= max(valid) <= Tk:
        raise ClearheadError(
            f"lengths: got {min(valid)} to {max(valid)}, expected 0 to Tk = {Tk}, the keys that the cache has room for."
        )
    return valid


def _check_blocks(blocks: Tensor, valid: list[int], pool: int, block: int) -> None:
    """Every block that is read is there."""
    if blocks.is_meta or blocks.numel() == 0 or (0 <= int(blocks.min()) and int(blocks.max()) < pool):
        return
    for b, (row, length) in enumerate(zip(blocks.tolist(), valid, strict=True)):
        for n in row[: -(-length // block)]:
            if not 0 <= n < pool:
                raise ClearheadError(
                    f"blocks: got block {n} for sequence {b}, which has {length} keys; expected 0 to {pool - 1}, as k "
                    f"holds {pool} blocks of {block} keys."
                )


def _native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: list[int],
    blocks: Tensor | None,
    window: int | None,
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
    stops = [max(length - Tq + r + 1, 0) for length in valid for r in range(Tq)]
    starts = [max(0, s - (window or s)) for s in stops]
    start, stop, lengths = (_ints(x) for x in (starts, stops, valid))
    table = None if bias is None else native.by_distance(bias, bias.weights, Tq, Tk)
    sinks = None if sinks is None else operators.resolved(sinks).float().contiguous()
    out, lse = q.new_empty(B, H, Tq, Dv), torch.empty(B, H, Tq)
    call = library.NativeCall(
        B, H, K, Tq, Tk, D, Dv, operators.TYPES[q.dtype], library.threads(), *map(operators.strided, (q, k, v, out))
    )
    call.runs = library.RunsOf(ctypes.addressof(start), ctypes.addressof(stop), Tq, 0, 1)
    call.past, call.scale, call.softcap = Tk - Tq, D**-0.5 if scale is None else scale, softcap or 0.0
    call.lengths, call.lse = ctypes.addressof(lengths), lse.data_ptr()
    if blocks is not None:
        blocks = blocks.int().contiguous()
        call.blocks, call.block, call.blocks_row = blocks.data_ptr(), block, blocks.shape[1]
    if sinks is not None:
        call.sinks = sinks.data_ptr()
    if table is not None:
        call.bias.table, call.bias.head = table.data_ptr(), operators.shared_strides(table)[0]
    if probe:
        seen = torch.empty(len(operators.PROBES), B, H, Tq)
        peak_at = torch.empty(B, H, Tq, dtype=torch.int32)
        operators.point(call.probe, operators.PROBES, seen)
        call.probe.peak_at = peak_at.data_ptr()
    library.loaded().clearhead_decode(ctypes.byref(call))
    if not probe:
        return out, lse, None
    visible = (
        (torch.tensor(stops, dtype=torch.int64) - torch.tensor(starts, dtype=torch.int64))
        .view(B, 1, Tq)
        .expand(B, H, Tq)
    )
    named = dict(zip(operators.PROBES, seen, strict=True))
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
    valid: list[int],
    blocks: Tensor | None,
    window: int | None,
    bias: Bias | None,
    probe: bool,
    backend: str,
    **options: Any,
) -> tuple[Tensor, Tensor, Statistics | None]:
    """What decode means: for each sequence, attention over its valid keys; in one call where that can be said."""
    options |= {"bias": bias, "backend": backend, "return_lse": True, "probe": probe}
    B, Tq, longest = len(q), q.shape[2], max(valid, default=0)
    if blocks is not None:
        k, v = (torch.cat([_gathered(x, row) for row in blocks]) if B else x[:0] for x in (k, v))
    k, v = k[:, :, :longest], v[:, :, :longest]
    if longest == min(valid, default=0):
        made = attention(q, k, v, pattern=_looking_back(window), **options)
    elif bias is None and min(valid) >= Tq:
        lengths = torch.tensor(valid, device=q.device)
        made = attention(q, k, v, pattern=_looking_back(window, lengths - Tq) & padding(lengths), **options)
    else:
        pattern = _looking_back(window)
        each = [
            attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], pattern=pattern, **options)
            for b, n in enumerate(valid)
        ]
        out, lse, *statistics = zip(*each, strict=True)
        joined = [
            Statistics(**{name: torch.cat([getattr(s, name) for s in all_]) for name in vars(all_[0])})
            for all_ in statistics
        ]
        made = (torch.cat(out), torch.cat(lse), *joined)
    return made if probe else (*made, None)


def _looking_back(window: int | None, start: Tensor | None = None) -> Pattern:
    """Each query sees the keys up to itself, or the last `window` of them; query 0 is at `start`."""
    align: Align = "end" if start is None else start
    return causal(align) if window is None else window_of(window, align=align)


def _gathered(pool: Float[Tensor, "_ K _ D"], blocks: Int[Tensor, " n"]) -> Float[Tensor, "1 K _ D"]:
    """One sequence's blocks, copied one after the other."""
    there = blocks.long().clamp(0, len(pool) - 1)  # those beyond its length may say anything
    return pool[there].movedim(0, 1).flatten(1, 2)[None]
