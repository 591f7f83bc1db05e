"""explain(): what a call of attention() does: its backend, its work, its memory and its error."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clearhead.attend import reference
from clearhead.attend.api import autocasted, checked, without_autocast
from clearhead.attend.backends import BACKENDS, choose
from clearhead.attend.call import Call
from clearhead.attend.scores import Additive
from clearhead.errors import ClearheadError

SAMPLE = 16
"""How many query rows are computed again in float64."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a call does. Pairs, FLOPs and bytes are of the forward pass, over all batches and heads."""

    call: str
    """The shapes, the type and the device."""
    backend: str
    passed_over: dict[str, str]
    """The other backends, each with the reason why it was not taken."""
    pairs: int
    """(query, key) pairs in all: B · H · Tq · Tk."""
    visible: int
    """Pairs that the pattern shows."""
    visited: int
    """Pairs that the backend scores: the visible ones, and others that share a tile with them."""
    flops: int
    """Of the two products, q kᵀ and w v, over the visited pairs: 2 (D + Dv) each; for Additive with A for D."""
    input_bytes: int
    output_bytes: int
    """Of out, and of the log-sum-exp and the statistics where asked for."""
    workspace_bytes: int
    """Of the scores and the weights that the backend holds at a time."""
    error: float
    """The largest |out − out in float64| on the sampled rows, of the same inputs, without dropout."""
    sampled: int
    """How many query rows were sampled, evenly spread."""

    @property
    def skipped(self) -> int:
        """Pairs that the backend never touches."""
        return self.pairs - self.visited

    def __repr__(self) -> str:
        rows = [
            ("attention", self.call),
            ("backend", self.backend),
            *(("passed over", f"{name}: {reason}") for name, reason in self.passed_over.items()),
            ("pairs", f"{self.pairs:,}"),
            ("  visible", f"{self.visible:,} ({_share(self.visible, self.pairs)})"),
            ("  visited", f"{self.visited:,} ({_share(self.visited, self.pairs)})"),
            ("  skipped", f"{self.skipped:,} ({_share(self.skipped, self.pairs)})"),
            ("FLOPs", f"{self.flops:,}"),
            ("bytes", f"{self.input_bytes:,} in, {self.output_bytes:,} out, {self.workspace_bytes:,} of workspace"),
            ("error", f"{self.error:.1e} at most, against float64 on {self.sampled} of the queries"),
        ]
        return "\n".join(f"{name:<12} {value}" for name, value in rows)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    backend: str = "auto",
    return_lse: bool = False,
    probe: bool = False,
    **options: Any,
) -> Explanation:
    """What `attention` does with the same arguments; only a sample of the rows is computed.

    Raises:
        ClearheadError: where `attention` does: arguments that do not fit, or a backend asked for by name that
            can't do the call, with the reason.

    >>> import clearhead as ch, torch
    >>> q, k, v = torch.randn(1, 8, 512, 64), torch.randn(1, 2, 512, 64), torch.randn(1, 2, 512, 64)
    >>> ch.explain(q, k, v, pattern=ch.causal() & ch.window(64))
    attention    B 1, H 8, K 2, Tq 512, Tk 512, D 64, Dv 64, float32 on cpu
    backend      native
    passed over  tiled: would do, but comes after native
    passed over  reference: would do, but comes after native
    pairs        2,097,152
      visible    246,016 (12 %)
      visited    ...
      skipped    ...
    FLOPs        ...
    bytes        1,572,864 in, 1,048,576 out, ... of workspace
    error        ... at most, against float64 on 16 of the queries
    """
    if q.is_meta:
        raise ClearheadError("explain measures an error, and on the meta device there are no values to measure it on.")
    q, k, v = autocasted(q, k, v)
    with without_autocast(q), torch.no_grad():
        return _explained(checked(q, k, v, **options), backend, return_lse, probe)


def _explained(call: Call, backend: str, return_lse: bool, probe: bool) -> Explanation:
    module = choose(call, backend)
    taken = next(name for name, one in BACKENDS.items() if one is module)
    others = (name for name in BACKENDS if name != taken)
    (B, H, Tq, D), (K, Tk, Dv) = call.q.shape, call.v.shape[1:]
    visited, held = module.work(call)
    rows = torch.linspace(0, max(Tq - 1, 0), min(Tq, SAMPLE), device=call.q.device).long()
    sample = replace(call.take(rows), dropout=0.0)
    out, lse, statistics = module.forward(sample, probe)
    made = [out, *([lse] if return_lse else []), *(vars(statistics).values() if statistics else [])]
    width = call.score.weights[-1].shape[0] if isinstance(call.score, Additive) else D
    return Explanation(
        call=f"B {B}, H {H}, K {K}, Tq {Tq}, Tk {Tk}, D {D}, Dv {Dv}, {str(call.q.dtype)[6:]} on {call.q.device}",
        backend=taken,
        passed_over={name: _why_not(call, name, taken, backend) for name in others},
        pairs=B * H * Tq * Tk,
        visible=int(call.runs.count().expand(B, H, Tq).sum(dtype=torch.int64)),
        visited=visited,
        flops=2 * (width + Dv) * visited,
        input_bytes=_bytes(*call.tensors),
        output_bytes=_bytes(*made) * Tq // max(len(rows), 1),
        workspace_bytes=2 * held * call.dtype.itemsize,
        error=_error(sample, out),
        sampled=len(rows),
    )


def _why_not(call: Call, name: str, taken: str, asked: str) -> str:
    reason: str | None = BACKENDS[name].refuses(call)
    if reason is not None:
        return reason
    return f"would do, but {taken} was asked for" if asked == taken else f"would do, but comes after {taken}"


def _error(sample: Call, out: Tensor) -> float:
    """The largest difference of a backend's output from the reference's in float64."""
    in_float64: list[Any] = [None if t is None else t.double() for t in sample.tensors]
    difference = out.double() - reference.forward(sample.with_tensors(*in_float64), False)[0]
    return float(difference.abs().max()) if difference.numel() else 0.0


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
