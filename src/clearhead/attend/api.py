"""attention(): the one call, its arguments checked, its backend chosen."""

from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.attend import backends
from clearhead.attend.arguments import check_strided, check_tensor, probability
from clearhead.attend.biases import Bias, dense
from clearhead.attend.call import Call
from clearhead.attend.heard import listener
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import full, where
from clearhead.attend.remembered import runs_of, tensors_of
from clearhead.attend.runs import Runs
from clearhead.attend.scores import Score, named
from clearhead.attend.statistics import Statistics
from clearhead.errors import ClearheadError

FULL = full()
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@overload
def attention(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B K Tk Dk"],
    v: Float[Tensor, "B K Tk Dv"],
    *,
    return_lse: Literal[False] = False,
    probe: Literal[False] = False,
    **options: Any,
) -> Float[Tensor, "B H Tq Dv"]: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], probe: Literal[False] = False, **options: Any
) -> tuple[Float[Tensor, "B H Tq Dv"], Float[Tensor, "B H Tq"]]: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[False] = False, probe: Literal[True], **options: Any
) -> tuple[Float[Tensor, "B H Tq Dv"], Statistics]: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], probe: Literal[True], **options: Any
) -> tuple[Float[Tensor, "B H Tq Dv"], Float[Tensor, "B H Tq"], Statistics]: ...
def attention(  # type: ignore[misc]  # the overloads leave the options to this signature
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: Pattern | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    score: str | Score = "scaled",
    return_lse: bool = False,
    probe: bool = False,
    backend: str = "auto",
) -> Any:
    """Attention: out_i = Σ_j w[i, j] v_j, with w = softmax over the visible keys of s (Vaswani et al. 2017).

    s[i, j] = softcap(scale · score(q_i, k_j)) + bias[i, j],  softcap(x) = c · tanh(x / c).

    Args:
        q: queries `(B, H, Tq, D)`. They are the last Tq of the Tk positions.
        k: keys `(B, K, Tk, D)`, H a multiple of K: each key head serves H // K query heads.
        v: values `(B, K, Tk, Dv)`.
        pattern: who may see whom, `causal() & window(256)`; None is `full()`. A query that may see nothing
            gives 0, with log-sum-exp −inf.
        bias: added to the scores after the softcap: `alibi(H)`, `relative(table)`, `t5(...)`, or a tensor
            that broadcasts to `(B, H, Tq, Tk)`, in which −inf hides a key.
        scale: the factor on the score; None is the score's own: 1/√D for "scaled", 1 for all others.
        softcap: c of the formula (Gemma 2), or None.
        sinks: one logit a head `(H,)`, joined to the softmax's denominator only (GPT-OSS).
        dropout: the probability of dropping a weight; the seed is drawn from PyTorch's generator.
        score: "scaled" (q · k / √D), "dot" (q · k), `Additive(...)` or `Multiplicative(...)`.
        return_lse: also return log Σ_j exp s[i, j], `(B, H, Tq)`, natural, float32 (float64 for float64).
        probe: also return the `Statistics` of every row, gathered in the same pass, without gradient.
        backend: "auto", "native" (the C++ kernels), "tiled" (PyTorch, O(T) memory) or "reference" (materialised).
            `explain` says which one a call takes, and why.

    Returns:
        out `(B, H, Tq, Dv)` in q's type; with lse and statistics, in this order, where asked for.

    Gradients flow to q, k, v, sinks, a learned bias and the score's weights, also through lse. Under
    autocast q, k and v are cast as for PyTorch's own attention. `torch.compile` keeps `native` as one node.

    Raises:
        ClearheadError: in a sentence, for shapes that do not fit or a backend that can't do the call.

    >>> import clearhead as ch, torch
    >>> q, k, v = torch.randn(1, 8, 100, 64), torch.randn(1, 2, 100, 64), torch.randn(1, 2, 100, 64)
    >>> out, lse = ch.attention(q, k, v, pattern=ch.causal() & ch.window(16), return_lse=True)
    >>> out.shape, lse.shape
    (torch.Size([1, 8, 100, 64]), torch.Size([1, 8, 100]))
    """
    q, k, v = autocasted(q, k, v)
    with without_autocast(q):
        call = checked(
            q, k, v, pattern=pattern, bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout, score=score
        )
        chosen, hearing = backends.choose(call, backend), listener()
        out, lse, statistics = hearing.hear(call, chosen, probe) if hearing else chosen.forward(call, probe)
    extras = ((lse,) if return_lse else ()) + ((statistics,) if probe else ())
    return (out, *extras) if extras else out


