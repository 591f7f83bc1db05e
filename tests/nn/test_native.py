"""The layers' own kernels give what PyTorch's operations give, on every instruction set and in every type."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clearhead.attend import library
from clearhead.nn import Linear, RMSNorm, Rotary, native
from clearhead.nn.feed_forward import gated
from clearhead.nn.linear import linear
from clearhead.nn.positions.rotary import turn

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="there is no native core here")
ISAS = () if library.missing() else library.isas()
TYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SHAPES = ((64, 48), (576, 960), (37, 61), (5, 3), (1, 1), (130, 17))


@pytest.fixture(autouse=True, params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with library.using(request.param), torch.no_grad():
        yield request.param


class OfPyTorch:
    """What the layers call instead where the kernels can't be used."""

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)

    @staticmethod
    def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        norm = RMSNorm(len(weight), eps, offset).to(x.dtype)
        norm.weight.copy_(weight)
        return norm(x)

    @staticmethod
    def gate(x: Tensor, activation: str) -> Tensor:
        return gated(activation, x)

    @staticmethod
    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return turn(x, cos, sin)


@pytest.fixture(params=["kernels", "PyTorch"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernels, and what stands for them."""
    if request.param == "kernels":
        return native
    monkeypatch.setattr(native, "HERE", False)
    return OfPyTorch


def assert_near(got: Tensor, exact: Tensor) -> None:
    """Within the rounding of got's type, of sums whose terms are about as large as the largest result."""
    assert got.isfinite().all()
    error = (got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-3)
    assert float(error) <= ROUNDING[got.dtype]


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 33, 70])
@pytest.mark.parametrize("dtype", TYPES)
def test_linear_is_the_product_with_the_weights(by: Any, dtype: torch.dtype, rows: int) -> None:
    for width, out in SHAPES:
        x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, width), (out, width), (out,)))
        for added in (None, bias):
            exact = F.linear(x.double(), weight.double(), None if added is None else added.double())
            assert_near(by.linear(x, weight, added), exact)


def test_linear_goes_on_over_rows_of_x_beyond_those_that_stay_in_the_cache() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.randn(1100, 40).to(dtype), torch.randn(70, 40).to(dtype)
        assert_near(native.linear(x, weight, None), x.double() @ weight.double().T)


def test_linear_reads_rows_that_lie_apart_and_columns_that_do_too(by: Any) -> None:
    x, weight = torch.randn(6, 100), torch.randn(20, 50)
    assert_near(by.linear(x[:, 10:60], weight, None), x[:, 10:60].double() @ weight.double().T)
    assert_near(by.linear(x[:, ::2], weight, None), x[:, ::2].double() @ weight.double().T)


def test_linear_keeps_nan_and_infinity_to_their_row(by: Any) -> None:
    for rows in (4, 80):
        x, weight = torch.randn(rows, 40), torch.randn(20, 40)
        x[1, 3], x[2, 5] = torch.nan, torch.inf
        y = by.linear(x, weight, None)
        assert y[1].isnan().all()
        assert not y[2].isfinite().any()
        rest = [r for r in range(rows) if r not in (1, 2)]
        assert_near(y[rest], x[rest].double() @ weight.double().T)


def test_linear_of_floats_is_as_exact_as_floats_are() -> None:
    """Where float32 is multiplied as sums of bfloat16, nothing may be lost of its 24 bits: no more than PyTorch's."""
    x, weight = torch.randn(200, 512), torch.randn(96, 512)
    exact = x.double() @ weight.double().T
    ours, theirs = (float((y - exact).square().mean().sqrt()) for y in (native.linear(x, weight, None), x @ weight.T))
    assert ours < 2 * theirs


def test_linear_is_as_exact_on_rows_of_many_numbers() -> None:
    x, weight = torch.rand(100, 40_000), torch.rand(40, 40_000)
    exact = x.double() @ weight.double().T
    error = ((native.linear(x, weight, None) - exact) / exact).square().mean().sqrt()
    if library.isa() == "amx":
        assert float(error) < 1e-6  # one sum after the other would be off by 1.5e-6


def test_linear_takes_the_largest_floats(by: Any) -> None:
    largest = torch.finfo(torch.float32).max
    x, weight = torch.full((80, 33), largest), torch.zeros(40, 33)
    weight[:, 7] = torch.linspace(-1, 1, 40)
    torch.testing.assert_close(by.linear(x, weight, None), x[:, :1] * weight[:, 7])
    torch.testing.assert_close(by.linear(weight, x[:, :33], None), weight[:, 7:8] * x[:, 0])


