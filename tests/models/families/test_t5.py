"""T5 computes here what it computes in Transformers: the first version and the later ones."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import T5Config

from tests.models.families.both import Both, Translator

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "layer_norm_epsilon": 1e-3,
    "decoder_start_token_id": 0,
}
CONFIGS = {
    "first": T5Config(**SMALL),
    "1.1": T5Config(**SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "silu": T5Config(**SMALL, feed_forward_proj="gated-silu"),
}


class Calm(Both):
    """With scores of a size at which float32 can tell gradients: T5 has no scale but draws its queries small."""

    def drawn(self, model: nn.Module) -> nn.Module:
        model = super().drawn(model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("Attention.q.weight"):
                    weight.mul_(SMALL["d_kv"] ** -0.5)
        return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Calm(CONFIGS[request.param], tmp_path_factory.mktemp("t5"))


class TestT5(Translator):
    """Each of its versions."""
