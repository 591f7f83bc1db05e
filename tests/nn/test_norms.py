"""Norms: their formulas in float64, and the layers of Transformers that they stand for."""

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from clearhead.nn.norms import LayerNorm, RMSNorm

SHAPES = [(576,), (1, 1, 576), (2, 7, 576)]


def randomised(norm: torch.nn.Module) -> torch.nn.Module:
    for p in norm.parameters():
        torch.nn.init.normal_(p, p.mean().item(), 0.3)
    return norm


def rms(x: torch.Tensor, factor: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * factor.double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_rms_norm_is_its_formula(shape: tuple[int, ...], offset: float, dtype: torch.dtype, off: float) -> None:
    norm = randomised(RMSNorm(576, 1e-5, offset)).to(dtype)
    x = torch.randn(shape, dtype=dtype) * 3
    out = norm(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), rms(x, offset + norm.weight.double(), 1e-5), rtol=off, atol=off)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_rms_norm_is_llamas(scale: float) -> None:
    ours, theirs = randomised(RMSNorm(576, 1e-5)), LlamaRMSNorm(576, 1e-5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 50, 576) * scale
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_rms_norm_with_offset_is_gemmas_in_bfloat16_too() -> None:
    ours, theirs = randomised(RMSNorm(576, 1e-6, offset=1.0)), GemmaRMSNorm(576, 1e-6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 50, 576)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    assert torch.equal(ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16()))


def test_rms_norm_in_bfloat16_is_no_less_exact_than_llamas() -> None:
    ours, theirs = randomised(RMSNorm(576)).bfloat16(), LlamaRMSNorm(576).bfloat16()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 500, 576, dtype=torch.bfloat16)
    exact = rms(x, ours.weight, 1e-6)
    assert (ours(x) - exact).abs().mean() < (theirs(x) - exact).abs().mean()


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_starts_as_one_that_changes_only_size(offset: float) -> None:
    x = torch.randn(5, 16)
    torch.testing.assert_close(RMSNorm(16, offset=offset)(x).square().mean(-1), torch.ones(5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_is_its_formula(shape: tuple[int, ...], bias: bool) -> None:
    norm = randomised(LayerNorm(576, 1e-5, bias)).double()
    x = torch.randn(shape, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    want = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), want + norm.bias if bias else want)
    assert ("bias" in norm.state_dict()) == bias


@pytest.mark.parametrize("norm", [LayerNorm(12), RMSNorm(12), RMSNorm(12, offset=1.0)], ids=["layer", "rms", "offset"])
def test_norms_have_right_gradients(norm: torch.nn.Module) -> None:
    norm = randomised(norm).double()
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, *norm.parameters()))


@pytest.mark.parametrize("norm", [LayerNorm(12), RMSNorm(12), RMSNorm(12, offset=1.0)], ids=["layer", "rms", "offset"])
def test_norms_work_under_autocast_on_bfloat16(norm: torch.nn.Module) -> None:
    x = torch.randn(3, 12)
    want = norm(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x.bfloat16())
    torch.testing.assert_close(out.float(), want, rtol=2e-2, atol=2e-2)