def test_linear_is_the_same_bit_for_bit_on_any_number_of_threads() -> None:
    x, weight = torch.randn(700, 96), torch.randn(400, 96)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append((native.linear(x, weight, None), native.linear(x[:1], weight, None)))
    finally:
        torch.set_num_threads(before)
    for many, one in made[1:]:
        assert torch.equal(many, made[0][0])
        assert torch.equal(one, made[0][1])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_is_its_formula(by: Any, dtype: torch.dtype, offset: float) -> None:
    for shape in ((3, 576), (2, 5, 37), (1, 1)):
        x, weight = torch.randn(*shape).to(dtype), torch.randn(shape[-1]).to(dtype)
        wide = x.double()
        exact = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (offset + weight.double())
        assert_near(by.rms_norm(x, weight, 1e-5, offset), exact)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", F.silu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    ],
)
def test_a_gate_is_its_activation_times_the_other_half(by: Any, dtype: torch.dtype, name: str, function) -> None:
    for hidden in (48, 37, 1):
        x = (3 * torch.randn(4, 5, 2 * hidden)).to(dtype)
        exact = function(x[..., :hidden].double()) * x[..., hidden:].double()
        assert_near(by.gate(x, name), exact)


def test_a_gate_holds_far_out(by: Any) -> None:
    x = torch.tensor([[-200.0, -60.0, 60.0, 200.0, 1.0, 1.0, 1.0, 1.0]])
    for name in native.GATES:
        torch.testing.assert_close(by.gate(x, name), torch.tensor([[0.0, 0.0, 60.0, 200.0]]))
        torch.testing.assert_close(by.gate(torch.tensor([[-1e30, 1.0]]), name), torch.zeros(1, 1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("turned", [64, 16, 6])
def test_heads_are_turned_by_their_angles(by: Any, dtype: torch.dtype, turned: int) -> None:
    rotary = Rotary(64, turned=turned)
    for at in (torch.arange(7)[None], torch.randint(900, (2, 7))):
        x = torch.randn(2, 7, 5, 64).to(dtype).transpose(1, 2)
        cos, sin = rotary.angles(at)
        with torch.enable_grad():
            exact = turn(x.double(), cos.double(), sin.double())
        assert_near(by.turn(x, cos, sin), exact)


def test_layers_take_the_kernels_without_gradient_alone() -> None:
    norm, layer = RMSNorm(32), Linear(32, 16)
    x = torch.randn(2, 32)
    assert native.takes(x, norm.weight)
    with torch.enable_grad():
        assert not native.takes(x, norm.weight)
        torch.testing.assert_close(layer(x).detach(), F.linear(x, layer.weight, layer.bias).detach())
        assert layer(x).requires_grad
    assert not native.takes(x.double())
    assert not native.takes(x, norm.weight.bfloat16())
    with torch.autocast("cpu"):
        assert not native.takes(x)


def test_what_is_no_plain_memory_is_left_to_pytorch() -> None:
    x, layer = torch.randn(100, 32), Linear(32, 16)
    conjugate = torch.randn(100, 32, dtype=torch.complex64).conj().imag
    assert conjugate.is_neg()
    torch.testing.assert_close(layer(conjugate), F.linear(conjugate.clone(), layer.weight, layer.bias))
    sparse = torch.nn.Parameter(layer.weight.detach().to_sparse_coo(), requires_grad=False)
    assert not native.takes(x, sparse)
    assert linear(x, torch.empty(0, 32)).shape == (100, 0)


def test_a_mode_of_functions_sees_pytorchs_operations() -> None:
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    layer, x = Linear(32, 16), torch.randn(100, 32)
    with Mode():
        layer(x)
    assert F.linear in seen


def test_angles_of_another_type_are_left_to_pytorch() -> None:
    rotary, q = Rotary(16), torch.randn(1, 2, 5, 16)
    cos, sin = rotary.angles(torch.arange(5)[None])
    torch.testing.assert_close(turn(q, cos.double(), sin.double()), turn(q, cos, sin))


def test_no_rows_at_all_are_left_to_pytorch() -> None:
    assert Linear(32, 16)(torch.randn(0, 32)).shape == (0, 16)
    assert RMSNorm(32)(torch.randn(0, 32)).shape == (0, 32)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused_in_pytorchs_words() -> None:
    layer = Linear(64, 32).bfloat16()
    with pytest.raises(RuntimeError, match="shapes"):
        layer(torch.randn(1, 48, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError):
        RMSNorm(64)(torch.randn(2, 48))


@pytest.mark.usefixtures("unchecked")
def test_a_trace_sees_pytorchs_own_operations() -> None:
    layer, x = Linear(64, 32).bfloat16(), torch.randn(1, 64, dtype=torch.bfloat16)
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(layer, x)
    other = torch.randn(1, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(traced(other), layer(other))
    assert torch.func.vmap(layer)(other[None]).shape == (1, 1, 32)