def autocasted(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in the type that autocast wants, where it is on."""
    if not _is_autocast_enabled(_device(q)):
        return q, k, v
    dtype = torch.get_autocast_dtype(_device(q))
    q, k, v = (x.to(dtype) if isinstance(x, Tensor) and x.dtype != torch.float64 else x for x in (q, k, v))
    return q, k, v


def without_autocast(q: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off, where it is on."""
    device = _device(q)
    return torch.autocast(device, enabled=False) if _is_autocast_enabled(device) else nullcontext()


def _is_autocast_enabled(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _device(q: Tensor) -> str:
    return q.device.type if isinstance(q, Tensor) else "cpu"  # what is no tensor is refused later, in a sentence


def checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: Pattern | None = None,
    bias: Bias | Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    score: str | Score = "scaled",
) -> Call:
    """A complete Call of these arguments, or a sentence that says what does not fit."""
    B, H, Tq, Tk = check_shapes(q, k, v)
    check_options(H, scale, softcap, sinks)
    dropout = probability("dropout", dropout)
    if isinstance(bias, Tensor):
        check_strided("bias", bias)
        bias = dense(bias)
    if not (bias is None or isinstance(bias, Bias)):
        raise ClearheadError(
            f"bias: got {bias!r}, expected alibi(H), relative(table), t5(...), a float tensor, or None. "
            "Who may see whom is said by pattern=."
        )
    if bias is not None:
        bias.check(B, H, Tq, Tk)
    runs = _runs(_pattern(pattern, bias), Tq, Tk, q.device)
    if runs.start.shape[0] not in (1, B) or runs.start.shape[1] not in (1, H):
        raise ClearheadError(
            f"pattern: {pattern!r} differs over (batches, heads) = {tuple(runs.start.shape[:2])}, but the call has "
            f"(B, H) = ({B}, {H}); expected each to be the same, or 1."
        )
    score = named(score)
    return Call(
        q=q,
        k=k,
        v=v,
        sinks=sinks,
        bias_weights=() if bias is None else tuple(w.to(q.device) for w in bias.weights),
        score_weights=score.weights,
        runs=runs,
        bias=bias,
        score=score,
        scale=score.default_scale(q.shape[-1]) if scale is None else float(scale),
        softcap=softcap,
        dropout=dropout,
        queries=torch.arange(Tq, device=q.device),
        past=Tk - Tq,
    )


def _runs(pattern: Pattern, Tq: int, Tk: int, device: torch.device) -> Runs:
    """The pattern's runs; on the meta device, where nothing has a value, of the same shape where that is known."""
    if device.type != "meta":
        return runs_of(pattern, Tq, Tk, device)
    known = all(not t.is_meta for t in tensors_of(pattern))
    runs = runs_of(pattern if known else FULL, Tq, Tk, torch.device("cpu"))
    return Runs(runs.start.to(device), runs.stop.to(device), Tk)


def check_options(H: int, scale: float | None, softcap: float | None, sinks: Tensor | None) -> None:
    """Raises for a scale, a softcap or sinks that make no sense."""
    if not (scale is None or isinstance(scale, Real)):
        raise ClearheadError(f"scale: got {scale!r}, expected a number, or None for the score's own.")
    if not (softcap is None or (isinstance(softcap, Real) and softcap > 0)):
        raise ClearheadError(f"softcap: got {softcap!r}, expected a number above 0, or None for no cap.")
    if sinks is not None and (not isinstance(sinks, Tensor) or sinks.shape != (H,)):
        got = f"shape {tuple(sinks.shape)}" if isinstance(sinks, Tensor) else type(sinks).__name__
        raise ClearheadError(f"sinks: got {got}, expected one logit a head, a tensor (H,) = ({H},).")


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises unless q, k and v are four-dimensional tensors of one floating type on one device."""
    for name, x, shape in (("q", q, "(B, H, Tq, D)"), ("k", k, "(B, K, Tk, D)"), ("v", v, "(B, K, Tk, Dv)")):
        check_tensor(name, x, shape)
        check_strided(name, x)
        if x.dim() != 4:
            raise ClearheadError(
                f"{name} has shape {tuple(x.shape)}; expected the four dimensions {shape}. "
                "Add the missing ones with unsqueeze, a batch of 1 or a head of 1."
            )
        if x.dtype not in FLOATS:
            raise ClearheadError(f"{name} is {x.dtype}; expected float16, bfloat16, float32 or float64.")
        if x.dtype != q.dtype or x.device != q.device:
            raise ClearheadError(
                f"q is {q.dtype} on {q.device} but {name} is {x.dtype} on {x.device}; "
                "bring them to one type and device."
            )


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int, int, int]:
    """B, H, Tq, Tk of tensors that fit together."""
    check_tensors(q, k, v)
    (B, H, Tq, _), (Bk, K, Tk, _) = q.shape, k.shape
    if k.shape[:3] != v.shape[:3]:
        raise ClearheadError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} differ in (B, K, Tk); each key needs one value."
        )
    if B != Bk:
        raise ClearheadError(
            f"q {tuple(q.shape)} has B = {B} but k {tuple(k.shape)} has B = {Bk}; expand the one that is shared."
        )
    if H % K if K else H:
        raise ClearheadError(
            f"q {tuple(q.shape)} has H = {H} heads and k {tuple(k.shape)} has K = {K}; "
            "expected H to be a multiple of K. Is the order of dimensions (B, heads, T, D)?"
        )
    return B, H, Tq, Tk


def _pattern(pattern: Pattern | None, bias: Bias | None) -> Pattern:
    """The pattern, with what a dense bias hides by −inf."""
    if isinstance(pattern, Tensor):
        raise ClearheadError(
            "pattern: got a tensor, expected a Pattern. Say where(mask) for a boolean mask (True = may attend), "
            "or pass a float mask as bias=."
        )
    if not (pattern is None or isinstance(pattern, Pattern)):
        raise ClearheadError(f"pattern: got {pattern!r}, expected a Pattern such as causal() & window(256), or None.")
    if isinstance(bias, dense) and not bias.tensor.is_meta:
        hidden = bias.tensor.isneginf()
        if torch.compiler.is_compiling() or bool(hidden.any()):
            return where(~hidden) if pattern is None else pattern & where(~hidden)
    return FULL if pattern is None else pattern
