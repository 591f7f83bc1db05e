"""ViT computes here what it computes in Transformers, with a head for classes and without."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification, ViTConfig

from clearhead import ClearheadError
from clearhead.models.families.vit import vit
from clearhead.models.names import to_theirs
from tests.models.families.parity import B, Pair, as_weights, assert_near

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 1e-3,
}
MODELS = {
    "pooled": (AutoModel, ViTConfig(**SMALL)),
    "two classes": (AutoModelForImageClassification, ViTConfig(**SMALL, num_channels=1, qkv_bias=False)),
    "five classes": (AutoModelForImageClassification, ViTConfig(**SMALL, num_labels=5, hidden_act="gelu_new")),
}


class Seen(Pair):
    """With pictures for tokens."""

    def __init__(self, config: Any, folder: Path, auto: Any) -> None:
        config.vocab_size = 4  # of the tokens that are not read
        super().__init__(config, folder, auto)
        self.pixels = torch.randn(B, config.num_channels, config.image_size, config.image_size)

    def output(self, theirs: Any) -> Tensor:
        made: Tensor = theirs.logits if "logits" in theirs else theirs.pooler_output
        return made


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    auto, config = MODELS[request.param]
    return Seen(config, tmp_path_factory.mktemp("vit"), auto)


@torch.no_grad()
def test_its_output_is_theirs(pair: Seen) -> None:
    assert_near(pair.ours(pair.pixels), pair.output(pair.theirs(pair.pixels)))


@torch.no_grad()
def test_each_layer_is_theirs(pair: Seen) -> None:
    theirs = pair.theirs(pair.pixels, output_hidden_states=True).hidden_states
    x = pair.ours.patches(pair.pixels)
    for ours, there in zip((x, *pair.ours.stack.states(x)), theirs, strict=True):
        assert_near(ours, there)


def test_its_gradients_are_theirs(pair: Seen, tmp_path: Path) -> None:
    ours, theirs = copy.deepcopy(pair.ours), copy.deepcopy(pair.theirs)
    out = pair.output(theirs(pair.pixels))
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (ours(pair.pixels) * weight).sum().backward()
    as_weights(theirs).save_pretrained(tmp_path)
    expected, found = load_file(tmp_path / "model.safetensors"), to_theirs(pair.names, as_weights(ours))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert_near(found[name], gradient, largest / 10, name)


def test_its_weights_go_there_and_back_bit_for_bit(pair: Seen) -> None:
    saved = load_file(pair.folder / "model.safetensors")
    back = to_theirs(pair.names, pair.ours)
    assert back.keys() == saved.keys()
    for name, weight in saved.items():
        assert torch.equal(back[name], weight), name


def test_another_pooling_is_refused() -> None:
    with pytest.raises(ClearheadError, match=r"vit model: got pooler_act = 'relu'; expected 'tanh'"):
        vit(ViTConfig(**SMALL, pooler_act="relu").to_dict())
