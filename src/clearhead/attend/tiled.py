"""Backend `tiled`: FlashAttention in plain PyTorch. O(T) memory, empty tiles never touched.

Forward (Dao et al. 2022): for each tile of queries, walk over the tiles of keys that the pattern leaves
visible, keeping a running maximum m, a running sum l and an output, which are rescaled when m grows.
Backward: nothing of the forward's tiles was kept; each tile's weights are made again from lse.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from clearhead.attend.call import Call
from clearhead.attend.dropout import drawn_seed
from clearhead.attend.grouped import expand_product, reduce_product
from clearhead.attend.runs import Runs
from clearhead.attend.statistics import Gatherer, Statistics
from clearhead.errors import ClearheadError


def forward(call: Call, probe: bool) -> tuple[Tensor, Tensor, Statistics | None]:
    """softmax(s) v and its log-sum-exp, one tile at a time."""
    if call.dropout:
        call = replace(call, seed=int(drawn_seed("tiled")))
    out, lse, _, _, *gathered = _Tiled.apply(call, probe, *call.tensors)  # type: ignore[no-untyped-call]
    return out, lse, Statistics(*gathered) if probe else None


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(call: Call, probe: bool, *tensors: Any) -> tuple[Tensor, ...]:
        call = call.with_tensors(*tensors)
        rows_done, counts = [], call.runs.count()
        for rows, pieces in call.runs.tiles(*call.score.tile):
            shape = call.q[:, :, rows].shape[:-1]
            gatherer = Gatherer(shape, call.q.to(call.dtype)) if probe else None
            m = call.q.new_full(shape, -torch.inf, dtype=call.dtype)
            l = torch.zeros_like(m)
            if call.sinks is not None:  # a sink is a key with value 0 that every query has seen already
                m, l = m.maximum(call.sinks[:, None].to(m.dtype)), l + 1
            acc = m.new_zeros(*shape, call.v.shape[-1])
            for columns, whole in pieces:
                s, visible = call.scores(rows, columns), None
                if not whole:
                    visible = call.runs.mask(rows, columns)
                    s = s.masked_fill(~visible, -torch.inf)
                if gatherer is not None:
                    gatherer.add(s, call.rows(rows) + call.past, call.columns(columns))
                grown = torch.maximum(m, s.amax(-1))
                base = grown.masked_fill(grown == -torch.inf, 0)
                p, shrink = torch.exp(s - base[..., None]), torch.exp(m - base)
                m, l = grown, l * shrink + p.sum(-1)
                if call.dropout:
                    p = p * call.keep(rows, columns)
                acc = acc * shrink[..., None] + call.weigh(p, call.v[:, :, columns].to(p.dtype), visible)
            empty = l == 0
            out = acc / l.masked_fill(empty, 1)[..., None]
            lse = (m + l.log()).masked_fill(empty, -torch.inf)
            seen = gatherer.finish(call.sinks, counts[:, :, rows]) if gatherer is not None else {}
            gathered = (seen[f.name] for f in fields(Statistics) if seen)
            rows_done.append((out.to(call.q.dtype), lse, m, l.masked_fill(empty, 1), *gathered))
        return tuple(torch.cat(parts, 2) for parts in zip(*rows_done, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, _, *tensors = inputs
        out, lse, m, l, *gathered = output
        ctx.call = call
        ctx.save_for_backward(out, lse, m, l, *tensors)
        ctx.mark_non_differentiable(m, l, *gathered)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, dlse: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        out, lse, m, l, *tensors = ctx.saved_tensors
        call: Call = ctx.call.with_tensors(*tensors)
        K, dtype = call.k.shape[1], call.dtype
        dout = dout.to(dtype)
        delta = (dout * out.to(dtype)).sum(-1) - dlse  # what the softmax's normalisation takes from every ds
        # Weights are exp(s − m) / l: among scores of 1e9, lse would have lost log l. It is here for its derivative.
        base, lse = (x.masked_fill(x == -torch.inf, 0) for x in (m, lse))
        norm = torch.exp(lse.detach() - lse) / l
        # Made from delta, which under vmap is mapped where anything is.
        dk, dv = delta.new_zeros(call.k.shape), delta.new_zeros(call.v.shape)
        dbias = tuple(delta.new_zeros(w.shape) for w in call.bias_weights)
        dscore = [delta.new_zeros(w.shape) for w in call.score_weights]
        dqs = []
        for rows, pieces in call.runs.tiles(*call.score.tile):
            q, do = call.q[:, :, rows].to(dtype), _narrowed(dout, rows)
            dq = torch.zeros_like(q)
            for columns, whole in pieces:
                p, hidden, pull = _made_again(
                    call, q, rows, columns, whole, base[:, :, rows, None], norm[:, :, rows, None]
                )
                kept = call.keep(rows, columns) if call.dropout else 1
                _narrowed(dv, columns).add_(reduce_product(p * kept, do, K))
                dp = expand_product(do, call.v[:, :, columns].to(dtype).mT)
                ds = p * (dp * kept - _narrowed(delta, rows)[..., None])
                if hidden is not None:  # a hidden value may be NaN, and so may dp
                    ds = ds.masked_fill(hidden, 0)
                dq_piece, dk_piece, *dscore_piece = pull(ds)
                dq = dq + dq_piece
                _narrowed(dk, columns).add_(dk_piece)
                dscore = [total + piece for total, piece in zip(dscore, dscore_piece, strict=True)]
                if call.bias is not None:
                    call.bias.add_gradient(dbias, call.rows(rows), call.columns(columns), call.past, ds)
            dqs.append(dq)
        dsinks = None
        if call.sinks is not None:
            dsinks = (torch.exp(call.sinks[:, None].to(dtype) - base) * norm * -delta).sum((0, 2))
        grads = (torch.cat(dqs, 2), dk, dv, dsinks, *dbias, *dscore)
        cast = (None if t is None else g.to(t.dtype) for g, t in zip(grads, call.tensors, strict=True))
        return None, None, *cast

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], call: Call, probe: bool, *tensors: Any) -> Any:
        """A mapped dimension of q, k and v is more batch."""
        qkv, rest, dims = tensors[:3], tensors[3:], in_dims[2:]
        by_batch = any(w is not None and w.dim() == 4 and w.shape[0] > 1 for w in rest)
        if by_batch or any(d is not None for d in dims[3:]):
            raise ClearheadError(
                "backend 'tiled' maps q, k and v by vmap, but not sinks, learned biases, score weights or a bias that "
                "differs by batch; use backend='reference' for those."
            )
        n = info.batch_size
        folded = [
            (t.expand(n, *t.shape) if d is None else t.movedim(d, 0)).flatten(0, 1)
            for t, d in zip(qkv, dims, strict=False)
        ]
        start, stop = (
            side if side.shape[0] == 1 else side.expand(n, *side.shape).flatten(0, 1)
            for side in (call.runs.start, call.runs.stop)
        )
        wide = replace(call, runs=Runs(start, stop, call.runs.keys))
        outputs = _Tiled.apply(wide, probe, *folded, *rest)  # type: ignore[no-untyped-call]
        return tuple(t.unflatten(0, (n, -1)) for t in outputs), tuple(0 for _ in outputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise ClearheadError(
            "backend 'tiled' has no forward-mode derivative, which would need every tile twice; "
            "use backend='reference'."
        )


def _narrowed(x: Tensor, rows: slice) -> Tensor:
    """x[:, :, rows], also where a gradient of many outputs is batched (is_grads_batched), which takes no slices."""
    return x.narrow(2, rows.start, rows.stop - rows.start)


def _made_again(
    call: Call, q: Tensor, rows: slice, columns: slice, whole: bool, base: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor | None, Callable[[Tensor], tuple[Tensor, ...]]]:
    """A tile's weights, what the pattern hides of it, and what takes its ds to dq, dk and the score's weights."""
    k = call.k[:, :, columns].to(call.dtype)
    s, pull = torch.func.vjp(call.content, q, k, *call.score_weights)  # type: ignore[misc]  # no third without aux
    if call.bias is not None:
        s = s + call.bias.at(call.rows(rows), call.columns(columns), call.past, *call.bias_weights).to(s.dtype)
    p = torch.exp(s - base) * norm
    hidden = None if whole else ~call.runs.mask(rows, columns)
    return p if hidden is None else p.masked_fill(hidden, 0), hidden, pull


def work(call: Call) -> tuple[int, int]:
    """How many pairs are scored, and the most at a time, over all batches and heads."""
    B, H = call.q.shape[:2]
    tiles = [
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, pieces in call.runs.tiles(*call.score.tile)
        for columns, _ in pieces
    ]
    return B * H * sum(tiles), B * H * max(tiles, default=0)


def refuses(call: Call) -> str | None:
    """Why this backend can't take the call, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile can't trace its list of tiles, which the pattern's values decide in Python"
    if call.q.is_meta:
        return "which of its tiles are empty is not known on the meta device"
    if call.in_forward_mode:
        return "it has no forward-mode derivative, which would need every tile twice"
    return None
