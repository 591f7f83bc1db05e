"""The backward kernel, on every instruction set and type, against autograd of the reference in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch

SHAPES = [  # Tq, Tk, D, Dv
    (1, 1, 8, 8),
    (1, 130, 64, 64),
    (7, 7, 40, 40),
    (7, 200, 128, 64),
    (13, 5, 1, 3),
    (47, 49, 96, 512),
    (48, 48, 72, 72),
    (49, 47, 192, 8),
    (49, 130, 256, 128),
    (130, 200, 40, 72),
    (200, 90, 33, 65),
]
LONG = [(1000, 1000, 64, 64), (1000, 1000, 128, 128), (1000, 48, 80, 192), (997, 1003, 24, 512), (48, 1000, 512, 8)]
STREAMING = ch.causal() & ch.window(40) | ch.first(4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(right_gradients: Any, qkv: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = qkv(1, 2, 1, *shape, dtype)
    right_gradients(*tensors)
    right_gradients(*tensors, pattern=ch.causal())


@pytest.mark.slow
@pytest.mark.parametrize("shape", LONG, ids=str)
def test_long_shapes(right_gradients: Any, qkv: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = qkv(1, 2, 1, *shape, dtype)
    right_gradients(*tensors)
    right_gradients(*tensors, pattern=STREAMING)


@pytest.mark.slow
@pytest.mark.parametrize("D", [8, 40, 64, 72, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("T", [1, 7, 47, 48, 49, 1000])
def test_every_length_with_every_width(right_gradients: Any, qkv: Any, dtype: torch.dtype, T: int, D: int) -> None:
    right_gradients(*qkv(1, 2, 1, T, T, D, D, dtype), pattern=ch.causal())


@pytest.mark.parametrize(("H", "K"), [(1, 1), (4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("Tq", [1, 60])
def test_groups_share_their_key_heads(
    right_gradients: Any, qkv: Any, dtype: torch.dtype, Tq: int, H: int, K: int
) -> None:
    right_gradients(*qkv(2, H, K, Tq, 90, 24, 16, dtype), pattern=ch.causal())


T = 130
PATTERNS: dict[str, ch.Pattern] = {
    "causal from the start": ch.causal(align="start"),
    "window of both sides": ch.window(7, 70),
    "first": ch.first(9),
    "prefix": ch.prefix(70) | ch.causal(),
    "padding": ch.padding(torch.tensor([130, 70])),
    "left padding": ch.padding(torch.tensor([3, 64]), "left") & ch.causal(),
    "no keys at all": ch.padding(torch.tensor([0, 0])),
    "documents": ch.documents(torch.tensor([0] * 20 + [1] * 64 + [2] * 1 + [1] * 45)),
    "dilated": ch.dilated(5, 3),
    "holes": ~ch.window(30) & ch.causal(),
    "streaming": STREAMING,
    "global": ch.window(11, 11) | ch.global_tokens((0, 80, 129)),
    "bigbird": ch.bigbird(16),
    "a mask for each batch and head": ch.where(
        torch.rand(2, 2, T, T, generator=torch.Generator().manual_seed(1)) < 0.3
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_patterns(right_gradients: Any, qkv: Any, name: str, kind: torch.dtype) -> None:
    right_gradients(*qkv(2, 2, 1, T, T, 16, 24, kind), pattern=PATTERNS[name])


def biases(Tq: int, Tk: int) -> dict[str, Any]:
    """Of each kind and each broadcast shape, on (B, H) = (2, 4)."""
    return {
        "alibi": ch.alibi(torch.tensor([0.5, -0.01, 0.1, 2.0])),
        "relative": ch.relative(torch.randn(4, 33)),
        "relative, one row, from the end": ch.relative(torch.randn(1, 9), 8),
        "t5": ch.t5(torch.randn(32, 4), bidirectional=True),
        "every pair": torch.randn(2, 4, Tq, Tk),
        "every pair of a head": torch.randn(4, Tq, Tk),
        "every pair of a batch": torch.randn(2, 1, Tq, Tk),
        "every pair, shared by all": torch.randn(Tq, Tk),
        "every key": torch.randn(2, 1, 1, Tk),
        "every query": torch.randn(1, 4, Tq, 1),
        "every head": torch.randn(2, 4, 1, 1),
        "one number": torch.randn(1),
        "every pair, turned": torch.randn(2, 4, Tk, Tq).mT,
    }


@pytest.mark.parametrize("Tq", [3, 75])
@pytest.mark.parametrize("name", biases(1, 1))
def test_biases_are_learned(right_gradients: Any, qkv: Any, name: str, Tq: int) -> None:
    tensors = qkv(2, 4, 2, Tq, 100, 16, 16)
    bias = biases(Tq, 100)[name]
    right_gradients(*tensors, bias=bias)
    right_gradients(*tensors, bias=bias, pattern=STREAMING, softcap=2.0, sinks=torch.randn(4))


@pytest.mark.parametrize("name", ["relative", "every pair of a head", "every key"])
def test_biases_are_learned_in_low_precision(right_gradients: Any, qkv: Any, dtype: torch.dtype, name: str) -> None:
    right_gradients(*qkv(2, 4, 2, 60, 100, 16, 16, dtype), bias=biases(60, 100)[name], pattern=ch.causal())


@pytest.mark.parametrize("softcap", [None, 0.3, 30.0])
@pytest.mark.parametrize("sinks", [None, 0.0, -30.0, 10.0])
@pytest.mark.parametrize("scale", [None, 3.0, 0.0, -1.0])
def test_softcap_sinks_and_scale(
    right_gradients: Any, qkv: Any, softcap: float | None, sinks: float | None, scale: float | None
) -> None:
    options = {"softcap": softcap, "sinks": None if sinks is None else torch.randn(4) + sinks, "scale": scale}
    right_gradients(*qkv(1, 4, 2, 75, 100, 16, 16), **options, pattern=STREAMING)


def test_empty_rows_have_none(right_gradients: Any, qkv: Any, dtype: torch.dtype) -> None:
    seen = torch.rand(2, 4, 100, 130) < 0.5
    seen[:, :, 7] = seen[:, :, 40:60] = False
    seen[1, 3] = False
    tensors = qkv(2, 4, 2, 100, 130, 16, 16, dtype)
    for options in ({}, {"sinks": torch.randn(4)}, {"bias": ch.alibi(4)}):
        right_gradients(*tensors, pattern=ch.where(seen), **options)


def gradients(tensors: tuple[Tensor, ...], pattern: ch.Pattern, dout: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """Of what the kernel makes of these tensors, to all of them."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = ch.attention(*leaves, pattern=pattern, backend="native", **options)
    return torch.autograd.grad(out, leaves, dout)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize(("Tq", "Dv"), [(150, 5), (4, 64)])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_what_no_query_sees_never_leaks_not_even_a_bit(
    isa: str, qkv: Any, dtype: torch.dtype, bad: float, Tq: int, Dv: int, softcap: float | None
) -> None:
    """Keys 64 … 66, 70 and 149: whole tiles and cut ones. What hides there may be huge, so that its scores overflow."""
    q, k, v = qkv(1, 4, 2, Tq, 150, 16, Dv, dtype)
    seen = torch.rand(Tq, 150) < 0.7
    hidden = [64, 65, 66, 70, 149]
    seen[:, hidden] = False
    dout = torch.randn(1, 4, Tq, Dv).to(dtype)
    clean = gradients((q, k, v), ch.where(seen), dout, softcap=softcap)
    k[:, :, [64, 66, 149]] = bad
    k[:, :, 70, 3] = bad
    v[:, :, [65, 66, 70, 149]] = bad
    spoiled = gradients((q, k, v), ch.where(seen), dout, softcap=softcap)
    for x, y in zip(clean, spoiled, strict=True):
        assert torch.equal(x, y)
    for x in clean[1:]:
        assert (x[:, :, hidden] == 0).all()


