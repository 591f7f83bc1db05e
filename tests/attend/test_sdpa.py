"""sdpa(), against torch.nn.functional.scaled_dot_product_attention."""

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import clearhead as ch

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "2-D": ((5, 8), (7, 8), (7, 4)),
    "3-D": ((3, 5, 8), (3, 7, 8), (3, 7, 4)),
    "4-D": ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)),
    "5-D": ((2, 2, 3, 5, 8), (2, 2, 3, 7, 8), (2, 2, 3, 7, 4)),
    "square": ((2, 3, 6, 8), (2, 3, 6, 8), (2, 3, 6, 8)),
    "more queries than keys": ((2, 3, 9, 8), (2, 3, 4, 8), (2, 3, 4, 8)),
    "one query": ((2, 3, 1, 8), (2, 3, 9, 8), (2, 3, 9, 8)),
    "3-D shared": ((3, 5, 8), (1, 7, 8), (1, 7, 4)),
    "4-D shared": ((2, 3, 5, 8), (1, 3, 7, 8), (2, 1, 7, 4)),
    "query shared": ((1, 1, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)),
    "5-D shared": ((2, 1, 3, 5, 8), (1, 2, 3, 7, 8), (2, 2, 1, 7, 4)),
    "fewer dimensions": ((2, 3, 5, 8), (3, 7, 8), (7, 4)),
}
GROUPED: dict[str, tuple[tuple[int, ...], ...]] = {
    "3-D": ((6, 5, 8), (2, 7, 8), (2, 7, 4)),
    "4-D": ((2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 4)),
    "5-D": ((2, 2, 6, 5, 8), (2, 2, 3, 7, 8), (2, 2, 3, 7, 4)),
    "one key head": ((2, 6, 5, 8), (2, 1, 7, 8), (2, 1, 7, 4)),
    "batch shared": ((2, 6, 5, 8), (1, 3, 7, 8), (2, 3, 7, 4)),
    "unlike key and value heads": ((2, 6, 5, 8), (2, 3, 7, 8), (2, 2, 7, 4)),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def tensors(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def assert_same(inputs: list[Tensor], dtype: torch.dtype = torch.float64, **options: Any) -> None:
    """Same output, same gradients."""
    results = []
    mask = options.get("attn_mask")
    learned = [*inputs, *([mask] if mask is not None and mask.requires_grad else [])]
    for call in (ch.sdpa, scaled_dot_product_attention):
        out = call(*inputs, **options)
        results.append((out, *torch.autograd.grad(out.double().sin().sum(), learned)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def scores_shape(inputs: list[Tensor]) -> tuple[int, ...]:
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in inputs))
    return (*lead, inputs[0].shape[-2], inputs[1].shape[-2])


def visible(shape: tuple[int, ...]) -> Tensor:
    """A random mask in which every query sees a key."""
    mask = torch.rand(shape) < 0.5
    mask[..., 0] = True
    return mask


def test_the_signature_is_pytorch_s() -> None:
    documented = inspect.getdoc(scaled_dot_product_attention).split(" ->")[0]
    names = re.findall(r"(\w+)(?:=([\w.]+))?[,)]", documented)
    ours = inspect.signature(ch.sdpa).parameters
    assert [name for name, _ in names] == list(ours)
    for name, default in names[3:]:
        assert str(ours[name].default) == default, name


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"scale": 0.0}], ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_shapes(shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]) -> None:
    assert_same(tensors(shapes), **options)


@pytest.mark.parametrize("kind", ["bool", "float", "learned", "minus infinity"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_masks_over_the_whole_of_the_scores_and_over_parts(shapes: tuple[tuple[int, ...], ...], kind: str) -> None:
    inputs = tensors(shapes)
    full = scores_shape(inputs)
    parts = {full, full[-2:], (1, *full[-1:]), (full[-2], 1), (*(1 for _ in full[:-2]), *full[-2:])}
    if len(full) > 3:
        parts |= {(*full[:-3], 1, *full[-2:]), full[-3:]}
    for shape in sorted(parts):
        mask = visible(shape)
        if kind != "bool":
            added = torch.randn(shape, dtype=torch.float64)
            mask = added.masked_fill(~mask, -torch.inf) if kind == "minus infinity" else added
            mask.requires_grad_(kind == "learned")
        assert_same(inputs, attn_mask=mask)


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"attn_mask": visible((5, 7))}], ids=["", "causal", "mask"]
)
@pytest.mark.parametrize("shapes", GROUPED.values(), ids=GROUPED)
def test_grouped_heads(shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]) -> None:
    assert_same(tensors(shapes), enable_gqa=True, **options)


