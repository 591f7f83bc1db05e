"""PyTorch's transforms: each works on a backend, or says in a sentence why not."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import clearhead as ch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated",  # of PyTorch's own forward-mode rules
    "ignore:There is a performance drop because we have not yet implemented the batching rule",
)
PATTERN = ch.causal() & ch.window(3)


def qkv(*mapped: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 2))
    return tuple(torch.randn(*mapped, *shape, dtype=dtype) for shape in shapes)


def attend(backend: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ch.attention(q, k, v, pattern=PATTERN, backend=backend)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0)])
def test_vmap_over_q_k_and_v(backend: str, dtype: torch.dtype, in_dims: tuple[int | None, ...]) -> None:
    tensors = [t if d == 0 else t[0] for t, d in zip(qkv(3, dtype=dtype), in_dims, strict=True)]
    mapped = vmap(lambda *a: attend(backend, *a), in_dims)(*tensors)
    for n, one in enumerate(mapped):
        args = (t[n] if d == 0 else t for t, d in zip(tensors, in_dims, strict=True))
        torch.testing.assert_close(one, attend(backend, *args))


def test_vmap_over_another_dimension_and_a_pattern_that_differs_by_batch(backend: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(3, dtype=dtype)
    pattern = ch.padding(torch.tensor([2, 6]))

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ch.attention(q, k, v, pattern=pattern, backend=backend)

    mapped = vmap(call, in_dims=(2, 0, 0), out_dims=1)(q.movedim(0, 2), k, v)
    for n in range(3):
        torch.testing.assert_close(mapped[:, n], call(q[n], k[n], v[n]))


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 0, None)])
def test_gradients_one_by_one(backend: str, dtype: torch.dtype, in_dims: tuple[int | None, ...]) -> None:
    """vmap of grad: the gradient of each example by itself, also to what the examples share."""
    tensors = [t if d == 0 else t[0] for t, d in zip(qkv(3, dtype=dtype), in_dims, strict=True)]
    by_example = grad(lambda *a: attend(backend, *a).sin().sum(), argnums=(0, 1, 2))
    mapped = vmap(by_example, in_dims)(*tensors)
    for n in range(3):
        one = by_example(*(t[n] if d == 0 else t for t, d in zip(tensors, in_dims, strict=True)))
        for ours, expected in zip(mapped, one, strict=True):
            torch.testing.assert_close(ours[n], expected)


def test_reverse_mode_jacobians(backend: str, dtype: torch.dtype, near: Any) -> None:
    q, k, v = (t[:1, :2] for t in qkv(dtype=dtype))
    ours = jacrev(lambda *a: attend(backend, *a), argnums=(0, 1, 2))(q, k, v)
    high = (t.double() for t in (q, k, v))
    expected = jacfwd(lambda *a: attend("reference", *a), argnums=(0, 1, 2))(*high)
    for x, y in zip(ours, expected, strict=True):
        near(x, y)


def test_forward_mode_is_the_finite_difference_on_the_reference_which_auto_takes() -> None:
    tensors, tangents = qkv(), qkv()
    for backend in ("reference", "auto"):
        _, tangent = jvp(lambda *a, b=backend: attend(b, *a), tensors, tangents)
        ahead, behind = (
            attend("reference", *(t + step * d for t, d in zip(tensors, tangents, strict=True)))
            for step in (1e-6, -1e-6)
        )
        torch.testing.assert_close(tangent, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-7)


def test_forward_mode_on_tiled_is_refused_in_a_sentence() -> None:
    q, k, v = qkv()
    says = r"backend 'tiled' .* forward-mode derivative, which would need every tile twice"
    with pytest.raises(ch.ClearheadError, match=says):
        jvp(lambda q: attend("tiled", q, k, v), (q,), (q,))
    with pytest.raises(ch.ClearheadError, match=says):
        hessian(lambda q: attend("tiled", q, k, v).sum())(q)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_hessian_on_the_reference_which_auto_takes(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (t[:1, :2, :2] for t in qkv(dtype=dtype))
    ours = hessian(lambda q: attend(backend, q, k, v).sin().sum())(q)
    twice = jacrev(jacrev(lambda q: attend("reference", q, k, v).sin().sum()))(q)
    torch.testing.assert_close(ours, twice)


def test_second_derivatives_in_reverse_mode_for_which_auto_takes_tiled() -> None:
    q, k, v = (t[:1, :2, :2].float() for t in qkv())
    expected = hessian(lambda q: attend("reference", q, k, v).sin().sum())(q)
    torch.testing.assert_close(jacrev(jacrev(lambda q: attend("auto", q, k, v).sin().sum()))(q), expected)
    with pytest.raises(ch.ClearheadError, match=r"no second derivative.*'tiled' or backend='reference'"):
        torch.autograd.functional.hessian(lambda q: attend("auto", q, k, v).sin().sum(), q)
    tiled = torch.autograd.functional.hessian(lambda q: attend("tiled", q, k, v).sin().sum(), q)
    torch.testing.assert_close(tiled, expected)


LEARNED: dict[str, tuple[tuple[int, ...], Callable[[Tensor], dict[str, Any]]]] = {
    "nothing": ((1,), lambda _: {}),
    "sinks": ((4,), lambda w: {"sinks": w}),
    "relative": ((4, 7), lambda w: {"bias": ch.relative(w)}),
    "dense": ((1, 4, 3, 5), lambda w: {"bias": w}),
    "alibi": ((4,), lambda w: {"bias": ch.alibi(w)}),
    "dropout": ((1,), lambda _: {"dropout": 0.4}),
}


@pytest.mark.parametrize("learned", LEARNED)
def test_batched_gradients_are_those_one_by_one(learned: str, typed: tuple[str, torch.dtype]) -> None:
    (backend, dtype), (shape, options) = typed, LEARNED[learned]
    q, weight = torch.randn(2, 4, 3, 8, dtype=dtype), torch.randn(shape, dtype=dtype)
    k, v = (torch.randn(2, 2, 5, 8, dtype=dtype) for _ in range(2))
    pattern = ch.causal() & ch.padding(torch.tensor([0, 4]))

    def call(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        torch.manual_seed(1)
        out = ch.attention(q, k, v, pattern=pattern, softcap=2.0, backend=backend, **options(weight))
        return out.flatten()[::7]

    batched, single = (jacobian(call, (q, k, v, weight), vectorize=vectorize) for vectorize in (True, False))
    torch.testing.assert_close(batched, single)
    if learned in ("nothing", "dropout"):
        reverse = jacrev(call, argnums=(0, 1, 2))(q, k, v, weight)
        torch.testing.assert_close(reverse, single[:3])


def test_gradcheck_passes_with_its_batched_gradients() -> None:
    inputs = [t[:1, :2, :3].requires_grad_() for t in qkv()]
    assert gradcheck(ch.sdpa, inputs, check_batched_grad=True)


def test_tiled_does_not_map_what_its_tiles_share_and_says_so() -> None:
    q, k, v = qkv()
    with pytest.raises(
        ch.ClearheadError, match=r"'tiled' maps q, k and v by vmap, but not sinks, .* backend='reference'"
    ):
        vmap(lambda s: ch.attention(q, k, v, sinks=s, backend="tiled"))(torch.zeros(3, 4))
    bias = torch.zeros(2, 1, 5, 6)
    with pytest.raises(ch.ClearheadError, match=r"a bias that differs by batch"):
        vmap(lambda q: ch.attention(q, k, v, bias=bias, backend="tiled"))(q[None])
    sinks = torch.randn(3, 4, dtype=torch.float64)
    mapped = vmap(lambda s: ch.attention(q, k, v, sinks=s, backend="reference"))(sinks)
    torch.testing.assert_close(mapped[1], ch.attention(q, k, v, sinks=sinks[1]))


def test_dropout_under_vmap_is_shared_or_refused_in_a_sentence() -> None:
    q, k, v = qkv(3)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ch.attention(q, k, v, dropout=0.5, backend="tiled")

    assert vmap(call, randomness="same")(q, k, v).shape == (3, 2, 4, 5, 2)
    with pytest.raises(ch.ClearheadError, match=r"one seed for the dropout .* randomness='same' .*'reference'"):
        vmap(call, randomness="different")(q, k, v)


def test_dropout_is_reproducible_under_functional_call(backend: str, dtype: torch.dtype) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = torch.nn.Parameter(torch.eye(3, dtype=dtype))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return ch.attention(q @ self.W, k, v, dropout=0.3, backend=backend)

    layer, tensors = Layer(), qkv(dtype=dtype)
    torch.manual_seed(1)
    expected = layer(*tensors)
    torch.manual_seed(1)
    assert torch.equal(functional_call(layer, dict(layer.named_parameters()), tensors), expected)


def test_autocast_casts_q_k_and_v_as_it_does_for_pytorch_s_own(backend: str) -> None:
    q, k, v = (torch.randn(1, 2, 6, 4, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = ch.attention(q, k, v, pattern=ch.causal(), return_lse=True, backend=backend)
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = ch.attention(q.bfloat16(), k, v, pattern=ch.causal(), backend=backend)
    assert out.dtype == theirs.dtype == mixed.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    torch.testing.assert_close(out, theirs, atol=0.02, rtol=0.02)
    out.sum().backward()
    assert q.grad.dtype == torch.float32


def compiled(engine: str) -> str:
    return f"""