@pytest.mark.parametrize("which", [1, 2])
def test_what_some_queries_see_spoils_the_gradients_of_those_alone(
    isa: str, qkv: Any, dtype: torch.dtype, which: int
) -> None:
    tensors = qkv(1, 2, 1, 100, 100, 16, 16, dtype)
    tensors[which][:, :, 70] = torch.nan
    dout = torch.randn(1, 2, 100, 16).to(dtype)
    dq, dk, dv = gradients(tensors, ch.causal() & ch.window(10), dout)
    blind = [*range(70), *range(80, 100)]
    assert dq[:, :, blind].isfinite().all()
    assert dq[:, :, 70:80].isnan().all()
    for x in (dk, dv):  # keys 61 … 79 are seen together with key 70 by some query
        assert x[:, :, [*range(61), *range(80, 100)]].isfinite().all()


def test_the_gradient_of_the_output_may_lie_in_any_way(isa: str, qkv: Any, dtype: torch.dtype) -> None:
    tensors = qkv(2, 4, 2, 60, 60, 16, 24, dtype)
    for dout in (
        torch.randn(2, 60, 4, 24).to(dtype).transpose(1, 2),
        torch.randn(2, 4, 24, 60).to(dtype).mT,
        torch.ones((), dtype=dtype).expand(2, 4, 60, 24),
        torch.randn(2, 4, 60, 48).to(dtype)[..., ::2],
    ):
        wanted = gradients(tensors, ch.causal(), dout.contiguous())
        for x, y in zip(gradients(tensors, ch.causal(), dout), wanted, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_what_is_asked_for_is_made(isa: str, qkv: Any, which: int) -> None:
    tensors = qkv(1, 4, 2, 60, 60, 16, 24)
    bias, dout = torch.randn(60, 60), torch.randn(1, 4, 60, 24)
    wanted = gradients(tensors, ch.causal(), dout, bias=bias)[which]
    leaf = tensors[which].requires_grad_()
    out = ch.attention(*tensors, pattern=ch.causal(), bias=bias, backend="native")
    assert torch.equal(torch.autograd.grad(out, leaf, dout)[0], wanted)


def test_gradients_of_the_log_sum_exp_alone(isa: str, qkv: Any) -> None:
    results = []
    tensors = qkv(1, 4, 2, 60, 90, 16, 24)
    for backend in ("native", "reference"):
        leaves = [x.clone().requires_grad_() for x in tensors]
        _, lse = ch.attention(*leaves, pattern=ch.causal(), return_lse=True, backend=backend)
        results.append(torch.autograd.grad(lse.sin().sum(), leaves[:2]))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [{"B": 0}, {"H": 0}, {"Tq": 0}, {"Tk": 0}, {"D": 0}, {"Dv": 0}], ids=str)
def test_nothing_of_a_dimension(isa: str, qkv: Any, dtype: torch.dtype, sizes: dict[str, int]) -> None:
    leaves = qkv(**{"B": 2, "H": 4, "K": 2, "Tq": 5, "Tk": 9, "D": 8, "Dv": 8} | sizes, dtype=dtype)
    out = ch.attention(*(x.requires_grad_() for x in leaves), backend="native")
    for x, g in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert g.shape == x.shape
        assert g.isfinite().all()