@pytest.mark.parametrize("mask", [None, "bool", "own", "float32"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_types(dtype: torch.dtype, mask: str | None) -> None:
    inputs = tensors(SHAPES["4-D"], dtype)
    if mask == "bool":
        attn_mask = visible((5, 7))
    elif mask is not None:
        attn_mask = torch.randn(5, 7, dtype=dtype if mask == "own" else torch.float32)
    else:
        attn_mask = None
    assert ch.sdpa(*inputs, attn_mask=attn_mask).dtype == dtype
    assert_same(inputs, dtype, attn_mask=attn_mask)


@pytest.mark.parametrize("mask", [torch.zeros(5, 7).bool(), torch.full((5, 7), -torch.inf)], ids=["bool", "float"])
def test_a_fully_masked_row_gives_zero_and_finite_gradients(mask: Tensor) -> None:
    inputs = tensors(SHAPES["4-D"], torch.float32)
    out = ch.sdpa(*inputs, attn_mask=mask)
    assert (out == 0).all()
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), inputs))


def test_dropout_keeps_the_mean() -> None:
    q, k, v = torch.zeros(1, 1, 50, 2), torch.zeros(1, 1, 500, 2), torch.ones(1, 1, 500, 1)
    out = ch.sdpa(q, k, v, dropout_p=0.5)
    assert 0 < out.std() < 0.1
    assert abs(out.mean() - 1) < 0.03


def four(**other: Tensor) -> dict[str, Any]:
    return dict(zip(("query", "key", "value"), tensors(SHAPES["4-D"], torch.float32), strict=True)) | other


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (four() | {"attn_mask": torch.ones(5, 7).bool(), "is_causal": True}, r"got both attn_mask and is_causal=True"),
        (
            four(attn_mask=torch.ones(5, 7).int()),
            r"got attn_mask of torch\.int32; expected torch\.bool, torch\.float32 or",
        ),
        (
            four(attn_mask=torch.ones(5, 7).double()),
            r"got attn_mask of torch\.float64; expected torch\.bool, torch\.float32",
        ),
        (four(attn_mask=torch.ones(5, 6).bool()), r"got attn_mask of shape \(5, 6\); .* the scores, \(2, 3, 5, 7\)"),
        (four(attn_mask=torch.ones(7).bool()), r"got attn_mask of shape \(7,\); expected two dimensions or more"),
        (four(attn_mask=torch.ones(1, 2, 3, 5, 7).bool()), r"got attn_mask of shape \(1, 2, 3, 5, 7\)"),
        (
            four(key=torch.randn(2, 2, 7, 8), value=torch.randn(2, 2, 7, 8)),
            r"the heads of query, key and value are \(3,\), \(2,\), \(2,\); .* enable_gqa",
        ),
        (
            four(key=torch.randn(3, 3, 7, 8), value=torch.randn(3, 3, 7, 8)),
            r"the batches of query, key and value are \(2,\), \(3,\), \(3,\)",
        ),
        (
            four(key=torch.randn(2, 2, 7, 8), value=torch.randn(2, 2, 7, 8)) | {"enable_gqa": True},
            r"H = 3 heads .* K = 2; expected H to be a multiple",
        ),
        (
            four(key=torch.randn(2, 2, 7, 8)) | {"enable_gqa": True},
            r"got 2 heads to share among H = 3; expected a divisor",
        ),
        (
            {name: torch.randn(4) for name in ("query", "key", "value")},
            r"got query \(4,\), .* expected each to be \(\.\.\., T, D\)",
        ),
        (
            {name: torch.randn(4, 4) for name in ("query", "key", "value")} | {"enable_gqa": True},
            r"\(\.\.\., heads, T, D\) with enable_gqa",
        ),
        (four(key=torch.randn(2, 3, 7, 6)), r"one width: got D = 8 in q, 6 in k"),
        (four(value=torch.randn(2, 3, 7, 6).double()), r"v is torch\.float64"),
        (four() | {"dropout_p": 1.5}, r"dropout: got 1\.5"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_it_raises_where_pytorch_does_in_a_sentence(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ch.ClearheadError, match=says):
        ch.sdpa(**arguments)
    with pytest.raises((RuntimeError, IndexError)):
        scaled_dot_product_attention(**arguments)
