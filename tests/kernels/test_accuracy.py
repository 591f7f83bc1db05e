"""Accuracy beside PyTorch's own kernel, on scores that are hard in their ways. `make bench` measures more of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import clearhead as ch

H, T, D = 4, 260, 64


def along(scores: Tensor) -> Tensor:
    """Keys whose scaled scores are about these `(T,)` for the queries below."""
    k = 0.1 * torch.randn(1, H, T, D)
    k[..., 0] = scores * D**0.5
    return k


SCORES: dict[str, Callable[[], Tensor]] = {
    "normal": lambda: torch.randn(1, H, T, D),
    "normal, × 10": lambda: 10 * torch.randn(1, H, T, D),
    "ramp": lambda: along(torch.linspace(-20, 20, T)),
    "spike": lambda: along(30.0 * (torch.arange(T) == T // 3)),
    "constant": lambda: torch.randn(1, H, 1, D).repeat(1, 1, T, 1),
    "sorted": lambda: along(3 * torch.randn(T).sort().values),
    "all negative": lambda: along(-10 - 3 * torch.randn(T).abs()),
}


def gradients(out: Tensor, leaves: list[Tensor], dout: Tensor) -> list[Tensor]:
    return [out.detach().double(), *(g.double() for g in torch.autograd.grad(out, leaves, dout.to(out.dtype)))]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_the_error_is_at_most_one_and_a_half_times_that_of_pytorch(
    isa: str, kind: torch.dtype, causal: bool, name: str
) -> None:
    """The root of the mean square of it, over 4 heads.

    None is counted below half a unit of the largest number, nor below half a unit of float32 at 1, which is less than
    the terms of a gradient are: where they all cancel, as they do at a spike, nothing but their rounding is left.
    """
    q = torch.randn(1, H, T, D)
    if "normal" not in name and name != "constant":
        q, q[..., 0] = 0.1 * q, 1 + 0.1 * torch.randn(1, H, T)
    low = [x.to(kind).requires_grad_() for x in (q, SCORES[name](), torch.randn(1, H, T, D))]
    high = [x.detach().double().requires_grad_() for x in low]
    dout = torch.randn(1, H, T, D).to(kind)
    exact, theirs = (gradients(scaled_dot_product_attention(*x, is_causal=causal), x, dout) for x in (high, low))
    pattern = ch.causal() if causal else None
    ours = gradients(ch.attention(*low, pattern=pattern, backend="native"), low, dout)
    for part, x, y, true in zip(("out", "dq", "dk", "dv"), ours, theirs, exact, strict=True):
        least = max(float(torch.finfo(kind).eps / 2 * true.abs().max()), torch.finfo(torch.float32).eps / 2)
        error, allowed = ((z - true).square().mean().sqrt() for z in (x, y))
        assert error <= 1.5 * max(float(allowed), least), f"{part}: {error:.1e} against PyTorch's {allowed:.1e}"
