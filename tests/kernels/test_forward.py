"""The forward kernel, on every instruction set and type, against the reference in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend import native
from clearhead.attend.api import checked

SHAPES = [  # Tq, Tk, D, Dv
    (1, 1, 8, 8),
    (1, 49, 64, 64),
    (1, 1000, 96, 96),
    (7, 7, 40, 40),
    (7, 1000, 128, 64),
    (13, 5, 1, 3),
    (47, 47, 64, 64),
    (47, 49, 512, 512),
    (48, 48, 72, 72),
    (49, 48, 192, 8),
    (49, 49, 80, 80),
    (48, 130, 256, 128),
    (130, 200, 40, 72),
    (200, 90, 33, 65),
]
LONG = [(1000, 1000, 64, 64), (1000, 1000, 128, 128), (1000, 48, 80, 192), (997, 1003, 24, 512), (48, 1000, 512, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(right: Any, qkv: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = qkv(1, 2, 1, *shape, dtype)
    right(*tensors)
    right(*tensors, pattern=ch.causal())


@pytest.mark.slow
@pytest.mark.parametrize("shape", LONG, ids=str)
def test_long_shapes(right: Any, qkv: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensors = qkv(1, 2, 1, *shape, dtype)
    right(*tensors)
    right(*tensors, pattern=ch.causal() & ch.window(300) | ch.first(5))


@pytest.mark.slow
@pytest.mark.parametrize("D", [8, 40, 64, 72, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("T", [1, 7, 47, 48, 49, 1000])
def test_every_length_with_every_width(right: Any, qkv: Any, dtype: torch.dtype, T: int, D: int) -> None:
    right(*qkv(1, 2, 1, T, T, D, D, dtype), pattern=ch.causal())


@pytest.mark.parametrize(("H", "K"), [(1, 1), (4, 4), (6, 2), (5, 1), (9, 3)])
@pytest.mark.parametrize("Tq", [1, 5, 60])
def test_groups_share_their_key_heads(right: Any, qkv: Any, dtype: torch.dtype, Tq: int, H: int, K: int) -> None:
    right(*qkv(2, H, K, Tq, 90, 24, 16, dtype), pattern=ch.causal())


T = 150
IDS = torch.tensor([0] * 20 + [1] * 64 + [2] * 1 + [1] * 65)
ROWS_OF_HEADS = torch.rand(2, 2, T, T, generator=torch.Generator().manual_seed(1)) < 0.3
PATTERNS: dict[str, ch.Pattern] = {
    "full": ch.full(),
    "causal": ch.causal(),
    "causal from the start": ch.causal(align="start"),
    "causal from 3": ch.causal(align=3),
    "window": ch.window(20),
    "window of both sides": ch.window(7, 70),
    "causal window": ch.causal() & ch.window(65),
    "first": ch.first(9),
    "first of each batch": ch.first(torch.tensor([0, 77])),
    "prefix": ch.prefix(70) | ch.causal(),
    "padding": ch.padding(torch.tensor([150, 70])),
    "left padding": ch.padding(torch.tensor([3, 64]), "left") & ch.causal(),
    "no keys at all": ch.padding(torch.tensor([0, 0])),
    "documents": ch.documents(IDS),
    "chunks": ch.chunks(48),
    "chunks that look back": ch.chunks(20, 2) & ch.causal(),
    "dilated": ch.dilated(5, 3),
    "holes": ~ch.window(30) & ch.causal(),
    "streaming": ch.causal() & ch.window(40) | ch.first(4),
    "global": ch.window(11, 11) | ch.global_tokens((0, 80, 149)),
    "longformer": ch.longformer(16),
    "bigbird": ch.bigbird(16),
    "any mask": ch.where(ROWS_OF_HEADS[:1, :1]),
    "a mask for each head": ch.where(ROWS_OF_HEADS[:1]),
    "a mask for each batch and head": ch.where(ROWS_OF_HEADS),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_patterns(right: Any, qkv: Any, name: str, kind: torch.dtype) -> None:
    right(*qkv(2, 2, 1, T, T, 16, 24, kind), pattern=PATTERNS[name])


@pytest.mark.parametrize("name", ["causal", "streaming", "padding", "holes", "dilated", "documents"])
def test_patterns_of_few_queries_whose_heads_are_folded(right: Any, qkv: Any, name: str) -> None:
    right(*qkv(2, 4, 2, 3, T, 16, 24), pattern=PATTERNS[name])


def test_more_queries_than_keys(right: Any, qkv: Any) -> None:
    for pattern in (ch.causal(), ch.window(9, 2), ch.causal(align="start")):
        right(*qkv(1, 2, 2, 130, 61, 8, 8), pattern=pattern)


BIASES: dict[str, Any] = {
    "alibi": ch.alibi(4),
    "slopes": ch.alibi(torch.tensor([0.5, -0.01, 0.0, 2.0])),
    "relative": ch.relative(torch.randn(4, 33)),
    "relative, one row, from the end": ch.relative(torch.randn(1, 9), 8),
    "t5": ch.t5(torch.randn(32, 4), bidirectional=True),
    "every pair": (2, 4, "Tq", "Tk"),
    "every pair of a head": (4, "Tq", "Tk"),
    "every pair of a batch": (2, 1, "Tq", "Tk"),
    "every key": (2, 1, 1, "Tk"),
    "every query": (1, 4, "Tq", 1),
    "every head": (2, 4, 1, 1),
    "one number": (1,),
}


def bias_of(name: str, Tq: int, Tk: int, dtype: torch.dtype = torch.float32) -> Any:
    bias = BIASES[name]
    if not isinstance(bias, tuple):
        return bias
    return torch.randn([{"Tq": Tq, "Tk": Tk}.get(n, n) for n in bias]).to(dtype)


@pytest.mark.parametrize("Tq", [3, 113])
@pytest.mark.parametrize("name", BIASES)
def test_biases(right: Any, qkv: Any, name: str, Tq: int) -> None:
    tensors = qkv(2, 4, 2, Tq, 150, 16, 16)
    right(*tensors, bias=bias_of(name, Tq, 150))
    right(*tensors, bias=bias_of(name, Tq, 150), pattern=ch.causal() & ch.window(70) | ch.first(3), softcap=2.0)


@pytest.mark.parametrize("name", [name for name, bias in BIASES.items() if isinstance(bias, tuple)])
@pytest.mark.parametrize("of", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dense_biases_of_any_type(right: Any, qkv: Any, dtype: torch.dtype, name: str, of: torch.dtype) -> None:
    right(*qkv(2, 4, 2, 50, 70, 16, 16, dtype), bias=bias_of(name, 50, 70, of), pattern=ch.causal())


def test_a_dense_bias_in_any_layout(right: Any, qkv: Any) -> None:
    tensors = qkv(2, 4, 2, 50, 70, 16, 16)
    whole = torch.randn(2, 4, 70, 50)
    for bias in (
        whole.mT,
        torch.randn(2, 4, 100, 210)[:, :, ::2, ::3],
        torch.randn(50, 70).expand(2, 4, 50, 70),
        torch.randn(2, 4, 50, 80)[..., 7:77],
        torch.randn(50, 70, 4).permute(2, 0, 1),
    ):
        right(*tensors, bias=bias)


def test_minus_infinity_in_a_dense_bias_hides(right: Any, qkv: Any) -> None:
    bias = torch.randn(4, 150, 150).masked_fill(torch.rand(4, 150, 150) < 0.5, -torch.inf)
    bias[1, 100:120] = -torch.inf
    right(*qkv(2, 4, 2, 150, 150, 16, 16), bias=bias, pattern=ch.causal())


@pytest.mark.parametrize("softcap", [None, 0.3, 30.0])
@pytest.mark.parametrize("sinks", [None, 0.0, -30.0, 30.0])
@pytest.mark.parametrize("scale", [None, 3.0, 0.0, -1.0])
def test_softcap_sinks_and_scale(
    right: Any, qkv: Any, softcap: float | None, sinks: float | None, scale: float | None
) -> None:
    options = {"softcap": softcap, "sinks": None if sinks is None else torch.randn(4) + sinks, "scale": scale}
    for Tq in (2, 75):
        right(*qkv(1, 4, 2, Tq, 100, 16, 16), **options, pattern=ch.causal() & ch.window(20) | ch.first(2))


def test_empty_rows_are_zero_and_stay_apart_from_the_others(right: Any, qkv: Any, dtype: torch.dtype) -> None:
    seen = torch.rand(2, 4, 100, 130) < 0.5
    seen[:, :, 7] = seen[:, :, 40:60] = False
    seen[1, 3] = False
    tensors = qkv(2, 4, 2, 100, 130, 16, 16, dtype)
    for options in ({}, {"sinks": torch.randn(4)}, {"bias": ch.alibi(4)}):
        right(*tensors, pattern=ch.where(seen), **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("Tq", "Dv"), [(150, 5), (150, 64), (4, 16)])
def test_what_is_hidden_never_leaks_not_even_a_bit(
    isa: str, qkv: Any, dtype: torch.dtype, bad: float, Tq: int, Dv: int
) -> None:
    """The keys 64 … 66, 70 and 149 hold NaN or Inf: whole tiles and cut ones, seen by some queries of a block."""
    q, k, v = qkv(1, 4, 2, Tq, 150, 16, Dv, dtype)
    seen = torch.rand(Tq, 150) < 0.7
    seen[:, :64] = True
    seen[::2, [64, 65, 66, 70, 149]] = False
    pattern = ch.where(seen)
    clean = ch.attention(q, k, v, pattern=pattern, return_lse=True, probe=True, backend="native")
    k[:, :, [64, 66, 70]] = bad
    k[:, :, 149, 3] = bad
    v[:, :, [65, 66, 149]] = bad
    v[:, :, 70, 2] = bad
    spoiled = ch.attention(q, k, v, pattern=pattern, return_lse=True, probe=True, backend="native")
    for x, y in zip((*clean[:2], *vars(clean[2]).values()), (*spoiled[:2], *vars(spoiled[2]).values()), strict=True):
        assert torch.equal(x[:, :, ::2], y[:, :, ::2])


def test_what_is_bad_and_in_sight_shows_as_the_reference_shows_it(isa: str, qkv: Any, dtype: torch.dtype) -> None:
    for where, bad in ((1, torch.nan), (2, torch.nan), (2, torch.inf), (2, -torch.inf)):
        tensors = qkv(1, 2, 1, 80, 80, 16, 16, dtype)
        tensors[where][:, :, 70, 3] = bad
        for pattern in (ch.causal(), ch.where(torch.rand(80, 80) < 0.5)):
            ours = ch.attention(*tensors, pattern=pattern, return_lse=True, backend="native")
            expected = ch.attention(*tensors, pattern=pattern, return_lse=True, backend="reference")
            for x, y in zip(ours, expected, strict=True):
                assert torch.equal(x.isnan(), y.isnan())
                assert torch.equal(x.isinf(), y.isinf())


def layouts(B: int, H: int, T: int, D: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same shape, laid out in several ways."""
    return {
        "tokens first": torch.randn(B, T, H, D).to(dtype).transpose(1, 2),
        "sliced": torch.randn(B, H + 1, 2 * T + 1, D + 5).to(dtype)[:, 1:, 1::2, 3:-2],
        "width first": torch.randn(B, H, D, T).to(dtype).mT,
        "batch shared": torch.randn(1, H, T, D).to(dtype).expand(B, H, T, D),
        "head shared": torch.randn(B, 1, T, D).to(dtype).expand(B, H, T, D),
        "one token": torch.randn(B, H, 1, D).to(dtype).expand(B, H, T, D),
        "one number": torch.randn(1, 1, 1, 1).to(dtype).expand(B, H, T, D),
        "every other number": torch.randn(B, H, T, 2 * D).to(dtype)[..., ::2],
    }


