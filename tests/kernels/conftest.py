"""What the tests of the kernels share: every instruction set of this machine, and the reference in float64."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from clearhead.attend import library, native, reference, tiled
from clearhead.attend.api import checked
from clearhead.attend.call import Call
from clearhead.attend.statistics import Statistics, of_weights

ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Half a unit: of the output and, where a kernel rounds them to multiply them, of the weights."""

EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def core() -> Iterator[None]:
    """The native core is here. One thread is quickest on small tensors; test_threads.py takes more."""
    said = library.missing()
    if said:
        pytest.skip(said)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=library.isas() if library.missing() is None else ["none"])
def isa(request: pytest.FixtureRequest, core: None) -> Iterator[str]:
    """Each instruction set of this machine in turn, in use while the test runs."""
    with library.using(request.param):
        yield request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The types that the kernels take."""
    return request.param


def draw(
    B: int, H: int, K: int, Tq: int, Tk: int, D: int, Dv: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal q, k and v."""
    shapes = ((B, H, Tq, D), (B, K, Tk, D), (B, K, Tk, Dv))
    return tuple(torch.randn(shape).to(dtype) for shape in shapes)


@pytest.fixture(scope="session")
def qkv() -> Any:
    return draw


def in_float64(call: Call) -> Call:
    """The same call on the same numbers, as float64."""
    return call.with_tensors(*(None if x is None else x.double() for x in call.tensors))


def check_forward(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> None:
    """On each instruction set, output, log-sum-exp and statistics are those of the reference in float64.

    To some roundings: a rounded score s moves its weight by a factor 1 ± |s| ε, and each term w v of an output moves by
    as much of itself. So what an output may err by is counted in Σ w |v|.
    """
    call = checked(q, k, v, **options)
    exact = in_float64(call)
    s, w, lse = reference.softmax(exact)
    out, size = (exact.weigh(w, x, None) for x in (exact.v, exact.v.abs()))
    expected = of_weights(s, w, lse, exact.sinks, exact.runs.dense(), exact.queries[:, None] + exact.past)
    scores = expected.max_score[expected.max_score.isfinite()].abs()
    rounding = 16 * EPSILON * (1 + (float(scores.max()) if scores.numel() else 0))
    if q.dtype == torch.bfloat16:  # whose weights are rounded anyway: 2^x by a polynomial of degree 4
        rounding += 3e-6
    allowed = (2 * ROUNDING[q.dtype] + rounding) * size + 1e-6
    for isa in library.isas():
        with library.using(isa):
            ours, ours_lse, seen = native.forward(call, True)
            again, again_lse, _ = native.forward(call, False)
        for x in (ours, again):
            assert x.dtype == q.dtype
            error = (x.double() - out).abs()
            assert (error <= allowed).all(), (
                f"{isa}: {error.max():.1e} off, {(error / allowed).max():.1f} times too far"
            )
        for x in (ours_lse, again_lse):
            torch.testing.assert_close(
                x.double(), lse, atol=rounding, rtol=EPSILON, msg=lambda m, isa=isa: f"{isa} lse: {m}"
            )
        check_statistics(isa, seen, expected, w, rounding)


def check_statistics(isa: str, seen: Statistics, expected: Statistics, w: Tensor, rounding: float) -> None:
    """Each as near to float64 as its terms can be; any of the keys that weigh most will do as the peak's."""
    for name, most in (
        ("lse", rounding),
        ("entropy", 4 * rounding),
        ("entropy_normalised", 4 * rounding),
        ("peak", 4 * rounding),
        ("distance", 1e-4),
        ("max_score", rounding),
    ):
        x, y = getattr(seen, name).double(), getattr(expected, name)
        torch.testing.assert_close(x, y, atol=most, rtol=5e-5, msg=lambda m, name=name: f"{isa} {name}: {m}")
    assert torch.equal(seen.visible, expected.visible)
    assert torch.equal(seen.peak_at == -1, expected.peak_at == -1)
    if w.shape[-1]:
        at_peak = w.gather(-1, seen.peak_at.clamp(min=0)[..., None])[..., 0]
        torch.testing.assert_close(
            at_peak, expected.peak, atol=0, rtol=4 * rounding, msg=lambda m: f"{isa} peak_at: {m}"
        )


@pytest.fixture(scope="session")
def right() -> Any:
    """check_forward(q, k, v, **options)."""
    return check_forward


def pull(call: Call, forward: Any, dout: Tensor, dlse: Tensor) -> list[Tensor]:
    """The gradients of Σ dout · out + Σ dlse · lse to all tensors of the call, over the rows that are not empty."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in call.tensors]
    out, lse, _ = forward(call.with_tensors(*leaves), False)
    some = lse.isfinite()
    loss = (out.double() * dout).sum() + (lse.double() * dlse)[some].sum()
    return list(torch.autograd.grad(loss, [x for x in leaves if x is not None]))


def check_gradients(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> None:
    """On each instruction set, the gradients to q, k, v, sinks and bias are autograd's of the reference in float64.

    To some roundings: each is a sum of many terms, such as w · (dp − delta) · k, whose roundings are independent of one
    another. So what it may err by is counted in the root of the sum of their squares.
    """
    call = checked(q, k, v, **options)
    exact = in_float64(call)
    dout = torch.randn(*q.shape[:3], v.shape[-1]).to(q.dtype).double()
    dlse = torch.randn(q.shape[:3]).double()
    expected, sizes = pull(exact, reference.forward, dout, dlse), terms(exact, dout, dlse)
    others = pull(call, tiled.forward, dout, dlse)
    rounding = 1e-5 + ROUNDING[q.dtype]
    for isa in library.isas():
        with library.using(isa):
            ours = pull(call, native.forward, dout, dlse)
        for name, x, y, size in zip(("q", "k", "v"), ours, expected, sizes, strict=False):
            assert x.dtype == q.dtype
            error, allowed = (x.double() - y).abs(), rounding * (6 * size + y.abs()) + 1e-7
            worst = float((error / allowed).max()) if error.numel() else 0.0
            assert worst <= 1, f"{isa} d{name}: {error.max():.1e} off, {worst:.1f} times too far"
        # Sums over many pairs, which may cancel: what rounding leaves of them shows in another backend's error.
        for x, y, other in zip(ours[3:], expected[3:], others[3:], strict=True):
            most = 4 * rounding * float(y.abs().max()) + 2 * float((other.double() - y).abs().max())
            torch.testing.assert_close(
                x.double(), y, atol=most, rtol=4 * rounding, msg=lambda m, isa=isa: f"{isa} bias or sinks: {m}"
            )


def terms(call: Call, dout: Tensor, dlse: Tensor) -> list[Tensor]:
    """The roots of the sums of squares of the terms of dq, dk and dv."""
    G = call.q.shape[1] // call.k.shape[1]
    k, v = (x.repeat_interleave(G, 1) for x in (call.k, call.v))
    w = reference.softmax(call)[1]
    out, delta = w @ v, dlse[..., None] ** 2
    own = (dout @ v.mT - (dout * out).sum(-1, keepdim=True)) ** 2
    ds = w**2 * (own + dout**2 @ (v**2).mT + (dout**2 * out**2).sum(-1, keepdim=True) + delta)
    dq = call.scale**2 * (ds @ k**2)
    dk, dv = call.scale**2 * (ds.mT @ call.q**2), (w**2).mT @ dout**2
    return [dq.sqrt(), *(x.unflatten(1, (-1, G)).sum(2).sqrt() for x in (dk, dv))]


@pytest.fixture(scope="session")
def right_gradients() -> Any:
    """check_gradients(q, k, v, **options)."""
    return check_gradients
