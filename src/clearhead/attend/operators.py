"""The native kernels as PyTorch operators: with fake kernels and gradients, one node each under torch.compile."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.utils.flop_counter import register_flop_formula

from clearhead.attend import library
from clearhead.attend.library import NativeCall, Strided
from clearhead.errors import ClearheadError

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""kernels/call.h: Type."""

Arguments = tuple[Any, ...]
"""What every operator begins with: q, k, v, sinks, table, pairs, start, stop, queries, seed, past, scale, softcap,
dropout."""

ROWS = ("lse", "top", "sum")
"""Weights are exp(s − top) / sum, exact among huge scores too, where s − lse would have lost log(sum)."""
PROBES = ("entropy", "peak", "distance", "max_score")
"""The statistics that are floats; `peak_at` is not."""


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    table: Tensor | None,
    pairs: Tensor | None,
    start: Tensor,
    stop: Tensor,
    queries: Tensor,
    seed: Tensor | None,
    past: int,
    scale: float,
    softcap: float,
    dropout: float,
    probe: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out; the rows of ROWS in one tensor; those of PROBES likewise, and peak_at, both empty where not asked for."""
    out, rows, seen, peak_at = made = _outputs(q, v, probe)
    native, _kept = lowered(q, k, v, sinks, table, pairs, start, stop, queries, seed, past, scale, softcap, dropout)
    native.out = strided(out)
    point(native, ROWS, rows)
    if probe:
        point(native.probe, PROBES, seen)
        native.probe.peak_at = peak_at.data_ptr()
    library.loaded().clearhead_forward(ctypes.byref(native))
    return made


attend = torch.library.custom_op("clearhead::attend", _attend, mutates_args=())


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _outputs(q, v, probe=rest[-1])


def _outputs(q: Tensor, v: Tensor, probe: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, H, Tq, _ = q.shape
    probed = (B, H, Tq) if probe else (0, 0, 0)
    return (
        q.new_empty(B, Tq, H, v.shape[-1]).transpose(1, 2),  # as models go on with it
        q.new_empty(len(ROWS), B, H, Tq, dtype=torch.float32),
        q.new_empty(len(PROBES), *probed, dtype=torch.float32),
        q.new_empty(probed, dtype=torch.int32),
    )


@torch.library.custom_op("clearhead::attend_backward", mutates_args=())
def attend_backward(
    dout: Tensor,
    drows: Tensor,
    out: Tensor,
    rows: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    table: Tensor | None,
    pairs: Tensor | None,
    start: Tensor,
    stop: Tensor,
    queries: Tensor,
    seed: Tensor | None,
    past: int,
    scale: float,
    softcap: float,
    dropout: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, sinks, table and pairs, empty where not wanted."""
    made = _gradients((q, k, v, sinks, table, pairs), wanted)
    native, _kept = lowered(q, k, v, sinks, table, pairs, start, stop, queries, seed, past, scale, softcap, dropout)
    dout = dout if dout.stride(-1) == 1 else dout.contiguous()
    dlse, rows = drows[0].contiguous(), rows.contiguous()
    native.dout, native.dlse, native.out = strided(dout), dlse.data_ptr(), strided(out)
    point(native, ROWS, rows)
    for name, x, want in zip(("dq", "dk", "dv", "dsinks", "dtable", "ddense"), made, wanted, strict=True):
        if want:
            setattr(native, name, strided(x) if name in ("dq", "dk", "dv") else x.data_ptr())
    library.loaded().clearhead_backward(ctypes.byref(native))
    return made


@attend_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    return _gradients(arguments[4:10], arguments[-1])


