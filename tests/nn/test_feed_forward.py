"""FeedForward: its formula, each activation, and the layers of Transformers that it stands for."""

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP

from clearhead.errors import ClearheadError
from clearhead.nn.feed_forward import ACTIVATIONS, FeedForward

THEIRS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "relu": "relu"}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_the_one_of_transformers(name: str) -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[THEIRS[name]](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 5, 8)])
def test_it_is_its_formula(name: str, gated: bool, bias: bool, shape: tuple[int, ...]) -> None:
    layer = FeedForward(8, 20, name, gated, bias).double()
    x = torch.randn(shape, dtype=torch.float64)

    def line(x: Tensor, rows: slice) -> Tensor:
        return x @ layer.up.weight[rows].T + (layer.up.bias[rows] if bias else 0)

    h = ACTIVATIONS[name](line(x, slice(20)))
    if gated:
        h = h * line(x, slice(20, 40))
    want = h @ layer.down.weight.T + (layer.down.bias if bias else 0)
    torch.testing.assert_close(layer(x), want)
    assert {"bias" in key for key in layer.state_dict()} == ({True, False} if bias else {False})


def test_gated_is_llamas_with_gradients() -> None:
    theirs = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=40, num_attention_heads=2))
    ours = FeedForward(16, 40, "silu", gated=True, bias=False)
    up = torch.cat([theirs.gate_proj.weight, theirs.up_proj.weight])
    ours.load_state_dict({"up.weight": up, "down.weight": theirs.down_proj.weight})
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    want = torch.cat([theirs.gate_proj.weight.grad, theirs.up_proj.weight.grad])
    torch.testing.assert_close(ours.up.weight.grad, want)
    torch.testing.assert_close(ours.down.weight.grad, theirs.down_proj.weight.grad)


def test_plain_is_gpt2s() -> None:
    theirs = GPT2MLP(64, GPT2Config(n_embd=16)).eval()
    ours = FeedForward(16, 64, "gelu_tanh")
    # GPT-2 keeps its weights the other way round.
    ours.load_state_dict(
        {
            "up.weight": theirs.c_fc.weight.T,
            "up.bias": theirs.c_fc.bias,
            "down.weight": theirs.c_proj.weight.T,
            "down.bias": theirs.c_proj.bias,
        }
    )
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ClearheadError, match=r"^activation: got 'swish', expected one of 'gelu', .*'silu', 'relu'\.$"):
        FeedForward(8, 16, "swish")


def test_it_works_under_autocast_and_says_what_it_is() -> None:
    layer = FeedForward(8, 16, "silu", gated=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    assert "activation='silu', gated=True" in repr(layer)
