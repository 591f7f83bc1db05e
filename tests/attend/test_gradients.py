"""Gradients of every backend: first and second order, and those through dropout and low precision."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import clearhead as ch

SHAPES = {"q": (2, 2, 4, 3), "k": (2, 1, 5, 3), "v": (2, 1, 5, 2)}
PATTERN = ch.causal() & (ch.window(3) | ch.first(1)) & ch.padding(torch.tensor([5, 4]))
EMPTY_ROWS = ch.causal(align="start") & ~ch.first(2)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def options(name: str, weights: tuple[Tensor, ...]) -> dict[str, Any]:
    """Each option of attention that carries something to learn, and those that shape the gradient."""
    if name == "relative":
        return {"bias": ch.relative(*weights)}
    if name == "dense bias":
        return {"bias": weights[0]}
    if name == "slopes":
        return {"bias": ch.alibi(*weights)}
    if name == "t5":
        return {"bias": ch.t5(*weights, bidirectional=True, max_distance=4)}
    if name == "sinks":
        return {"sinks": weights[0]}
    if name == "additive":
        return {"score": ch.Additive(*weights)}
    if name == "multiplicative":
        return {"score": ch.Multiplicative(*weights)}
    return {"softcap": 1.5, "scale": 0.7} if name == "softcap" else {}


LEARNED: dict[str, tuple[tuple[int, ...], ...]] = {
    "nothing": (),
    "softcap": (),
    "relative": ((2, 4),),
    "dense bias": ((2, 1, 4, 5),),
    "slopes": ((2,),),
    "t5": ((4, 2),),
    "sinks": ((2,),),
    "additive": ((4, 3), (4, 3), (4,)),
    "multiplicative": ((2, 3, 3),),
}


SCORES = ("additive", "multiplicative")


@pytest.mark.parametrize("name", LEARNED)
def test_first_and_second_gradients_are_those_of_finite_differences(precise: str, name: str) -> None:
    """Of the output and of the log-sum-exp, to q, k, v and all that is learned."""

    def call(q: Tensor, k: Tensor, v: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return ch.attention(q, k, v, pattern=PATTERN, return_lse=True, backend=precise, **options(name, weights))

    inputs = tuple(leaf(*shape) for shape in (*SHAPES.values(), *LEARNED[name]))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True, atol=1e-4)


BROADCAST = [(1,), (1, 1), (5,), (4, 1), (2, 1, 5), (1, 2, 4, 1), (2, 1, 1, 1)]


@pytest.mark.parametrize("shape", BROADCAST)
def test_a_dense_bias_of_any_broadcast_shape_is_learned(precise: str, shape: tuple[int, ...]) -> None:
    q, k, v = (leaf(*s) for s in SHAPES.values())

    def call(bias: Tensor) -> Tensor:
        return ch.attention(q, k, v, bias=bias, pattern=PATTERN, sinks=q.new_zeros(2), backend=precise)

    assert torch.autograd.gradcheck(call, (leaf(*shape),))


def test_empty_rows_have_gradients_too(precise: str) -> None:
    def call(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
        return ch.attention(q, k, v, pattern=EMPTY_ROWS, sinks=sinks, backend=precise)

    assert torch.autograd.gradcheck(call, (*(leaf(*s) for s in SHAPES.values()), leaf(2)))


@pytest.mark.parametrize(
    ("name", "shapes", "pattern"),
    [
        *(pytest.param(name, s, PATTERN, id=name) for name, s in LEARNED.items() if name not in SCORES),
        *(pytest.param("dense bias", (s,), PATTERN, id=f"dense bias {s}") for s in BROADCAST),
        pytest.param("sinks", LEARNED["sinks"], EMPTY_ROWS, id="sinks on empty rows"),
    ],
)
def test_every_backend_s_gradients_are_those_of_the_reference_in_float64(
    backend: str, dtype: torch.dtype, near: Any, name: str, shapes: tuple[tuple[int, ...], ...], pattern: ch.Pattern
) -> None:
    """Which are those of finite differences; of the output and of the log-sum-exp."""
    ours = [leaf(*shape, dtype=dtype) for shape in (*SHAPES.values(), *shapes)]
    theirs = [x.detach().double().requires_grad_() for x in ours]
    for leaves, engine in ((ours, backend), (theirs, "reference")):
        out, lse = ch.attention(
            *leaves[:3], pattern=pattern, return_lse=True, backend=engine, **options(name, tuple(leaves[3:]))
        )
        (out.sin().sum() + lse[lse.isfinite()].cos().sum()).backward()
    for x, y in zip(ours, theirs, strict=True):
        near(x.grad, y.grad)


@settings(max_examples=30)
@given(data=st.data())
def test_gradients_are_those_of_the_formula(
    backend: str, dtype: torch.dtype, plain: Any, near: Any, calls: Any, data: st.DataObject
) -> None:
    tensors, given_options, plainly = data.draw(calls)
    leaves = [x.requires_grad_() for x in tensors]
    seen = torch.as_tensor(plainly["visible"]).expand(*leaves[0].shape[:3], leaves[1].shape[2]).any(-1)
    pull = torch.randn(*leaves[0].shape[:3], leaves[2].shape[-1], dtype=dtype)
    # An empty row has no gradient; autograd makes NaN of it in the plain formula, so it is left out there.
    plainly = {**plainly, "visible": torch.as_tensor(plainly["visible"]) | ~seen[..., None]}
    expected = plain(*leaves, **plainly)
    (expected.out * pull)[seen].sum().add(expected.lse[seen].sum()).backward()
    wanted = [x.grad.clone() if x.grad is not None else torch.zeros_like(x) for x in leaves]
    for x in leaves:
        x.grad = None
    out, lse = ch.attention(*leaves, **given_options, return_lse=True, backend=backend)
    ((out * pull).sum() + lse[seen].sum()).backward()
    for x, want in zip(leaves, wanted, strict=True):
        near(x.grad, want, expected.s.detach(), times=8)


def test_gradients_of_many_tiles_are_those_of_the_reference(backend: str, dtype: torch.dtype, near: Any) -> None:
    pattern = ch.causal() & ch.window(150) | ch.first(3)
    tensors = [torch.randn(1, H, 700, 4, dtype=dtype) for H in (4, 2, 2)]
    table, sinks = torch.randn(4, 21, dtype=dtype), torch.randn(4, dtype=dtype)
    grads = []
    for engine, kind in ((backend, dtype), ("reference", torch.float64)):
        leaves = [x.to(kind, copy=True).requires_grad_() for x in (*tensors, table, sinks)]
        out, lse = ch.attention(
            *leaves[:3],
            pattern=pattern,
            bias=ch.relative(leaves[3]),
            sinks=leaves[4],
            softcap=3.0,
            return_lse=True,
            backend=engine,
        )
        (out.sin().sum() + lse.cos().sum()).backward()
        grads.append([x.grad for x in leaves])
    for ours, theirs in zip(*grads, strict=True):
        near(ours, theirs, times=8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_low_precision_are_near_those_of_float64(backend: str, plain: Any, dtype: torch.dtype) -> None:
    low = [torch.randn(1, 2, 20, 8).to(dtype).requires_grad_() for _ in range(3)]
    high = [x.detach().double().requires_grad_() for x in low]
    out = ch.attention(*low, pattern=ch.causal(), backend=backend)
    out.sum().backward()
    plain(*high, ch.causal().dense(20, 20)).out.sum().backward()
    for x, y in zip(low, high, strict=True):
        assert x.grad.dtype == dtype
        torch.testing.assert_close(x.grad.double(), y.grad, atol=0.03, rtol=0.03)


@pytest.mark.parametrize(("Tq", "Tk"), [(5, 7), (150, 600)])
def test_dropout_drops_the_same_weights_forward_and_backward(precise: str, Tq: int, Tk: int) -> None:
    q, k, v = leaf(1, 2, Tq, 4), leaf(1, 1, Tk, 4), leaf(1, 1, Tk, 3)

    def call(*tensors: Tensor) -> Tensor:
        torch.manual_seed(5)
        return ch.attention(*tensors, pattern=ch.causal(), dropout=0.4, backend=precise).sin().sum()

    call(q, k, v).backward()
    for n, x in enumerate((q, k, v)):
        direction = torch.randn_like(x)
        moved = [
            call(*(y + sign * 1e-6 * direction if m == n else y for m, y in enumerate((q, k, v)))) for sign in (1, -1)
        ]
        slope = (moved[0] - moved[1]) / 2e-6
        torch.testing.assert_close((x.grad * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_dropout_is_fair_reproducible_and_different_each_time(backend: str) -> None:
    q, k = torch.zeros(1, 1, 200, 2), torch.zeros(1, 1, 1000, 2)
    v = torch.ones(1, 1, 1000, 1)
    torch.manual_seed(3)
    out = ch.attention(q, k, v, dropout=0.25, backend=backend)
    assert abs(out.mean() - 1) < 0.01
    # A row's mean of 1000 terms, each 4/3 or 0, has the variance 1/3 / 1000.
    assert abs(out.std() - (1 / 3000) ** 0.5) < 0.004
    again = ch.attention(q, k, v, dropout=0.25, backend=backend)
    assert not torch.equal(out, again)
    torch.manual_seed(3)
    assert torch.equal(ch.attention(q, k, v, dropout=0.25, backend=backend), out)


@pytest.mark.parametrize("pattern", [ch.causal(), ch.causal() & ch.window(37), ch.padding(torch.tensor([150, 90]))])
def test_native_and_tiled_drop_the_same_weights(pattern: ch.Pattern) -> None:
    q, k, v = leaf(2, 4, 130, 4).float(), leaf(2, 2, 150, 4).float(), leaf(2, 2, 150, 3).float()
    outputs = []
    for backend in ("native", "tiled"):
        torch.manual_seed(2**40 + 5)
        outputs.append(ch.attention(q, k, v, pattern=pattern, dropout=0.3, backend=backend))
    torch.testing.assert_close(*outputs)


def test_what_is_seen_takes_no_part_in_the_gradient(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (leaf(*s, dtype=dtype) for s in SHAPES.values())
    _, seen = ch.attention(q, k, v, probe=True, backend=backend)
    assert not any(x.requires_grad for x in vars(seen).values())
