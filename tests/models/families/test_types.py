"""Models that read a source or see can be run in every type and under autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, T5Config, ViTConfig

from clearhead.models.families import FAMILIES
from tests.models.families import test_clip, test_original, test_t5, test_vit, test_whisper
from tests.models.families.parity import B

TOKENS = torch.tensor([[5, 9, 3, 7, 3], [4, 4, 8, 3, 1]])
MEL = torch.randn(2, test_whisper.BINS, 16)


def translate(model: Any) -> Tensor:
    made: Tensor = model(TOKENS, memory=model.encode(TOKENS[:, :4], torch.tensor([4, 2])))
    return made


Made = tuple[nn.Module, Callable[[Any], Tensor]]
MODELS: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "t5": (T5Config(**test_t5.SMALL), translate),
    "marian": (MarianConfig(**test_original.SMALL), translate),
    "whisper": (test_whisper.CONFIG, lambda model: model(TOKENS, memory=model.encode(MEL))),
    "vit": (ViTConfig(**test_vit.SMALL), lambda model: model(torch.ones(B, 3, 12, 12))),
    "clip": (test_clip.CONFIGS["by its end"], lambda model: model(torch.ones(B, 3, 12, 12), TOKENS)),
}


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest) -> Made:
    config, run = MODELS[request.param]
    return FAMILIES[config.model_type].build(config.to_dict()).eval(), run


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "off"), [(torch.bfloat16, 0.1), (torch.float64, 1e-5)])
def test_it_runs_in_another_type(made: Made, dtype: torch.dtype, off: float) -> None:
    model, run = made
    expected = run(model)
    out = run(model.to(dtype))
    assert out.dtype == dtype
    assert float((out - expected).abs().max()) <= off * float(expected.abs().max())


@torch.no_grad()
def test_it_runs_under_autocast(made: Made) -> None:
    model, run = made
    expected = run(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(model)
    assert float((out - expected).abs().max()) <= 0.1 * float(expected.abs().max())
