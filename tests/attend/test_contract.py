"""The contract, line by line, on every backend. The numbers are those of the contract in the documentation."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import clearhead as ch
from clearhead.attend.api import checked
from clearhead.attend.backends import BACKENDS, choose

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def qkv(
    B: int = 2, H: int = 4, K: int = 2, Tq: int = 5, Tk: int = 7, D: int = 8, Dv: int = 3, **kind: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(B, H, Tq, D, **kind), torch.randn(B, K, Tk, D, **kind), torch.randn(B, K, Tk, Dv, **kind)


@given(data=st.data())
def test_attention_is_what_its_formula_says(
    backend: str, plain: Any, near: Any, calls: Any, data: st.DataObject
) -> None:
    (q, k, v), options, plainly = data.draw(calls)
    out, lse = ch.attention(q, k, v, **options, return_lse=True, backend=backend)
    expected = plain(q, k, v, **plainly)
    near(out, expected.out, expected.s)
    near(lse, expected.lse, expected.s)


def test_it_is_computed_in_float32_or_better_and_given_back_in_the_type_of_q(
    typed: tuple[str, torch.dtype], plain: Any
) -> None:
    backend, dtype = typed
    q, k, v = qkv(dtype=dtype)
    out = ch.attention(q, k, v, pattern=ch.causal(), backend=backend)
    assert out.dtype == dtype
    expected = plain(q, k, v, ch.causal().dense(5, 7)).out
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(("Tq", "Tk"), [(300, 300), (130, 700), (1, 1200), (200, 90)])
def test_many_tiles_are_one_attention(
    backend: str, dtype: torch.dtype, plain: Any, near: Any, Tq: int, Tk: int
) -> None:
    q, k, v = qkv(1, 2, 1, Tq, Tk, dtype=dtype)
    lengths = torch.tensor([Tk - 20])
    for pattern in (ch.full(), ch.causal(), ch.causal() & ch.window(40) | ch.first(3), ch.padding(lengths)):
        out = ch.attention(q, k, v, pattern=pattern, backend=backend)
        near(out, plain(q, k, v, pattern.dense(Tq, Tk)).out)


def test_1_true_means_may_attend(backend: str, dtype: torch.dtype, plain: Any, near: Any) -> None:
    q, k, v = qkv(dtype=dtype)
    seen = torch.rand(2, 4, 5, 7) < 0.5
    out = ch.attention(q, k, v, pattern=ch.where(seen), backend=backend)
    near(out, plain(q, k, v, seen).out)


def test_2_queries_are_the_last_of_the_positions_unless_aligned_to_the_start(backend: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(Tq=7, dtype=dtype)
    whole = ch.attention(q, k, v, pattern=ch.causal(), backend=backend)
    step = ch.attention(q[:, :, -2:], k, v, pattern=ch.causal(), backend=backend)
    torch.testing.assert_close(step, whole[:, :, -2:])
    early = ch.attention(q[:, :, :2], k, v, pattern=ch.causal(align="start"), backend=backend)
    torch.testing.assert_close(early, whole[:, :, :2])


def test_3_a_window_of_w_is_the_query_and_the_w_minus_1_keys_before_it(backend: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(Tq=1, dtype=dtype)
    seen = ch.attention(q, k, v, pattern=ch.window(3), backend=backend)
    torch.testing.assert_close(seen, ch.attention(q, k[:, :, -3:], v[:, :, -3:], backend=backend))
    both = ch.attention(q, k, v, pattern=ch.window(3, 2, align=3), backend=backend)
    torch.testing.assert_close(both, ch.attention(q, k[:, :, :6], v[:, :, :6], backend=backend))


def test_4_masks_compose_with_one_another_and_with_causality(
    backend: str, dtype: torch.dtype, plain: Any, near: Any
) -> None:
    q, k, v = qkv(dtype=dtype)
    i, j = torch.arange(5)[:, None] + 2, torch.arange(7)
    mask, lengths = torch.rand(2, 1, 5, 7) < 0.7, torch.tensor([4, 7])
    pattern = (ch.causal() & ch.window(3) | ch.first(1)) & ~ch.where(mask) & ch.padding(lengths)
    visible = ((j <= i) & (j > i - 3) | (j < 1)) & ~mask & (j < lengths.view(2, 1, 1, 1))
    near(ch.attention(q, k, v, pattern=pattern, backend=backend), plain(q, k, v, visible).out)


def test_5_an_empty_row_gives_zero_and_finite_gradients(typed: tuple[str, torch.dtype]) -> None:
    backend, dtype = typed
    q, k, v = (x.requires_grad_() for x in qkv(Tq=7, dtype=dtype))
    seen = torch.rand(2, 4, 7, 7) < 0.5
    seen[:, :, 2] = False
    seen[1, 3] = False
    bias = torch.randn(4, 7, 7, requires_grad=True)
    out, lse, statistics = ch.attention(
        q, k, v, pattern=ch.where(seen), bias=bias, return_lse=True, probe=True, backend=backend
    )
    for of_empty in (lambda x: x[:, :, 2], lambda x: x[1, 3]):
        assert (of_empty(out) == 0).all()
        assert (of_empty(lse) == -torch.inf).all()
        for name in ("entropy", "entropy_normalised", "peak", "distance", "visible"):
            assert (of_empty(getattr(statistics, name)) == 0).all(), name
        assert (of_empty(statistics.peak_at) == -1).all()
        assert (of_empty(statistics.max_score) == -torch.inf).all()
    (out.float().square().sum() + lse[lse.isfinite()].sum()).backward()
    for x in (q, k, v, bias):
        assert x.grad is not None
        assert x.grad.isfinite().all()
    assert (q.grad[:, :, 2] == 0).all()
    assert (q.grad[1, 3] == 0).all()


def test_5_so_does_a_call_without_keys_queries_or_batches(backend: str) -> None:
    q, k, v = qkv()
    out, lse = ch.attention(q, k[:, :, :0], v[:, :, :0], return_lse=True, backend=backend)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    assert ch.attention(q[:, :, :0], k, v, pattern=ch.causal(), backend=backend).shape == (2, 4, 0, 3)
    assert ch.attention(q[:0], k[:0], v[:0], pattern=ch.causal(), backend=backend).shape == (0, 4, 5, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_6_what_a_hidden_key_holds_never_leaks(
    typed: tuple[str, torch.dtype], bad: float, softcap: float | None
) -> None:
    """Output, log-sum-exp, statistics and every gradient are those of clean keys, bit for bit."""
    backend, dtype = typed
    clean = qkv(1, 2, 1, 40, 40, dtype=dtype)
    pattern = ch.causal() & ch.window(8)
    rows = slice(0, 30)  # the queries that may not see keys 30, 31, …

    def run(k_bad: bool, v_bad: bool) -> list[Tensor]:
        q, k, v = (x.clone() for x in clean)
        if k_bad:
            k[:, :, 30] = bad
            k[:, :, 33, 1] = bad
        if v_bad:
            v[:, :, 31, 2] = bad
            v[:, :, 38] = bad
        leaves = [x.requires_grad_() for x in (q, k, v)]
        slopes = torch.tensor([0.3, 0.1], requires_grad=True)
        out, lse, seen = ch.attention(
            *leaves,
            pattern=pattern,
            bias=ch.alibi(slopes),
            softcap=softcap,
            return_lse=True,
            probe=True,
            backend=backend,
        )
        (out[:, :, rows].double().square().sum() + lse[:, :, rows].sum()).backward()
        q_grad, k_grad, v_grad = (x.grad for x in leaves)
        kept = [out, lse, seen.entropy, seen.peak, seen.distance, seen.max_score]
        # Queries that do see a bad key have NaN gradients of their own; the keys they see alone are past row 30.
        return [x[:, :, rows].detach() for x in kept] + [q_grad[:, :, rows], k_grad[:, :, :22], v_grad[:, :, :22]]

    unspoiled = run(False, False)
    for spoiled in (run(True, False), run(False, True), run(True, True)):
        for ours, expected in zip(spoiled, unspoiled, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_6_nor_does_padding_that_no_query_sees_and_no_gradient_is_spoiled(backend: str, bad: float) -> None:
    lengths = torch.tensor([3, 5])
    q, k, v = qkv()
    for x in (k, v):
        x[0, :, 3:], x[1, :, 5:] = bad, bad
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = ch.attention(*leaves, pattern=ch.padding(lengths), backend=backend)
    out.square().sum().backward()
    zeroed = [torch.nan_to_num(x.detach(), 0.0, 0.0, 0.0).requires_grad_() for x in leaves]
    expected = ch.attention(*zeroed, pattern=ch.padding(lengths), backend=backend)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected)
    for x, y in zip(leaves, zeroed, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_6_but_a_bad_key_in_sight_shows(backend: str) -> None:
    for which in (1, 2):
        tensors = qkv(1, 1, 1, 4, 4)
        tensors[which][0, 0, 2] = torch.nan
        out, lse, seen = ch.attention(*tensors, pattern=ch.causal(), return_lse=True, probe=True, backend=backend)
        assert out[0, 0, :2].isfinite().all()
        assert out[0, 0, 2:].isnan().all()
        if which == 1:
            for x in (lse, seen.lse, seen.entropy, seen.peak, seen.distance, seen.max_score):
                assert x[0, 0, :2].isfinite().all()
                assert x[0, 0, 2:].isnan().all()


def test_7_log_sum_exp_is_natural_and_float32_or_better(typed: tuple[str, torch.dtype]) -> None:
    backend, dtype = typed
    q, k, v = qkv(dtype=dtype)
    lse = ch.attention(q, k, v, pattern=ch.first(3), scale=0.0, return_lse=True, backend=backend)[1]
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(lse, torch.full_like(lse, 3).log())


def test_8_gradients_flow_to_all_that_may_be_learned(backend: str) -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    bias, sinks = (torch.randn(s, requires_grad=True) for s in ((4, 5, 7), (4,)))
    out, lse = ch.attention(q, k, v, bias=bias, sinks=sinks, return_lse=True, backend=backend)
    for of in (out, lse):
        reached = torch.autograd.grad(of.sum(), (q, k, bias, sinks), retain_graph=True)
        assert all(g.abs().max() > 0 for g in reached)
    assert torch.autograd.grad(out.sum(), v)[0].abs().max() > 0


def test_8_and_to_a_score_s_weights(scoring: str) -> None:
    q, k, v = qkv()
    W = torch.randn(8, 8, requires_grad=True)
    out, lse = ch.attention(q, k, v, score=ch.Multiplicative(W), return_lse=True, backend=scoring)
    for of in (out, lse):
        assert torch.autograd.grad(of.sum(), W, retain_graph=True)[0].abs().max() > 0


@pytest.mark.usefixtures("unchecked")
def test_9_a_backend_asked_for_by_name_that_is_not_there_is_named() -> None:
    names = ", ".join(map(repr, BACKENDS))
    with pytest.raises(ch.ClearheadError, match=rf"backend: got 'cudnn', expected 'auto' or one of {names}\."):
        ch.attention(*qkv(), backend="cudnn")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of PyTorch's own forward-mode rules
def test_9_auto_takes_the_first_backend_that_can() -> None:
    call = checked(*qkv())
    assert choose(call, "auto") is next(one for one in BACKENDS.values() if one.refuses(call) is None)
    assert choose(checked(*qkv(dtype=torch.float64)), "auto") is BACKENDS["tiled"]
    q, k, v = qkv()
    torch.func.jvp(lambda q: ch.attention(q, k, v), (q,), (q,))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"q": [1.0]}, r"q: got list, expected a tensor \(B, H, Tq, D\)\."),
    ({"q": torch.zeros(5, 8)}, r"q has shape \(5, 8\); expected the four dimensions \(B, H, Tq, D\)\. .* unsqueeze"),
    ({"k": torch.zeros(2, 2, 7, 8).int()}, r"k is torch\.int32; expected float16, bfloat16, float32 or float64\."),
    (
        {"v": torch.zeros(2, 2, 7, 3).half()},
        r"q is torch\.float32 on cpu but v is torch\.float16 on cpu; bring them to one",
    ),
    (
        {"v": torch.zeros(2, 2, 6, 3)},
        r"k \(2, 2, 7, 8\) and v \(2, 2, 6, 3\) differ in \(B, K, Tk\); each key needs one value",
    ),
    ({"q": torch.zeros(1, 4, 5, 8)}, r"q \(1, 4, 5, 8\) has B = 1 but k \(2, 2, 7, 8\) has B = 2; expand the one"),
    (
        {"q": torch.zeros(2, 3, 5, 8)},
        r"has H = 3 heads and k \(2, 2, 7, 8\) has K = 2; expected H to be a multiple of K",
    ),
    ({"q": torch.zeros(2, 4, 5, 6)}, r"a dot product needs queries and keys of one width: got D = 6 in q, 8 in k"),
    ({"scale": "big"}, r"scale: got 'big', expected a number, or None"),
    ({"softcap": 0}, r"softcap: got 0, expected a number above 0, or None for no cap"),
    ({"dropout": 1.0}, r"dropout: got 1\.0, expected a probability, at least 0 and below 1"),
    ({"dropout": -0.1}, r"dropout: got -0\.1, expected a probability"),
    ({"sinks": torch.zeros(2)}, r"sinks: got shape \(2,\), expected one logit a head, a tensor \(H,\) = \(4,\)"),
    ({"pattern": torch.ones(5, 7).bool()}, r"pattern: got a tensor, expected a Pattern\. Say where\(mask\)"),
    ({"pattern": "causal"}, r"pattern: got 'causal', expected a Pattern such as causal\(\) & window\(256\), or None"),
    (
        {"pattern": ch.padding(torch.tensor([1, 2, 3]))},
        r"pattern: padding\(.*\) differs over \(batches, heads\) = \(3, 1\), but the call has \(B, H\) = \(2, 4\)",
    ),
    (
        {"bias": torch.zeros(5, 6)},
        r"bias: got a tensor of shape \(5, 6\); .* to the scores, \(B, H, Tq, Tk\) = \(2, 4, 5, 7\)",
    ),
    ({"bias": torch.zeros(1, 1, 1, 5, 7)}, r"bias: got a tensor of shape \(1, 1, 1, 5, 7\)"),
    (
        {"bias": ch.relative(torch.zeros(3, 9))},
        r"relative: got a table of shape \(3, 9\) for H = 4 heads; expected \(4, N\) or \(1, N\)",
    ),
    ({"bias": ch.alibi(6)}, r"alibi: got slopes of shape \(6,\) for \(B, H\) = \(2, 4\); expected one a head, \(4,\)"),
    ({"score": "cosine"}, r"score: got 'cosine'; expected 'scaled' \(q · k / √D, the default\), 'dot'"),
]
REFUSED_SCORES: list[tuple[dict[str, Any], str]] = [
    (
        {"score": ch.Multiplicative(torch.zeros(8, 6))},
        r"Multiplicative: W is \(8, 6\) for queries of D = 8 and keys of Dk = 8",
    ),
    (
        {"score": ch.Additive(torch.zeros(4, 8), torch.zeros(4, 6), torch.zeros(4))},
        r"Additive: Wq is \(4, 8\) and Wk \(4, 6\) for queries of D = 8",
    ),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_10_what_does_not_fit_is_said_in_a_sentence(backend: str, arguments: dict[str, Any], says: str) -> None:
    q, k, v = qkv()
    with pytest.raises(ch.ClearheadError, match=says):
        ch.attention(**{"q": q, "k": k, "v": v, "backend": backend} | arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "says"), REFUSED_SCORES, ids=["Multiplicative", "Additive"])
def test_10_nor_does_a_score_that_does_not_fit(scoring: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ch.ClearheadError, match=says):
        ch.attention(*qkv(), backend=scoring, **arguments)


def test_tiled_makes_no_tensor_larger_than_a_few_tiles_or_inputs() -> None:
    """Forward, statistics and backward; 4,096 × 4,096 weights would be 16,777,216 numbers."""
    T, D = 4096, 4
    q, k, v = (torch.randn(1, 1, T, D, requires_grad=True) for _ in range(3))
    table = torch.randn(1, 9, requires_grad=True)
    score = ch.Additive(torch.randn(2, D, requires_grad=True), torch.randn(2, D), torch.randn(2))
    pattern = ch.causal() & ch.window(64) | ch.first(4)
    options: list[dict[str, Any]] = [{"bias": ch.relative(table), "sinks": torch.zeros(1)}, {"score": score}]
    for option in options:
        with Largest() as largest:
            out, _ = ch.attention(q, k, v, pattern=pattern, dropout=0.1, probe=True, backend="tiled", **option)
            out.sum().backward()
        assert T * D <= largest.elements <= 16 * T


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that was made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return made


def test_a_long_row_of_queries_at_full_attention_fits_in_little_memory() -> None:
    """16,384 × 16,384 weights would be a gigabyte in float32."""
    script = """
import resource
import torch
import clearhead as ch
torch.set_num_threads(1)
q, k, v = (torch.randn(1, 1, 16384, 4, requires_grad=True) for _ in range(3))
ch.attention(q[:, :, :8], k[:, :, :8], v[:, :, :8]).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ch.attention(q, k, v, backend="tiled").sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100