import torch
import clearhead as ch

q, k, v = (torch.randn(1, H, 7, 4, requires_grad=True) for H in (4, 2, 2))
slopes, sinks = torch.rand(4, requires_grad=True), torch.randn(4, requires_grad=True)
mask = torch.rand(7, 7) < 0.6
for pattern in (None, ch.causal(), ch.causal() & ch.window(5), ch.causal() & ch.window(5) | ch.first(2),
                ch.padding(torch.tensor([5])) & ~ch.chunks(3), ch.where(mask), ch.dilated(3, 2)):
    def call(*leaves, backend="auto"):
        return ch.attention(*leaves[:3], pattern=pattern, bias=ch.alibi(leaves[3]), sinks=leaves[4], softcap=5.0,
                            return_lse=True, backend=backend)
    leaves = (q, k, v, slopes, sinks)
    ours, expected = torch.compile(call, fullgraph=True, backend="{engine}")(*leaves), call(*leaves)
    for x, y in zip(ours, expected):
        torch.testing.assert_close(x, y)
    for x, y in zip(*(torch.autograd.grad(out.square().sum(), leaves) for out, _ in (ours, expected))):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)

def says(call):
    try:
        torch.compile(call, fullgraph=True, backend="{engine}")(q, k, v)
    except Exception as error:
        return str(error)
    return "nothing"
print(says(lambda q, k, v: ch.attention(q, k, v, backend="tiled")))
print(says(lambda q, k, v: ch.attention(q, k, v, pattern=ch.documents(torch.zeros(7, dtype=torch.int64)))))
"""


@pytest.mark.parametrize("engine", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_takes_whole_graphs_or_says_why_not(engine: str) -> None:
    """In a process of its own, where no types are checked: the checks would break the graph."""
    script = [sys.executable, "-W", "ignore", "-c", compiled(engine)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "backend 'tiled' can't do this call: torch.compile can't trace its list of tiles" in done.stdout
    assert "documents: torch.compile can't know how many runs the ids make" in done.stdout
