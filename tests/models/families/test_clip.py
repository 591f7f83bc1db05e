"""CLIP computes here what it computes in Transformers, of pictures, of texts and of both."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, CLIPConfig

from clearhead.errors import ClearheadError
from clearhead.models.families.clip import clip
from clearhead.models.names import to_theirs
from tests.models.families.parity import B, Pair, T, as_weights, assert_near

IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 1e-3,
}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "vocab_size": 61,
    "max_position_embeddings": T,
    "bos_token_id": 1,
}
PICTURES = 2
CONFIGS = {
    "by its end": CLIPConfig(vision_config=IMAGE, text_config=TEXT | {"eos_token_id": 3}, projection_dim=20),
    "by the highest number": CLIPConfig(vision_config=IMAGE, text_config=TEXT | {"eos_token_id": 2}, projection_dim=20),
    "gelu": CLIPConfig(
        vision_config=IMAGE | {"hidden_act": "gelu"},
        text_config=TEXT | {"hidden_act": "gelu", "eos_token_id": 60},
        projection_dim=20,
    ),
}
ENDS = (13, 4, 8)


class Matched(Pair):
    """With pictures beside texts, each of which ends somewhere; after one's end, another end stands for padding."""

    def __init__(self, config: Any, folder: Path) -> None:
        config.vocab_size = TEXT["vocab_size"]
        super().__init__(config, folder, AutoModel)
        end = config.text_config.eos_token_id
        end = TEXT["vocab_size"] - 1 if end == 2 else end
        self.tokens = torch.randint(4, TEXT["vocab_size"] - 1, (B, T))
        for row, place in zip(self.tokens, ENDS, strict=True):
            row[place] = row[place + 2 :] = end
        self.pixels = torch.randn(PICTURES, 3, 12, 12)

    def run(self, **options: Any) -> Any:
        """Transformers' model."""
        return self.theirs(input_ids=self.tokens, pixel_values=self.pixels, **options)


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Matched:
    return Matched(CONFIGS[request.param], tmp_path_factory.mktemp("clip"))


@torch.no_grad()
def test_its_logits_are_theirs(pair: Matched) -> None:
    logits = pair.ours(pair.pixels, pair.tokens)
    assert logits.shape == (PICTURES, B)
    assert_near(logits, pair.run().logits_per_image)


@torch.no_grad()
def test_its_vectors_are_theirs(pair: Matched) -> None:
    theirs = pair.run()
    assert_near(pair.ours.images(pair.pixels), theirs.image_embeds)
    assert_near(pair.ours.texts(pair.tokens), theirs.text_embeds)


@torch.no_grad()
def test_what_stands_after_a_texts_end_is_not_read(pair: Matched) -> None:
    for row, end in zip(pair.tokens, ENDS, strict=True):
        alone = pair.ours.texts(row[None, : end + 1])
        assert_near(pair.ours.texts(row[None]), alone)


@torch.no_grad()
def test_each_layer_is_theirs(pair: Matched) -> None:
    ours, theirs = pair.ours, pair.run(output_hidden_states=True)
    x = ours.patches(pair.pixels)
    states: list[tuple[Tensor, ...]] = [(x, *ours.image.states(x))]
    x = ours.text.embed(pair.tokens, torch.arange(T)[None])
    states.append((x, *ours.text.stack.states(x)))
    for mine, there in zip(states, (theirs.vision_model_output, theirs.text_model_output), strict=True):
        for one, other in zip(mine, there.hidden_states, strict=True):
            assert_near(one, other)


def test_its_gradients_are_theirs(pair: Matched, tmp_path: Path) -> None:
    other = copy.copy(pair)
    other.ours, other.theirs = copy.deepcopy(pair.ours), copy.deepcopy(pair.theirs)
    out = other.run().logits_per_image
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (other.ours(pair.pixels, pair.tokens) * weight).sum().backward()
    as_weights(other.theirs).save_pretrained(tmp_path)
    expected, found = load_file(tmp_path / "model.safetensors"), to_theirs(pair.names, as_weights(other.ours))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert_near(found[name], gradient, largest / 10, name)


def test_its_weights_go_there_and_back_bit_for_bit(pair: Matched) -> None:
    saved = load_file(pair.folder / "model.safetensors")
    back = to_theirs(pair.names, pair.ours)
    assert back.keys() == saved.keys()
    for name, weight in saved.items():
        assert torch.equal(back[name], weight), name


def test_what_a_config_leaves_out_is_as_in_the_first_model() -> None:
    config = CLIPConfig().to_dict()
    with torch.device("meta"):
        bare = clip({"vision_config": {}, "text_config": {}})
        assert repr(bare) == repr(clip(config))
    assert bare.end == config["text_config"]["eos_token_id"]


def test_a_text_without_its_end_is_refused() -> None:
    model = clip(CONFIGS["by its end"].to_dict())
    tokens = torch.tensor([[5, 3, 7], [5, 6, 7]])
    assert model.texts(tokens[:1]).shape == (1, 20)
    with pytest.raises(ClearheadError, match="got a text without token 3, its end"):
        model.texts(tokens)
