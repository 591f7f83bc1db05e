"""Tensors that are more, or less, than numbers in memory: each gives the right result, or an error in a sentence."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

import clearhead as ch

B, H, K, Tq, Tk, D = 2, 4, 2, 3, 5, 8


def qkv(device: str = "cpu") -> list[Tensor]:
    return [torch.randn(shape, device=device) for shape in ((B, H, Tq, D), (B, K, Tk, D), (B, K, Tk, D))]


LAZY = {
    "negative bit": (torch._neg_view, torch.neg),
    "conjugate": (lambda x: torch.complex(x, x).conj().imag, torch.neg),
    "zeros": (lambda x: torch._efficientzerotensor(x.shape), torch.zeros_like),
}
"""Tensors whose numbers do not stand in memory, and plain tensors that equal them."""


@pytest.mark.parametrize("kind", LAZY)
def test_numbers_that_do_not_stand_in_memory_are_read_as_they_are_meant(kind: str, backend: str) -> None:
    lazy, plain = LAZY[kind]
    q, k, v = qkv()
    more = {"sinks": torch.randn(H), "bias": torch.randn(H, Tq, Tk)}

    def results(made: Any) -> list[Tensor]:
        out = [ch.attention(*map(made, (q, k, v)), backend=backend)]
        out += [ch.attention(q, k, v, backend=backend, **{name: made(x)}) for name, x in more.items()]
        out += [ch.attention(q, k, v, bias=ch.alibi(made(torch.ones(H))), backend=backend)]
        out += [ch.decode(*map(made, (q, k, v)), sinks=made(torch.ones(H)), backend=backend)]
        return [*out, ch.sdpa(*map(made, (q, k, v)), enable_gqa=True)]

    for ours, expected in zip(results(lazy), results(plain), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", LAZY)
def test_so_are_gradients_that_come_in(kind: str, backend: str) -> None:
    lazy, plain = LAZY[kind]
    inputs = [x.requires_grad_() for x in qkv()]
    out = ch.attention(*inputs, backend=backend)
    down = torch.randn_like(out)
    ours, expected = (torch.autograd.grad(out, inputs, made(down), retain_graph=True) for made in (lazy, plain))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", LAZY)
def test_layers_read_them_too(kind: str) -> None:
    lazy, plain = LAZY[kind]
    layer, x = ch.nn.MultiHeadAttention(16, 2, position=ch.nn.Rotary(8)), torch.randn(1, 6, 16)
    with torch.no_grad():
        torch.testing.assert_close(layer(lazy(x)), layer(plain(x)))


REFUSED = {
    "sparse": (lambda x: x.to_sparse(), "torch.sparse_coo"),
    "mkldnn": (lambda x: x.to_mkldnn(), "torch._mkldnn"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x)), "nested"),
    "jagged": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "nested"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_tensors_without_strides_are_refused_in_a_sentence(kind: str) -> None:
    made, says = REFUSED[kind]
    tensors = qkv()
    odd = [made(x) for x in tensors]
    for at in range(3):
        given = [*tensors[:at], odd[at], *tensors[at + 1 :]]
        for call in (ch.attention, ch.decode, ch.explain):
            with pytest.raises(ch.ClearheadError, match=f"{'qkv'[at]} .*{says}"):
                call(*given)
        if kind != "jagged":  # its class overrides PyTorch's functions, and what it makes of the call is its own
            with pytest.raises(ch.ClearheadError, match=says):
                ch.sdpa(*given)
    with pytest.raises(ch.ClearheadError, match=f"bias .*{says}"):
        ch.attention(*tensors, bias=made(torch.zeros(B, H, Tq, Tk)))
    if kind == "sparse":
        with pytest.raises(ch.ClearheadError, match=says):
            ch.where(made(torch.ones(Tq, Tk).bool()))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_jagged_sequences_go_through_sdpa_to_pytorch() -> None:
    x = torch.nested.nested_tensor([torch.randn(3, 2, 8), torch.randn(5, 2, 8)], layout=torch.jagged).transpose(1, 2)
    torch.testing.assert_close(ch.sdpa(x, x, x).values(), scaled_dot_product_attention(x, x, x).values())


# The meta device


def on_meta(x: Any) -> Any:
    return x.to("meta")


PATTERNS = {
    "none": lambda _: None,
    "causal": lambda _: ch.causal() & ch.window(2) | ch.first(1),
    "padding": lambda at: ch.padding(at(torch.tensor([2, 4]))),
    "where": lambda at: ch.causal() & ch.where(at(torch.ones(Tq, Tk).bool())),
    "documents": lambda at: ch.documents(at(torch.tensor([1, 1, 2, 2, 2]))),
}


@pytest.mark.parametrize("values", ["here", "meta"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_meta_tensors_give_shapes(pattern: str, values: str) -> None:
    at = on_meta if values == "meta" else lambda x: x
    q, k, v = (x.requires_grad_() for x in qkv("meta"))
    out, lse, statistics = ch.attention(
        q,
        k,
        v,
        pattern=PATTERNS[pattern](at),
        bias=at(torch.zeros(H, Tq, Tk)),
        sinks=on_meta(torch.zeros(H)),
        softcap=2.0,
        dropout=0.1,
        return_lse=True,
        probe=True,
    )
    assert out.is_meta
    assert out.shape == q.shape
    assert {lse.shape, *(x.shape for x in vars(statistics).values())} == {(B, H, Tq)}
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert [x.shape for x in grads] == [x.shape for x in (q, k, v)]


def test_meta_tensors_give_shapes_in_sdpa_and_decode() -> None:
    q, k, v = qkv("meta")
    for mask in (torch.ones(Tq, Tk).bool(), torch.zeros(B, 1, Tq, Tk)):
        assert ch.sdpa(q, k, v, on_meta(mask), enable_gqa=True).shape == q.shape
    for lengths in (None, torch.tensor([3, 5]), on_meta(torch.tensor([3, 5]))):
        assert ch.decode(q, k, v, lengths=lengths, window=2).shape == q.shape
    pool, blocks = torch.empty(6, K, 2, D, device="meta"), torch.zeros(B, 3, dtype=torch.int32, device="meta")
    assert ch.decode(q, pool, pool, blocks=blocks).shape == q.shape


def test_shapes_that_do_not_fit_are_refused_on_meta_too() -> None:
    q, k, v = qkv("meta")
    with pytest.raises(ch.ClearheadError, match=r"differ in \(B, K, Tk\)"):
        ch.attention(q, k, v[:, :, 1:])
    with pytest.raises(ch.ClearheadError, match="broadcasts to the scores"):
        ch.attention(q, k, v, bias=on_meta(torch.zeros(Tq, Tk + 1)))
    with pytest.raises(ch.ClearheadError, match="no values to measure"):
        ch.explain(q, k, v)


# No heads, and what is raised


def test_no_heads_give_an_empty_tensor_as_in_pytorch() -> None:
    inputs = [torch.randn(B, 0, T, D, requires_grad=True) for T in (Tq, Tk, Tk)]
    for out in (ch.sdpa(*inputs), ch.sdpa(*inputs, enable_gqa=True), ch.attention(*inputs)):
        assert out.shape == scaled_dot_product_attention(*inputs).shape
        assert [x.shape for x in torch.autograd.grad(out.sum(), inputs)] == [x.shape for x in inputs]
    assert ch.decode(*(x.detach() for x in inputs)).shape == (B, 0, Tq, D)
    assert ch.explain(*inputs).visited == 0
    with pytest.raises(ch.ClearheadError, match=r"H = 4 heads .* K = 0"):
        ch.attention(torch.randn(B, H, Tq, D), *inputs[1:])


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
@pytest.mark.usefixtures("unchecked")
def test_what_is_raised_is_caught_as_an_error_of_value_and_as_pytorch_s(kind: type[Exception]) -> None:
    q, k, v = qkv()
    for call in (ch.attention, ch.decode, ch.sdpa):
        with pytest.raises(kind, match=r"expected|needs"):
            call(q, k[:, :, :3], v)


# Classes that override functions


def test_pytorch_s_causal_masks_mean_in_sdpa_what_they_mean_there() -> None:
    from torch.nn.attention.bias import causal_lower_right, causal_upper_left

    for queries, keys in ((3, 7), (5, 5)):
        q, k, v = (torch.randn(1, 2, T, 8, requires_grad=True) for T in (queries, keys, keys))
        for mask in (causal_lower_right(queries, keys), causal_upper_left(queries, keys)):
            ours, theirs = (
                (out := call(q, k, v, mask), *torch.autograd.grad(out.sin().sum(), (q, k, v)))
                for call in (ch.sdpa, scaled_dot_product_attention)
            )
            torch.testing.assert_close(ours, theirs)
    with pytest.raises(ch.ClearheadError, match=r"causal_lower_right\(2, 4\) for Tq = 5, Tk = 5"):
        ch.sdpa(q, k, v, causal_lower_right(2, 4))
    with pytest.raises(ch.ClearheadError, match="both a causal mask and is_causal"):
        ch.sdpa(q, k, v, causal_lower_right(5, 5), is_causal=True)


class Halves:
    """No tensor, which halves what PyTorch's attention gives."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        assert func is scaled_dot_product_attention
        return func(*args[:3]) / 2


class Nothing(TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("unchecked")
def test_sdpa_hands_a_call_to_the_class_that_overrides_functions() -> None:
    x = torch.randn(1, 2, 3, 8)
    expected = scaled_dot_product_attention(x, x, x) / 2
    torch.testing.assert_close(ch.sdpa(x, x, x, Halves()), expected)
    with Nothing():
        torch.testing.assert_close(ch.sdpa(x, x, x, Halves()), expected)
        torch.testing.assert_close(ch.sdpa(x, x, x), expected * 2)