@pytest.mark.parametrize("name", layouts(1, 1, 1, 1, torch.float32))
@pytest.mark.parametrize("which", [0, 1, 2])
def test_tensors_in_any_layout(right: Any, qkv: Any, dtype: torch.dtype, which: int, name: str) -> None:
    tensors = list(qkv(2, 4, 2, 60, 60, 24, 24, dtype))
    tensors[which] = layouts(2, tensors[which].shape[1], 60, 24, dtype)[name]
    right(*tensors, pattern=ch.causal())


@pytest.mark.parametrize("sizes", [{"B": 0}, {"H": 0}, {"Tq": 0}, {"Tk": 0}, {"D": 0}, {"Dv": 0}], ids=str)
def test_nothing_of_a_dimension(isa: str, qkv: Any, dtype: torch.dtype, sizes: dict[str, int]) -> None:
    tensors = qkv(**{"B": 2, "H": 4, "K": 2, "Tq": 5, "Tk": 9, "D": 8, "Dv": 8} | sizes, dtype=dtype)
    ours = ch.attention(*tensors, return_lse=True, backend="native")
    expected = ch.attention(*tensors, return_lse=True, backend="reference")
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, atol=0.02, rtol=0.02)


def test_some_of_the_queries_are_those_rows_of_the_whole(isa: str, qkv: Any) -> None:
    for rows in ([0], [3, 140, 7, 7], list(range(5, 70))):
        call = checked(*qkv(2, 4, 2, 150, 150, 16, 16), pattern=ch.causal(), bias=ch.alibi(4), sinks=torch.zeros(4))
        out, lse, _ = native.forward(call, False)
        some, some_lse, _ = native.forward(call.take(torch.tensor(rows)), False)
        torch.testing.assert_close(some, out[:, :, rows], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(some_lse, lse[:, :, rows], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("low", [-1e9, torch.finfo(torch.float32).min])
def test_rows_of_hugely_low_scores_are_exact(isa: str, qkv: Any, low: float) -> None:
    bias = torch.zeros(150, 150).masked_fill(~torch.ones(150, 150, dtype=torch.bool).tril(), low)
    bias[:, :70] = low
    tensors = qkv(1, 2, 2, 150, 150, 8, 8)
    ours = ch.attention(*tensors, bias=bias, probe=True, backend="native")
    expected = ch.attention(*tensors, bias=bias, probe=True, backend="reference")
    torch.testing.assert_close(ours[0], expected[0], atol=1e-5, rtol=1e-5)
    for name in ("entropy", "peak", "distance"):
        torch.testing.assert_close(getattr(ours[1], name), getattr(expected[1], name), atol=1e-4, rtol=1e-4)