def _gradients(tensors: tuple[Tensor | None, ...], wanted: list[bool]) -> tuple[Any, ...]:
    q = tensors[0]
    assert q is not None
    return tuple(
        (q.new_empty(x.shape) if n < 3 else q.new_zeros(x.shape, dtype=torch.float32))
        if want and x is not None
        else q.new_empty(0)
        for n, (x, want) in enumerate(zip(tensors, wanted, strict=True))
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (ctx.past, ctx.scale, ctx.softcap, ctx.dropout, _) = inputs[:10], inputs[10:]
    ctx.save_for_backward(*output[:2], *tensors)
    ctx.mark_non_differentiable(*output[2:])


def _pull(ctx: Any, dout: Tensor, drows: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    out, rows, *tensors = ctx.saved_tensors
    wanted = [tensors[n] is not None and ctx.needs_input_grad[n] for n in range(6)]
    backward: Callable[..., tuple[Tensor, ...]] = _AttendBackward.apply if _is_transformed() else attend_backward
    made = backward(dout, drows, out, rows, *tensors, ctx.past, ctx.scale, ctx.softcap, ctx.dropout, wanted)
    cast = (x.to(of.dtype) if want else None for x, of, want in zip(made, tensors[:6], wanted, strict=True))
    return *cast, *(None,) * 9


def _no_second_derivative(ctx: Any, *_: Tensor) -> NoReturn:
    raise ClearheadError("backend 'native' has no second derivative; use backend='tiled' or backend='reference'.")


attend.register_autograd(_pull, setup_context=_keep)
attend_backward.register_autograd(_no_second_derivative)


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


BATCH = (0, 1, 1, 0)
"""Which dimension of each output of `attend` is the batch."""


class _Attend(torch.autograd.Function):
    """The operator for torch.func's transforms, which do not take the autograd of an operator."""

    generate_vmap_rule = True
    forward, setup_context, backward = staticmethod(attend), staticmethod(_keep), staticmethod(_pull)


class _AttendBackward(torch.autograd.Function):
    """Its gradient, likewise."""

    generate_vmap_rule = True
    forward, setup_context = staticmethod(attend_backward), staticmethod(_keep_nothing)
    backward = staticmethod(_no_second_derivative)


def _is_transformed() -> bool:
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def attended(*arguments: Any) -> tuple[Tensor, ...]:
    """`attend`, also under torch.func.grad and its like; without the dispatcher's 20 µs where nobody looks."""
    operator: Callable[..., tuple[Tensor, ...]] = attend
    if _is_transformed():
        operator = _Attend.apply
    elif not _is_looked_at(arguments):
        operator = _attend
    return operator(*arguments)


def _is_looked_at(arguments: tuple[Any, ...]) -> bool:
    """Whether an operator does more than its function: for a gradient, a compiler, a mode, a trace or a profile."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch.autograd.profiler._is_profiler_enabled
        or any(_wants_more(x) for x in arguments if isinstance(x, Tensor))
    )


def _wants_more(x: Tensor) -> bool:
    return type(x) not in (Tensor, Parameter) or (x.requires_grad and torch.is_grad_enabled())


@attend.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    made = attend(*_folded(info.batch_size, in_dims, arguments, first=0))
    return tuple(x.unflatten(at, (info.batch_size, -1)) for x, at in zip(made, BATCH, strict=True)), BATCH


@attend_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    n, mapped_forward = info.batch_size, any(dim is not None for dim in in_dims[4:7])
    if arguments[13] is not None and not mapped_forward:  # a larger batch would drop other weights than the forward did
        each = [attend_backward(dout, drows, *arguments[2:]) for dout, drows in _unbound(n, in_dims, arguments[:2])]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])
    made = attend_backward(*_folded(n, in_dims, arguments, first=4))
    return tuple(x.unflatten(0, (n, -1)) for x in made), (0,) * len(made)


def _unbound(n: int, in_dims: tuple[Any, ...], tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The tensors of each of n mapped calls."""
    parts = ([x] * n if dim is None else x.unbind(dim) for x, dim in zip(tensors, in_dims, strict=False))
    return zip(*parts, strict=True)


def _folded(n: int, in_dims: tuple[Any, ...], arguments: tuple[Any, ...], first: int) -> list[Any]:
    """The arguments of a mapped call: the mapped dimension of what has a batch is more batch. q is the `first`."""
    folded = list(arguments)
    batch_at = {**dict.fromkeys(range(first + 3), 0), **({1: 1, 3: 1} if first else {})}  # rows and their gradient
    runs = (first + 6, first + 7)
    for at, (x, dim) in enumerate(zip(arguments, in_dims, strict=True)):
        if at in batch_at:
            to = batch_at[at]
            wide = x.unsqueeze(to).expand(*x.shape[:to], n, *x.shape[to:]) if dim is None else x.movedim(dim, to)
            folded[at] = wide.flatten(to, to + 1)
        elif at in runs:
            folded[at] = x if x.shape[0] == 1 else x.expand(n, *x.shape).flatten(0, 1)
        elif isinstance(x, Tensor) and (dim is not None or (x.dim() > 2 and x.shape[0] > 1)):
            raise ClearheadError(
                "backend 'native' maps q, k and v by vmap, but not sinks, learned biases or a bias that differs by "
                "batch; use backend='reference' for those."
            )
    return folded


@register_flop_formula([torch.ops.clearhead.attend], get_raw=True)
def _(*arguments: Any, out_val: Any) -> int:
    """Of the two products, over the pairs that the kernel visits."""
    q, v = arguments[0], arguments[2]
    return 2 * int(q.shape[-1] + v.shape[-1]) * work(*arguments[:14])[0]


def work(*arguments: Any) -> tuple[int, int]:
    """How many pairs the forward scores, and the most at a time."""
    native, _kept = lowered(*arguments)
    native_library = library.loaded()
    return native_library.clearhead_work(ctypes.byref(native)), native.threads * native_library.clearhead_tile()


def lowered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    table: Tensor | None,
    pairs: Tensor | None,
    start: Tensor,
    stop: Tensor,
    queries: Tensor,
    seed: Tensor | None,
    past: int,
    scale: float,
    softcap: float,
    dropout: float,
) -> tuple[NativeCall, tuple[Tensor | None, ...]]:
    """The call in C, and the tensors that it points into, to be kept while it is used."""
    (B, H, Tq, D), (K, Tk, Dv) = q.shape, v.shape[1:]
    start, stop = start.contiguous(), stop.contiguous()
    sinks = None if sinks is None else sinks.float().contiguous()
    native = NativeCall(B, H, K, Tq, Tk, D, Dv, TYPES[q.dtype], library.threads(), strided(q), strided(k), strided(v))
    native.runs.start, native.runs.stop, native.runs.R = start.data_ptr(), stop.data_ptr(), start.shape[-1]
    native.runs.batch, native.runs.head = shared_strides(start)[:2]
    native.queries, native.past = queries.data_ptr(), past
    native.scale, native.softcap, native.dropout = scale, softcap, dropout
    if seed is not None:
        native.seed = int(seed)
    if sinks is not None:
        native.sinks = sinks.data_ptr()
    if table is not None:
        point_table(native, table)
    if pairs is not None:
        native.bias.dense, native.bias.type = pairs.data_ptr(), TYPES[pairs.dtype]
        native.bias.batch, native.bias.dense_head, native.bias.row, native.bias.column = shared_strides(pairs)
    return native, (q, k, v, sinks, table, pairs, start, stop, queries)


def readable(x: Tensor) -> Tensor:
    """x as the kernels can read it: what it means stands in memory, its last dimension contiguous."""
    x = resolved(x)
    return x if x.stride(-1) == 1 else x.contiguous()


def resolved(x: Tensor) -> Tensor:
    """x with its numbers in memory: without PyTorch's negative bit, and no zeros that were never written."""
    if torch.compiler.is_compiling():  # the operator's own dispatch resolves them
        return x
    return x.clone() if x._is_zerotensor() else x.resolve_neg()


def point(to: ctypes.Structure, names: tuple[str, ...], rows: Tensor) -> None:
    """Points the fields of these names at the first, second, … part of a contiguous tensor."""
    bytes_of_each = rows[0].numel() * rows.element_size()
    for n, name in enumerate(names):
        setattr(to, name, rows.data_ptr() + n * bytes_of_each)


def point_table(native: NativeCall, table: Tensor) -> None:
    """Points the call at a bias by distance, `(B or 1, H or 1, Tq + Tk − 1)`."""
    native.bias.table, (native.bias.table_batch, native.bias.head, _) = table.data_ptr(), shared_strides(table)


def strided(x: Tensor) -> Strided:
    """A tensor of four dimensions, the last of them contiguous."""
    batch, head, row, _ = x.stride()
    return Strided(x.data_ptr(), batch, head, row)


def shared_strides(x: Tensor) -> list[int]:
    """The strides, 0 along what has size 1 and so is shared."""
    return [stride if size > 1 else 0 for stride, size in zip(x.stride(), x.shape, strict=True)]
