"""Flow is attention rollout: the product of whole matrices, taken a vector at a time."""

import re

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models.checkpoints import open_model
from tests.scope.small import Largest


class Stack(torch.nn.Module):
    """Self-attentions whose queries and keys are given: each (q, k, mask) in turn."""

    class Attention(torch.nn.Module):
        def forward(self, q, k, mask):
            grouped = q.shape[1] != k.shape[1]
            return scaled_dot_product_attention(q, k, k, mask, is_causal=mask is None, enable_gqa=grouped)

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(self.Attention() for _ in range(layers))

    def forward(self, calls):
        for layer, call in zip(self.layers, calls, strict=True):
            layer(*call)


def watched(calls):
    model = Stack(len(calls))
    with torch.no_grad(), ch.watch(model) as seen:
        model(calls)
    return seen


def rollout(weights):
    """Abnar & Zuidema 2020 by whole matrices, `[layer] (H, T, T)`: the product from the top down to each layer."""
    eye = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    product, products = eye, []
    for w in reversed(weights):
        A = w.double().mean(0) + eye
        product = product @ (A / A.sum(-1, keepdim=True))
        products.append(product)
    return torch.stack(products[::-1])


def true_weights(q, k, mask=None):
    """(B, H, T, T) in float64."""
    T = q.shape[2]
    mask = torch.ones(T, T).tril().bool() if mask is None else mask
    s = q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], 1).mT / q.shape[-1] ** 0.5
    return s.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)  # a query that may see nothing


def stacks_of(record):
    """The numbers of the self-attentions of each encoder or decoder of a model."""
    stacks = {}
    for number, layer in enumerate(record.layers):
        if layer.kind == "self":
            stacks.setdefault(re.split(r"\d", layer.name)[0], []).append(number)
    return stacks.values()


def test_it_is_the_product_of_whole_matrices_in_every_kind_of_model(specimen):
    with torch.no_grad(), ch.watch(specimen.model) as seen:
        specimen.run()
    true = specimen.true_weights()
    for stack in stacks_of(seen):
        first = seen[stack[0]].steps[0]
        B, _, T, _ = first.shape
        for b in range(B):
            real = range(T) if first.real is None else first.real[b].nonzero()[:, 0].tolist()
            expected = rollout([true[n][b] for n in stack])[:, list(real)]
            got = seen.flow(list(real), layers=stack, batch=b)
            torch.testing.assert_close(got.shares.double(), expected, atol=2e-5, rtol=0)
            assert got.layers == stack and got.tokens == list(real)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("kind", ["causal", "windowed", "both ways", "empty rows"])
def test_it_is_exact_across_tiles_heads_that_share_keys_and_texts_of_a_batch(kind, native, monkeypatch):
    if not native:
        monkeypatch.setattr("clearhead.attend.native.refuses", lambda call: "not today")
    T = 300
    i = torch.arange(T)
    masks = {
        "causal": None,
        "windowed": ((i[:, None] - i).abs() <= 40)[None, None],
        "both ways": torch.ones(1, 1, T, T, dtype=torch.bool),
        "empty rows": ((i[:, None] >= i) & (i[:, None] % 7 > 0))[None, None],
    }
    calls = [(3 * torch.randn(2, 4, T, 8), torch.randn(2, 2, T, 8), masks[kind]) for _ in range(3)]
    expected = rollout([true_weights(*call)[1] for call in calls])
    got = watched(calls).flow([0, 137, -1], batch=1)
    torch.testing.assert_close(got.shares.double(), expected[:, [0, 137, T - 1]], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(got.rollout, got.shares[0])


def test_each_token_s_shares_sum_to_one():
    calls = [(3 * torch.randn(1, 2, 90, 8), torch.randn(1, 2, 90, 8), None) for _ in range(4)]
    shares = watched(calls).flow(range(0, 90, 7)).shares
    torch.testing.assert_close(shares.sum(-1), torch.ones(4, 13))


def test_it_may_go_through_chosen_heads_alone():
    calls = [(3 * torch.randn(1, 4, 50, 8), torch.randn(1, 2, 50, 8), None) for _ in range(3)]
    weights = [true_weights(*call)[0] for call in calls]
    expected = rollout([weights[0][[1, 3]], torch.eye(50)[None], weights[2][[0]]])
    got = watched(calls).flow([20, 49], heads=[(0, 1), (2, 0), (0, 3)])
    torch.testing.assert_close(got.shares.double(), expected[:, [20, 49]], atol=1e-6, rtol=1e-4)


def test_no_matrix_of_tokens_by_tokens_is_made():
    T = 2048
    calls = [(torch.randn(1, 2, T, 8), torch.randn(1, 1, T, 8), None) for _ in range(2)]
    seen = watched(calls)
    with Largest() as largest:
        seen.flow([T - 1, 100])
    assert largest.numbers <= T * T / 16


@pytest.mark.parametrize("name", ["minilm", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_of_a_real_model_it_is_the_product_of_its_weights(name):
    opened = open_model(name)
    ids = opened.tokenizer("When the cat sat on the mat, the dog sat on the rug.", return_tensors="pt")["input_ids"]
    with torch.no_grad(), ch.watch(opened.model) as seen:
        getattr(opened.model, "model", opened.model)(ids)  # without the head: no logits are needed
    expected = rollout([layer.rows(range(ids.shape[1])) for layer in seen.layers])
    got = seen.flow([5, -1])
    torch.testing.assert_close(got.shares.double(), expected[:, [5, -1]], atol=1e-5, rtol=0)


def test_what_rollout_does_not_speak_of_is_refused_in_a_sentence(zoo):
    t5 = zoo["t5"]()
    with torch.no_grad(), ch.watch(t5.model) as seen:
        t5.run()
    with pytest.raises(ClearheadError, match=r"must have read one text, but encoder\.block\.0.* 9 queries to 9 keys"):
        seen.flow()
    with pytest.raises(ClearheadError, match=r"EncDecAttention is cross-attention, whose keys are of another text"):
        seen.flow(layers=["decoder.block.0.layer.1.EncDecAttention"])
    with pytest.raises(ClearheadError, match="token 8 is padding; choose among the text's own tokens"):
        seen.flow(-1, layers=[0, 1], batch=1)
    with pytest.raises(ClearheadError, match=r"heads names layer 5; the layers gone through are \[0, 1\]"):
        seen.flow(0, layers=[0, 1], heads=[(5, 0)])
    with pytest.raises(ClearheadError, match="flow: got no tokens, expected the positions of one or more"):
        seen.flow([], layers=[0, 1])
    with pytest.raises(ClearheadError, match="token: got 9, but there are 9, counted from 0"):
        seen.flow(9, layers=[0, 1])


def test_a_text_that_was_read_in_steps_is_refused(zoo):
    llama = zoo["llama"]()
    ids = llama.inputs["input_ids"][:1]
    with torch.no_grad(), ch.watch(llama.model) as seen:
        llama.model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=1)
    with pytest.raises(ClearheadError, match="read this text in 3 calls, as generation does; watch one forward pass"):
        seen.flow()
