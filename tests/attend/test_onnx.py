"""ONNX's Attention: every node test of its backend suite, and its reference implementation."""

import functools
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend.onnx import onnx_attention

onnx = pytest.importorskip("onnx")

OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")
TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 2e-2}


@functools.cache
def node_tests() -> dict[str, Any]:
    """The suite's cases of one Attention node; their `_expanded` twins say the same in smaller operators."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite builds the cases of all operators, overflows and all
        cases = collect_testcases("Attention")
    return {case.name: case for case in cases if [n.op_type for n in case.model.graph.node] == ["Attention"]}


def tensor(x: np.ndarray) -> Tensor:
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.ascontiguousarray(x))


def assert_as_in_onnx(case: Any) -> None:
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if "qk_matmul_output" in node.output:
        attributes.setdefault("qk_matmul_output_mode", 0)
    for inputs, outputs in case.data_sets:
        given = iter(inputs)
        ours = onnx_attention(*(tensor(next(given)) if name else None for name in node.input), **attributes)
        wanted = iter(outputs)
        for name, value in zip(OUTPUTS, node.output, strict=False):
            if value:
                expected = next(wanted)
                out = getattr(ours, name)
                assert str(out.dtype).removeprefix("torch.") == expected.dtype.name
                tolerance = TOLERANCE[expected.dtype.name]
                torch.testing.assert_close(
                    out.float(), tensor(expected).float(), atol=tolerance, rtol=tolerance, msg=f"{case.name}: {name}"
                )


def test_every_node_test_of_onnx_holds() -> None:
    cases = node_tests()
    assert len(cases) >= 93
    assert {case.model.opset_import[0].version for case in cases.values()} >= {23, 24, 25}
    for case in cases.values():
        assert_as_in_onnx(case)


def random_inputs(rng: np.random.Generator, options: dict[str, Any], dtype: type) -> dict[str, Any]:
    B, H, K, Tq, Tk, D, Dv = 2, 4, 2, 3, 5, 8, 6
    past = 4 if options["cache"] == "past" else 0

    def randn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    inputs = {"Q": randn(B, H, Tq, D), "K": randn(B, K, Tk, D), "V": randn(B, K, Tk, Dv)}
    total = Tk + past
    if past:
        inputs |= {"past_key": randn(B, K, past, D), "past_value": randn(B, K, past, Dv)}
    if options["cache"] == "nonpad":
        inputs["nonpad_kv_seqlen"] = np.array([2, 4])
        total = 4  # a mask may end with the longest
    shape = {"(Tq, Tk)": (Tq, total), "(B, 1, Tq, Tk)": (B, 1, Tq, total), "(H, Tq, Tk)": (H, Tq, total)}
    if options["mask"] is not None:
        kind, over = options["mask"]
        visible = rng.random(shape[over]) < 0.6
        inputs["attn_mask"] = visible if kind == "bool" else np.where(visible, randn(*shape[over]), dtype(-np.inf))
    return inputs


ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"is_causal": 1},
    {"left_window_size": 1},
    {"left_window_size": 0, "right_window_size": 1},
    {"left_window_size": 1, "right_window_size": 2**31 - 1},
    {"is_causal": 1, "left_window_size": 2, "right_window_size": 0, "softcap": 1.5, "scale": 0.4},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_it_computes_what_onnx_s_reference_does(attributes: dict[str, Any], dtype: type) -> None:
    """All caches and masks, crossed with the four outputs of the scores."""
    from onnx.reference.ops.op_attention import _compute_attention

    rng = np.random.default_rng(0)
    masks = [None, *itertools.product(["bool", "float"], ["(Tq, Tk)", "(B, 1, Tq, Tk)", "(H, Tq, Tk)"])]
    for cache, mask, mode in itertools.product([None, "past", "nonpad"], masks, range(4)):
        if mode == 0 and "softcap" in attributes:
            continue  # onnx 1.23 gives the capped scores there, against its own text; tested by itself below
        inputs = random_inputs(rng, {"cache": cache, "mask": mask}, dtype)
        with np.errstate(invalid="ignore"):
            expected = _compute_attention(**inputs, **attributes, qk_matmul_output_mode=mode)
        ours = onnx_attention(
            **{name: torch.from_numpy(x) for name, x in inputs.items()}, **attributes, qk_matmul_output_mode=mode
        )
        tolerance = TOLERANCE[np.dtype(dtype).name]
        for name, out, want in zip(OUTPUTS, ours, expected, strict=True):
            torch.testing.assert_close(
                out, torch.from_numpy(want), atol=tolerance, rtol=tolerance, msg=f"{name} {cache} {mask} {mode}"
            )


def test_lengths_of_a_narrow_type_may_be_shorter_than_the_queries() -> None:
    q = torch.randn(1, 1, 4, 8)
    made = [onnx_attention(q, q, q, None, None, None, torch.tensor([2], dtype=d), is_causal=1).Y for d in (
        torch.int64, torch.uint8)]  # fmt: skip
    assert torch.equal(*made)
    assert (made[0][:, :, :2] == 0).all() and (made[0][:, :, 2:] != 0).any()


def test_the_scores_are_read_out_before_and_after_each_step() -> None:
    Q, K, V = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    mask = torch.randn(3, 5).masked_fill(torch.rand(3, 5) < 0.3, -torch.inf)
    mask[1] = -torch.inf
    raw = Q @ K.mT * 0.5
    capped = 2.0 * torch.tanh(raw / 2.0)
    weights = torch.softmax(capped + mask, -1)
    weights[:, :, 1] = 0
    for mode, expected in enumerate((raw, capped, capped + mask, weights)):
        ours = onnx_attention(Q, K, V, mask, softcap=2.0, qk_matmul_output_mode=mode)
        torch.testing.assert_close(ours.qk_matmul_output, expected)
        torch.testing.assert_close(ours.Y, weights @ V)
    assert onnx_attention(Q, K, V).qk_matmul_output is None


def test_heads_may_lie_side_by_side_in_three_dimensions() -> None:
    Q, K, V = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 6)
    past = {"past_key": torch.randn(2, 2, 3, 8), "past_value": torch.randn(2, 2, 3, 6)}
    flat = (x.transpose(1, 2).flatten(2) for x in (Q, K, V))
    ours = onnx_attention(*flat, **past, is_causal=1, q_num_heads=4, kv_num_heads=2)
    expected = onnx_attention(Q, K, V, **past, is_causal=1)
    torch.testing.assert_close(ours.Y, expected.Y.transpose(1, 2).flatten(2))
    assert torch.equal(ours.present_key, expected.present_key)


def test_values_may_be_of_another_type_and_the_softmax_in_float64() -> None:
    Q, K, V = torch.randn(1, 2, 3, 8).half(), torch.randn(1, 2, 5, 8).half(), torch.randn(1, 2, 5, 8)
    ours = onnx_attention(Q, K, V, softmax_precision=11, qk_matmul_output_mode=3)
    assert ours.Y.dtype == ours.qk_matmul_output.dtype == torch.float16
    assert ours.present_value.dtype == torch.float32
    torch.testing.assert_close(ours.Y.float(), ch.attention(Q.float(), K.float(), V), atol=1e-3, rtol=1e-3)


X = torch.randn(1, 2, 3, 4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"past_key": X}, r"got one of past_key and past_value; bring both"),
        ({"past_key": X, "past_value": X, "nonpad_kv_seqlen": torch.tensor([2])}, r"both a past and nonpad_kv_seqlen"),
        ({"left_window_size": -2}, r"^left_window_size: got -2, expected a whole number, -1 or more\.$"),
        ({"right_window_size": 1.0}, r"^right_window_size: got 1\.0, expected a whole number, -1 or more\.$"),
        ({"right_window_size": None}, r"^right_window_size: got None, expected a whole number"),
        ({"is_causal": 2}, r"got is_causal=2; expected one of 0, 1\.$"),
        ({"is_causal": 1.0}, r"got is_causal=1\.0; expected one of 0, 1\.$"),
        ({"softmax_precision": 99}, r"got softmax_precision=99; expected one of None, 1, 10, 11, 16\.$"),
        ({"qk_matmul_output_mode": 4}, r"got qk_matmul_output_mode=4; expected one of None, 0, 1, 2, 3\.$"),
        ({"qk_matmul_output_mode": 1.0}, r"got qk_matmul_output_mode=1\.0; expected one of"),
        ({"K": X.numpy()}, r"^K: got ndarray, expected a tensor \(B, K, T, width\), or .*from_numpy\(K\) makes one\.$"),
        ({"V": None}, r"^V: got NoneType, expected a tensor \(B, K, T, width\), or \(B, T, K · width\)\.$"),
        ({"attn_mask": [[True]]}, r"^attn_mask: got list, expected a tensor that broadcasts to \(B, H, Tq, total\)\.$"),
        ({"attn_mask": torch.tensor(True)}, r"^attn_mask has no dimension; expected one that broadcasts"),
        ({"past_key": X, "past_value": 5}, r"^past_value: got int, expected a tensor \(B, K, past, Dv\)\.$"),
        (
            {"past_key": X[:, :1], "past_value": X},
            r"^past_key: got torch\.float32 of shape \(1, 1, 3, 4\) before .*; exp",
        ),
        (
            {"past_key": X, "past_value": X.double()},
            r"^past_value: got torch\.float64 of shape .* expected one type, and",
        ),
        (
            {"nonpad_kv_seqlen": [3]},
            r"^nonpad_kv_seqlen: got list, expected one whole number a sequence, \(B,\) = \(1,\)",
        ),
        ({"nonpad_kv_seqlen": torch.tensor([3.0])}, r"^nonpad_kv_seqlen: got torch\.float32 of shape \(1,\), expected"),
        ({"nonpad_kv_seqlen": torch.tensor([3, 3])}, r"^nonpad_kv_seqlen: got torch\.int64 of shape \(2,\), expected"),
        ({"q_num_heads": 2}, r"got Q of 4 dimensions with q_num_heads=2, kv_num_heads=None; .* neither with 4"),
        ({"Q": X[0], "q_num_heads": 2}, r"got Q of 3 dimensions .* expected both numbers with 3 dimensions"),
        (
            {"Q": X[0], "q_num_heads": 3, "kv_num_heads": 2},
            r"shape \(2, 3, 4\) for 3 heads; expected \(B, T, heads · D\)",
        ),
        *(
            (
                {"Q": X[0], "K": X[0], "V": X[0], "q_num_heads": heads, "kv_num_heads": 1},
                rf"^q_num_heads: got {heads}, exp",
            )
            for heads in (2.0, 0, -2, True)
        ),
        ({"attn_mask": torch.zeros(3, 9)}, r"bias: got a tensor of shape \(3, 9\); expected one that broadcasts"),
    ],
)
def test_what_contradicts_itself_is_said_in_a_sentence(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ch.ClearheadError, match=says):
        onnx_attention(**{"Q": X, "K": X, "V": X} | arguments)
