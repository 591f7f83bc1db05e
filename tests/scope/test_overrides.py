"""Arguments whose class overrides PyTorch's functions: accelerated or watched, a model computes what it did before."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.nn.functional import scaled_dot_product_attention as by_its_name

import clearhead as ch
from clearhead.attend import library

pytestmark = [
    pytest.mark.skipif(library.missing() is not None, reason=str(library.missing())),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:Nothing .*was accelerated"),
]
ALLOWED = torch.ones(3, 7).bool().tril(2)


def by_full_name(*args, **kwargs):
    return F.scaled_dot_product_attention(*args, **kwargs)


TABLE = {by_its_name: lambda q, k, v, _: by_its_name(q, k, v, ALLOWED)}


class InTable(torch.Tensor):
    """Finds the function in a table, as PyTorch's documentation shows."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        call = TABLE.get(func)
        return call(*args) if call else super().__torch_function__(func, types, args, kwargs or {})


class IsCompared(torch.Tensor):
    """Compares the function with F's by `is`, as PyTorch's CausalBias does."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return F.scaled_dot_product_attention(*args[:3], ALLOWED)
        return super().__torch_function__(func, types, args, kwargs or {})


class IsComparedByName(torch.Tensor):
    """Compares the function by `is` with PyTorch's, which it imported by its name."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return by_its_name(*args[:3], ALLOWED) if func is by_its_name else NotImplemented


class NoTensorCompared:
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        assert func is by_its_name
        return F.scaled_dot_product_attention(*args[:3], ALLOWED)


class NoTensor:
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return F.scaled_dot_product_attention(*args[:3], ALLOWED)


MASKS = {
    "causal_lower_right": (causal_lower_right(3, 7), torch.ones(3, 7).bool().tril(4)),
    "causal_upper_left": (causal_upper_left(3, 7), torch.ones(3, 7).bool().tril()),
    "in a table": (torch.zeros(1).as_subclass(InTable), ALLOWED),
    "compared": (torch.zeros(1).as_subclass(IsCompared), ALLOWED),
    "compared by name": (torch.zeros(1).as_subclass(IsComparedByName), ALLOWED),
    "no tensor, compared": (NoTensorCompared(), ALLOWED),
    "no tensor": (NoTensor(), ALLOWED),
}
"""A mask, and what it allows."""


class Attention(nn.Module):
    def __init__(self, call, mask):
        super().__init__()
        self.call, self.mask = call, mask

    def forward(self, q, k, v):
        return self.call(q, k, v, self.mask)


def in_block(model, inputs):
    with ch.accelerate():
        return model(*inputs)


def for_good(model, inputs):
    try:
        return ch.accelerate(model)(*inputs)
    finally:
        model.acceleration.remove()


@pytest.mark.parametrize("accelerated", [in_block, for_good])
@pytest.mark.parametrize("call", [by_full_name, by_its_name])
@pytest.mark.parametrize("mask", MASKS)
def test_an_accelerated_model_gives_what_it_gave(mask, call, accelerated):
    model = Attention(call, MASKS[mask][0])
    inputs = [torch.randn(1, 2, T, 8) for T in (3, 7, 7)]
    torch.testing.assert_close(accelerated(model, inputs), model(*inputs))


def test_pytorch_s_causal_masks_are_taken():
    inputs = [torch.randn(1, 2, T, 8) for T in (3, 7, 7)]
    for call in (by_full_name, by_its_name):
        for mask in (causal_lower_right(3, 7), causal_upper_left(3, 7)):
            with ch.accelerate() as run:
                call(*inputs, mask)
            assert run.taken == 1


@pytest.mark.parametrize("kernels", ["clearhead", "model"])
@pytest.mark.parametrize("call", [by_full_name, by_its_name])
@pytest.mark.parametrize("mask", MASKS)
def test_a_watched_model_gives_what_it_gave_and_shows_what_the_class_computes(mask, call, kernels):
    given, allowed = MASKS[mask]
    model = Attention(call, given)
    q, k, v = inputs = [torch.randn(1, 2, T, 8) for T in (3, 7, 7)]
    expected = model(*inputs)
    with ch.watch(model, kernels=kernels) as seen:
        out = model(*inputs)
    torch.testing.assert_close(out, expected)
    assert torch.equal(out, expected) or kernels == "clearhead"
    weights = (q @ k.mT / 8**0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    torch.testing.assert_close(seen[0].rows([0, 1, 2]), weights[0])
    assert seen.check < 1e-5


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_passed_on(layout):
    x = torch.nested.nested_tensor([torch.randn(2, 2, 8), torch.randn(3, 2, 8)], layout=layout).transpose(1, 2)
    x = x if layout is torch.jagged else x.contiguous()
    for call in (by_full_name, by_its_name):
        expected = call(x, x, x)
        with ch.accelerate():
            out = call(x, x, x)
        for ours, theirs in zip(out.unbind(), expected.unbind(), strict=True):
            torch.testing.assert_close(ours, theirs)
        model = Attention(call, None)
        with pytest.raises(ch.ClearheadError, match="no attention was seen"), ch.watch(model):
            model(x, x, x)


def test_all_is_as_before_afterwards():
    own = torch.nn.attention.bias.CausalBias.__torch_function__.__func__
    with warnings.catch_warnings(), ch.accelerate():
        warnings.simplefilter("ignore")
        assert F.scaled_dot_product_attention is not by_its_name
        assert by_its_name == F.scaled_dot_product_attention
    assert F.scaled_dot_product_attention is by_its_name
    assert torch.nn.attention.bias.CausalBias.__torch_function__.__func__ is own


def test_an_argument_of_another_kind_is_refused_by_pytorch_in_its_words():
    x = torch.randn(1, 2, 3, 8)
    for wrong in ((x, x, [1.0]), (x, x, x, "mask"), (x, None, x)):
        for call in (by_full_name, by_its_name):
            with pytest.raises(TypeError, match="must be"), ch.accelerate():
                call(*wrong)
