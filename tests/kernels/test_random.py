"""Any call that there may be: sizes, patterns, biases and layouts drawn at random, forward and backward."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import clearhead as ch


def patterns(Tq: int, Tk: int) -> st.SearchStrategy[ch.Pattern]:
    """A few kinds, and what `&`, `|` and `~` make of them; tests/attend has every kind on small calls."""
    small = st.integers(0, Tk + 2)
    leaves = st.one_of(
        st.just(ch.full()),
        st.builds(ch.causal, st.sampled_from(["end", "start", 3])),
        st.builds(ch.window, st.integers(1, 90)),
        st.builds(ch.window, small, small),
        st.builds(ch.first, small),
        st.builds(ch.chunks, st.integers(1, 70)),
        st.builds(lambda n, m: ch.padding(torch.tensor([n, m])), small, small),
        st.builds(lambda share: ch.where(torch.rand(1, 2, Tq, Tk) < share), st.sampled_from([0.02, 0.5, 0.98])),
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(lambda a, b: a & b, inner, inner)
            | st.builds(lambda a, b: a | b, inner, inner)
            | st.builds(lambda a: ~a, inner)
        ),
        max_leaves=3,
    )


@st.composite
def calls(draw: Any) -> tuple[list[Tensor], dict[str, Any]]:
    """q, k and v of two batches and two heads, and options."""
    torch.manual_seed(draw(st.integers(0, 9999)))
    K = draw(st.sampled_from([1, 2]))
    Tq, Tk = draw(st.integers(1, 140)), draw(st.integers(1, 200))
    D, Dv = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    tensors = [torch.randn(2, T, H, W + 3).to(dtype) for H, T, W in ((2, Tq, D), (K, Tk, D), (K, Tk, Dv))]
    if draw(st.booleans()):  # laid out as a projection leaves it
        tensors = [x.transpose(1, 2)[..., 2:-1] for x in tensors]
    else:
        tensors = [x.transpose(1, 2)[..., 3:].contiguous() for x in tensors]
    bias = draw(
        st.sampled_from(
            [None, ch.alibi(2), ch.relative(torch.randn(2, 30)), torch.randn(2, Tq, 1), torch.randn(2, 1, Tq, Tk)]
        )
    )
    return tensors, {
        "pattern": draw(patterns(Tq, Tk)),
        "bias": bias,
        "scale": draw(st.none() | st.floats(-1, 1)),
        "softcap": draw(st.none() | st.floats(0.5, 20)),
        "sinks": draw(st.none() | st.just(torch.randn(2))),
    }


def lightly(examples: int) -> Any:
    """The fixture that stands around a test is the same for all its examples."""
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(call=calls())
@lightly(60)
def test_any_call_forward(right: Any, call: Any) -> None:
    tensors, options = call
    right(*tensors, **options)


@given(call=calls())
@lightly(60)
def test_any_call_backward(right_gradients: Any, call: Any) -> None:
    tensors, options = call
    right_gradients(*tensors, **options)


@pytest.mark.slow
@given(call=calls())
@lightly(1500)
def test_any_of_many_calls(right: Any, right_gradients: Any, call: Any) -> None:
    tensors, options = call
    right(*tensors, **options)
    right_gradients(*tensors, **options)
