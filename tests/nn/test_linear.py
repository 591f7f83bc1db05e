"""Linear is PyTorch's, its gradients too, whichever kernel takes the product."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from clearhead.nn import Linear


def pair(bias: bool = True, shape: tuple[int, ...] = (2, 150, 96)) -> tuple[Linear, torch.nn.Linear, Tensor]:
    """A layer, PyTorch's with the same weights in float64, and an input for both."""
    ours, theirs = Linear(96, 130, bias), torch.nn.Linear(96, 130, bias).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(*shape)


def assert_near(got: Tensor | None, exact: Tensor | None) -> None:
    assert got is not None
    assert exact is not None
    got, exact = got.detach().double(), exact.detach()
    assert float((got - exact).abs().max()) <= 2e-6 * float(exact.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 150, 96), (300, 96), (1, 7, 96), (96,)], ids=str)
def test_result_and_gradients_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs, x = pair(bias, shape)
    mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = ours(mine), theirs(exact)
    assert_near(y, expected)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy.double())
    assert_near(mine.grad, exact.grad)
    for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_near(weight.grad, other.grad)


def test_gradients_of_the_input_alone_or_of_the_weights_alone() -> None:
    ours, theirs, x = pair()
    for wanted in (x.requires_grad_(), *ours.parameters()):
        x.requires_grad_(wanted is x)
        ours.requires_grad_(False)
        wanted.requires_grad_()
        (got,) = torch.autograd.grad(ours(x).square().sum(), wanted)
        exact = x.detach().double().requires_grad_()
        named = dict(theirs.named_parameters())
        other = exact if wanted is x else named["weight" if wanted is ours.weight else "bias"]
        (expected,) = torch.autograd.grad(theirs(exact).square().sum(), other)
        assert_near(got, expected)


def test_a_gradient_that_lies_apart_or_is_one_number_for_all() -> None:
    ours, theirs, x = pair()
    ours(x).sum().backward()
    theirs(x.double()).sum().backward()
    assert_near(ours.weight.grad, theirs.weight.grad)
    ours.zero_grad()
    theirs.zero_grad()
    ours(x.mT.contiguous().mT).mT.contiguous().square().sum().backward()
    theirs(x.double()).square().sum().backward()
    assert_near(ours.weight.grad, theirs.weight.grad)


def test_gradients_have_gradients() -> None:
    ours, theirs, x = pair()
    found = []
    for layer, given in ((ours, x.clone()), (theirs, x.double())):
        given.requires_grad_()
        (first,) = torch.autograd.grad(layer(given).pow(3).sum(), given, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), layer.weight)[0])
    assert_near(*found)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own rule of linear
def test_forward_mode_sees_the_tangent() -> None:
    ours, theirs, x = pair()
    tangent = torch.randn_like(x)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, forward_ad.dual_level():
            y = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, tangent)))
        assert_near(y.tangent, tangent.double() @ theirs.weight.double().T)
