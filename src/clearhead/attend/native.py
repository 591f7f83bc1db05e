"""Backend `native`: the C++ kernels of kernels/, on the CPU. O(T) memory, empty tiles never touched."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.attend import library, operators
from clearhead.attend.biases import Bias, dense
from clearhead.attend.call import Call
from clearhead.attend.dropout import drawn_seed
from clearhead.attend.scores import Dot
from clearhead.attend.statistics import Statistics, normalised

WIDEST = 512
"""The widest head that the kernels' memory is made for."""


def forward(call: Call, probe: bool) -> tuple[Tensor, Tensor, Statistics | None]:
    """softmax(s) v and its log-sum-exp, in one pass of a kernel; the statistics in the same pass."""
    out, rows, seen, peak_at = operators.attended(*arguments(call), probe)
    lse = rows[0]
    return out, lse, _statistics(call, lse, seen, peak_at) if probe else None


def arguments(call: Call) -> operators.Arguments:
    """The call as the operators take it: tensors and numbers."""
    table, pairs = bias_tensors(call)
    return (
        *map(operators.readable, (call.q, call.k, call.v)),
        *(x if x is None else operators.resolved(x) for x in (call.sinks, table, pairs)),
        call.runs.start,
        call.runs.stop,
        call.queries,
        drawn_seed("native") if call.dropout else None,
        call.past,
        call.scale,
        call.softcap or 0.0,
        call.dropout,
    )


def bias_tensors(call: Call) -> tuple[Tensor | None, Tensor | None]:
    """The bias by distance, `(B or 1, H or 1, Tq + Tk − 1)` with entry i − j + Tk − 1, or by pair, four dimensions.

    Made of the bias's own tensors by PyTorch, which takes the gradient back to them.
    """
    if call.bias is None:
        return None, None
    if isinstance(call.bias, dense):
        (pairs,) = call.bias_weights
        for dim, (stride, size) in enumerate(zip(pairs.stride(), pairs.shape, strict=True)):
            if stride == 0 and size > 1:  # expanded: its gradient is one sum
                pairs = pairs.narrow(dim, 0, 1)
        return None, pairs if pairs.dtype in operators.TYPES else pairs.float()
    Tk = call.k.shape[2]
    return by_distance(call.bias, call.bias_weights, Tk - call.past, Tk), None


def by_distance(bias: Bias, weights: tuple[Tensor, ...], Tq: int, Tk: int) -> Float[Tensor, "B H N"]:
    """A bias that depends on the distance alone, as a table: entry i − j + Tk − 1, of each head or one for all."""
    behind = torch.arange(max(Tq + Tk - 1, 0)) - (Tk - 1)
    return bias.at(behind, torch.zeros_like(behind), Tk - Tq, *weights).float().contiguous()


def _statistics(call: Call, lse: Tensor, seen: Tensor, peak_at: Tensor) -> Statistics:
    visible = call.runs.count().expand(lse.shape)
    named = dict(zip(operators.PROBES, seen, strict=True))
    return Statistics(
        lse=lse.detach(),
        entropy_normalised=normalised(named["entropy"], visible),
        peak_at=peak_at.long(),
        visible=visible,
        **named,
    )


def work(call: Call) -> tuple[int, int]:
    """How many pairs are scored, and the most at a time, over all batches and heads."""
    return operators.work(*arguments(call))


def refuses(call: Call) -> str | None:
    """Why this backend can't take the call, or None."""
    return library.missing() or refuses_built(call)


def refuses_built(call: Call) -> str | None:
    """Why this backend can't take the call even where its library is built, or None."""
    return refuses_tensors(call.q, call.v) or next(_obstacles(call), None)


def _obstacles(call: Call) -> Iterator[str]:
    D = call.q.shape[-1]
    if not isinstance(call.score, Dot):
        yield f"its kernels score by dot products, and the score is {type(call.score).__name__}"
    elif D != call.k.shape[-1]:
        yield f"a dot product needs queries and keys of one width: got D = {D} in q, {call.k.shape[-1]} in k"
    if call.in_forward_mode:
        yield "it has no forward-mode derivative"
    elif call.in_second_reverse_mode:
        yield "it has no second derivative"


def refuses_tensors(q: Tensor, v: Tensor) -> str | None:
    """Why no kernel takes these tensors, or None."""
    D, Dv = q.shape[-1], v.shape[-1]
    if q.device.type != "cpu":
        return f"its kernels run on the CPU, and q is on {q.device}"
    if v.shape[1] == 0:
        return "k and v have no heads, among which its kernels divide those of q"
    if q.dtype not in operators.TYPES:
        return f"its kernels compute in float32, and q is {q.dtype}"
    if max(D, Dv) > WIDEST:
        return f"its kernels take heads up to {WIDEST} wide, and D = {D}, Dv = {Dv}"
    return None
