"""Models that write, and BERT, run in every type, under autocast, and compiled."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from clearhead.models.families import FAMILIES
from tests.models.families import (
    test_bert,
    test_bloom,
    test_gemma2,
    test_gpt2,
    test_gpt_oss,
    test_llama,
    test_mistral,
    test_mixtral,
    test_mpt,
    test_neox,
    test_qwen,
)
from tests.models.families.parity import randomised

TOKENS = torch.tensor([[5, 9, 3, 7, 3, 21, 8], [4, 4, 8, 3, 1, 1, 1]])
LENGTHS = torch.tensor([7, 4])
MODELS: dict[str, Any] = {
    "bert": test_bert.SMALL_BERT,
    "bloom": test_bloom.CONFIGS["6 heads"],
    "gemma2": test_gemma2.CONFIGS["2"],
    "gpt2": test_gpt2.CONFIGS["plain"],
    "gpt_oss": test_gpt_oss.CONFIGS["shorter"],
    "llama": test_llama.CONFIGS["3"],
    "mistral": test_mistral.CONFIGS["0.1"],
    "mixtral": test_mixtral.CONFIGS["two experts"],
    "mpt": test_mpt.CONFIGS["clipped"],
    "neox": test_neox.CONFIGS["a quarter turned"],
    "qwen": test_qwen.CONFIGS["3"],
}
EXPERTS = ("mixtral", "gpt_oss")
"""Rounding may send their tokens to other experts, and then nothing is near."""


def made(name: str) -> nn.Module:
    config = MODELS[name]
    return randomised(FAMILIES[config.model_type].build(config.to_dict())).eval()


def assert_close(out: torch.Tensor, expected: torch.Tensor, off: float) -> None:
    real = torch.arange(7) < LENGTHS[:, None]
    assert float((out - expected)[real].abs().max()) <= off * float(expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_float64_says_the_same(name: str) -> None:
    model = made(name)
    expected = model(TOKENS, lengths=LENGTHS)
    out = model.double()(TOKENS, lengths=LENGTHS)
    assert out.dtype == torch.float64
    assert_close(out, expected, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_and_autocast_say_nearly_the_same(name: str) -> None:
    model = made(name)
    expected = model(TOKENS, lengths=LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(TOKENS, lengths=LENGTHS)
    out = model.bfloat16()(TOKENS, lengths=LENGTHS)
    assert out.dtype == torch.bfloat16
    assert bool(out.isfinite().all()) and bool(mixed.isfinite().all())
    if name not in EXPERTS:
        assert_close(mixed, expected, 0.1)
        assert_close(out, expected, 0.1)


COMPILED = """
import torch
from transformers import BertConfig, Gemma2Config, LlamaConfig
from clearhead.models.families import FAMILIES

small = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
tokens = torch.randint(61, (2, 9))
for config in (LlamaConfig(**small), Gemma2Config(**small, sliding_window=4), BertConfig(**small)):
    model = FAMILIES[config.model_type].build(config.to_dict()).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(tokens), model(tokens))
"""


@pytest.mark.slow
def test_a_model_is_one_graph_to_compile() -> None:
    """In a process of its own, as torch.compile can't trace the checks of shapes that the tests add."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
