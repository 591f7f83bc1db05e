"""How a model turns q and k is told where it is known, and only there."""

import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2Model,
    CohereConfig,
    CohereModel,
    DeepseekV3Config,
    DeepseekV3Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
)

import clearhead as ch
from clearhead.models.checkpoints import open_model
from clearhead.view.rotary import Rotary, _turns_all

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
MORE = SMALL | {"intermediate_size": 32, "num_key_value_heads": 2}
KINDS = {
    "halves": lambda: LlamaModel(LlamaConfig(**MORE)),
    "neighbours": lambda: CohereModel(CohereConfig(**MORE)),
    "partly": lambda: GPTNeoXModel(
        GPTNeoXConfig(
            **SMALL,
            intermediate_size=32,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        )
    ),
}
IDS = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 9]])


def watched(model):
    torch.manual_seed(0)
    with torch.no_grad(), ch.watch(model.eval()) as seen:
        model(input_ids=IDS)
    return seen


def unturned(seen, head):
    """The keys of the first layer, in which the same token is the same at each place before it is turned."""
    layer = seen[0]
    k = layer.steps[0].weights.call.k[0, head].double()
    return k, seen.rotary[layer.name].turned(k, -torch.arange(len(k)).double())


@pytest.mark.parametrize("kind", KINDS)
def test_turned_back_the_keys_of_one_token_are_the_same_wherever_it_stands(kind):
    seen = watched(KINDS[kind]())
    assert set(seen.rotary) == {layer.name for layer in seen.layers}
    turned, back = unturned(seen, 1)
    for a, b in [(0, 3), (0, 6), (1, 4), (2, 5)]:
        assert (turned[a] - turned[b]).abs().max() > 1e-3
        torch.testing.assert_close(back[a], back[b], rtol=0, atol=1e-5)
    rotary = seen.rotary[seen[0].name]
    assert rotary.neighbours == (kind == "neighbours")
    assert 2 * len(rotary.frequencies) == (4 if kind == "partly" else 8)


def test_smollm2_turns_all_of_each_key():
    smollm2 = open_model("smollm2")
    inputs = smollm2.tokenizer("the cat sat on the mat, the cat sat", return_tensors="pt")
    with torch.no_grad(), ch.watch(smollm2.model) as seen:
        smollm2.model(**inputs)
    ids = inputs["input_ids"][0].tolist()
    _, back = unturned(seen, 0)
    first, second = (n for n, token in enumerate(ids) if token == ids[1])
    torch.testing.assert_close(back[first], back[second], rtol=0, atol=1e-4)
    told = seen.scene().contents["rotary"]
    assert told["of"] == [0] * 30 and len(told["kinds"]) == 1
    assert told["kinds"][0]["frequencies"][0] == 1.0 and len(told["kinds"][0]["frequencies"]) == 32


def test_layers_of_several_kinds_have_frequencies_of_their_own():
    kinds = ["sliding_attention", "full_attention"]
    seen = watched(Gemma3TextModel(Gemma3TextConfig(**MORE, head_dim=8, layer_types=kinds, sliding_window=4)))
    near, far = (seen.rotary[layer.name].frequencies for layer in seen.layers)
    assert near != far


LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
UNKNOWN = {
    "learned positions": lambda: GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
    "turned in some layers alone": lambda: Cohere2Model(
        Cohere2Config(**MORE, layer_types=["full_attention", "sliding_attention"])
    ),
    "turned in a part that is put last": lambda: DeepseekV3Model(
        DeepseekV3Config(**MORE | {"num_key_value_heads": 4}, **LATENT, first_k_dense_replace=2)
    ),
    "no model of Transformers": None,
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_nothing_is_told_of_what_is_not_known(kind):
    if UNKNOWN[kind] is None:
        layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
        with torch.no_grad(), ch.watch(layer) as seen:
            layer(torch.randn(1, 5, 16))
    else:
        seen = watched(UNKNOWN[kind]())
    assert seen.rotary == {}
    assert seen.scene().contents["rotary"] == {"kinds": [], "of": [None] * len(seen)}


def apply_rotary_pos_emb(q, k, cos, sin):
    """Stands in for Transformers', as far as code that is only read needs it."""


class Plain(torch.nn.Module):
    def forward(self, query, key, cos, sin, cache):
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if cache is not None:
            key, value = cache.update(key, key)


class Asking(Plain):
    def forward(self, query, key, cos, sin, turns):
        if turns:
            query, key = apply_rotary_pos_emb(query, key, cos, sin)


class Afterwards(Plain):
    def forward(self, query, key, cos, sin):
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        query = self.norm(query)


class Both(Plain):
    def forward(self, query, key, cos, sin):
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        query, key = self.norm(query), self.norm(key)


class Scaled(Plain):
    def forward(self, query, key, cos, sin):
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        key *= 2


class Crossed(Plain):
    def forward(self, query, key, cos, sin):
        query, key = apply_rotary_pos_emb(key, query, cos, sin)


@pytest.mark.parametrize("attention", [Asking, Afterwards, Both, Scaled, Crossed])
def test_code_that_turns_under_a_condition_or_changes_q_or_k_afterwards_is_not_believed(attention):
    assert _turns_all(Plain())
    assert not _turns_all(attention())


def test_a_turn_of_nothing_changes_nothing():
    x = torch.randn(3, 6)
    torch.testing.assert_close(Rotary((1.0, 0.1), True).turned(x, torch.zeros(3)), x)
