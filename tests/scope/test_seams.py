"""Every attention of every kind of model is seen, as it is, and the model goes on as if nobody looked."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as by_its_name

from clearhead import ClearheadError, accelerate
from clearhead.attend import library
from clearhead.scope.seams import SOFTMAX

needs_native = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))


def test_outputs_are_those_of_the_unwatched_model_up_to_rounding(specimen, see):
    with torch.no_grad():
        expected = specimen.run()
        with see(specimen.model):
            watched = specimen.run()
        after = specimen.run()
    assert len(expected) == len(watched) > 0
    for a, b, c in zip(expected, watched, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-5)
        assert torch.equal(c, a)


def test_with_the_model_s_own_kernels_outputs_are_the_same_to_the_bit(specimen, see):
    with torch.no_grad():
        expected = specimen.run()
        with see(specimen.model, kernels="model"):
            watched = specimen.run()
    assert len(expected) == len(watched) > 0
    for a, b in zip(expected, watched, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0 if specimen.same_bits else 1e-6)


def gradient(specimen):
    """Of all parameters, in one."""
    specimen.model.zero_grad()
    sum(x.square().sum() for x in specimen.run() if x.requires_grad).backward()
    return torch.cat([p.grad.flatten() for p in specimen.model.parameters() if p.grad is not None])


def test_gradients_are_those_of_the_unwatched_model_up_to_rounding(specimen, see):
    expected = gradient(specimen)
    with see(specimen.model):
        watched = gradient(specimen)
    assert (watched - expected).norm() <= 1e-5 * expected.norm()


def test_with_the_model_s_own_kernels_gradients_are_the_same_to_the_bit(specimen, see):
    expected = gradient(specimen)
    with see(specimen.model, kernels="model"):
        assert torch.equal(gradient(specimen), expected)


@needs_native
def test_our_kernels_compute_whatever_they_can(specimen, request, see):
    with torch.no_grad(), see(specimen.model) as seen:
        specimen.run()
    name = request.node.callspec.params["specimen"]
    if name in ("bloom", "mpt"):
        expected = {SOFTMAX}
    else:
        expected = {None}
    assert {s.passed for s in seen} == expected
    assert all((s.taken is None) == (s.passed is not None) for s in seen)


@needs_native
def test_the_statistics_of_our_kernel_are_those_of_the_weights(specimen, see, weights_of):
    with torch.no_grad(), see(specimen.model) as seen:
        specimen.run()
    for s in (s for s in seen if s.taken is not None):
        w, statistics = weights_of(s).nan_to_num(), s.taken.statistics
        total = w.sum(-1)
        peak, at = w.max(-1)
        behind = (torch.arange(w.shape[2])[:, None] + w.shape[3] - w.shape[2] - torch.arange(w.shape[3])).abs()
        torch.testing.assert_close(statistics.peak.double(), peak, rtol=0, atol=1e-5)
        torch.testing.assert_close(statistics.entropy.double(), torch.special.entr(w).sum(-1), rtol=0, atol=1e-4)
        among_keys = (w * behind).sum(-1) / total.masked_fill(total == 0, 1)
        distance = statistics.distance.double().masked_fill(total == 0, 0)  # beside a sink, all may round to 0
        torch.testing.assert_close(distance, among_keys, rtol=0, atol=1e-4)
        assert (w.gather(-1, statistics.peak_at.long().clamp(min=0)[..., None])[..., 0] > peak - 1e-5).all()


@needs_native
def test_layers_that_were_not_chosen_run_as_they_ever_did(zoo, see):
    model, inputs, outs = (specimen := zoo["llama"]()).model, specimen.inputs, []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda module, args, output: outs.append(output[0]))
    with torch.no_grad():
        model(**inputs)
        with see(model, layers=1) as seen:
            model(**inputs)
    (only,) = seen
    assert only.layer == 1 and only.taken is not None
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[1], outs[3])  # our kernel rounds otherwise, or this test would say nothing


@needs_native
def test_our_kernels_reach_who_imported_pytorch_s_function_by_its_name(see):
    model = Attention(lambda module, x: by_its_name(split(x), split(x), split(x)).transpose(1, 2).flatten(2))
    with see(model) as seen:
        model(torch.randn(3, 5, 8))
    assert seen[0].taken is not None


@needs_native
@pytest.mark.parametrize("name", ["llama", "transformer_encoder"])
def test_an_accelerated_model_gives_the_statistics_in_the_same_pass(name, zoo, see):
    specimen = zoo[name]()
    with torch.no_grad(), accelerate(), see(specimen.model) as seen:
        specimen.run()
    assert all(s.taken is not None and s.taken.statistics is not None for s in seen)


def test_every_attention_is_named_and_counted_once(specimen, see):
    with see(specimen.model) as seen:
        specimen.run()
    assert sorted((s.layer, s.name, s.kind) for s in seen) == [
        (number, name, kind) for number, (name, kind) in enumerate(specimen.attentions)
    ]
    assert seen.unseen == []


def test_weights_are_those_that_the_model_has_on_eager_attention(specimen, see, weights_of):
    with torch.no_grad(), see(specimen.model) as seen:
        specimen.run()
    expected = specimen.true_weights()
    assert len(expected) == len(seen)
    for s in seen:
        real = torch.ones(weights_of(s).shape[::2], dtype=torch.bool) if s.valid is None else s.valid
        ours, theirs = (w.double().transpose(1, 2)[real] for w in (weights_of(s), expected[s.layer]))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert ours.amax() > 1.1 / ours.shape[-1]  # of uniform heads this test would say little


def test_weights_times_v_are_what_the_model_computed(specimen, see, weights_of):
    with torch.no_grad(), see(specimen.model) as seen:
        specimen.run()
    for s in seen:
        if s.out is None:
            assert s.scores is not None
            continue
        out = weights_of(s).nan_to_num().float() @ s.v.repeat_interleave(s.q.shape[1] // s.v.shape[1], 1)
        out = out if s.project is None else s.project(out)
        real = torch.ones(out.shape[::2], dtype=torch.bool) if s.valid is None else s.valid
        ours, theirs = (x.transpose(1, 2)[real] for x in (out, s.out))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_key_heads_are_those_of_the_model_not_their_repetition(zoo, see):
    for name in ("llama", "llama_padded", "gpt_oss", "gemma2"):
        specimen = zoo[name]()
        with see(specimen.model) as seen:
            specimen.run()
        assert {(s.q.shape[1], s.k.shape[1], s.v.shape[1]) for s in seen} == {(4, 2, 2)}, name


def test_softcap_sinks_and_position_bias_are_seen(zoo, see):
    shown = {}
    for name in ("gemma2", "gpt_oss", "t5"):
        specimen = zoo[name]()
        with see(specimen.model) as seen:
            specimen.run()
        shown[name] = specimen.model, seen
    assert all(s.softcap == 0.5 for s in shown["gemma2"][1])
    model, seen = shown["gpt_oss"]
    for layer, s in zip(model.model.layers, seen, strict=True):
        assert torch.equal(s.sinks, layer.self_attn.sinks)
    assert all(s.bias.is_floating_point() and s.bias.shape[1] == 4 for s in shown["t5"][1] if s.kind == "self")


def test_a_model_on_eager_attention_shows_the_same(zoo, see, weights_of):
    for name in ("bert", "llama_padded", "t5", "whisper"):
        specimen = zoo[name]()
        eager = copy.deepcopy(specimen.model)
        eager.set_attn_implementation("eager")
        with torch.no_grad(), see(specimen.model) as one:
            specimen.run()
        expected = eager(**specimen.inputs)[0]
        with torch.no_grad(), see(eager) as other:
            torch.testing.assert_close(eager(**specimen.inputs)[0], expected, rtol=1e-4, atol=2e-5)
        assert len(one) == len(other) == len(specimen.attentions)
        for a, b in zip(one, other, strict=True):
            assert (a.name, a.kind, a.k.shape, a.scale) == (b.name, b.kind, b.k.shape, b.scale)
            real = slice(None) if a.valid is None else a.valid
            ours, theirs = (weights_of(s).transpose(1, 2)[real] for s in (a, b))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_sightings_want_no_gradient(zoo, see):
    specimen = zoo["llama"]()
    with see(specimen.model) as seen:
        specimen.run()
    assert not any(x.requires_grad for s in seen for x in (s.q, s.k, s.v, s.out))


def test_dropout_is_said_and_changed_in_nothing(see):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, vocab_size=60,
        attention_probs_dropout_prob=0.3,
    )  # fmt: skip
    model = transformers.BertModel(config).train()
    ids = torch.randint(0, 60, (2, 9))
    torch.manual_seed(1)
    expected = model(ids)[0]
    torch.manual_seed(1)
    with see(model) as seen:
        watched = model(ids)[0]
    assert torch.equal(expected, watched)
    assert {s.dropout for s in seen} == {0.3}


class Attention(nn.Module):
    """One that calls what it is given to compute softmax or attention."""

    num_heads = 2

    def __init__(self, compute):
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.softmax = nn.Softmax(-1)
        self.compute = compute

    def forward(self, x):
        return self.compute(self, self.proj(x))


def split(x):
    return x.unflatten(-1, (2, 4)).transpose(1, 2)


@pytest.mark.parametrize(
    "softmax",
    [
        lambda module, x: F.softmax(x, dim=-1),
        lambda module, x: F.softmax(x, 3, dtype=torch.float32),
        lambda module, x: torch.softmax(x, -1),
        lambda module, x: torch.softmax(x, dim=-1),
        lambda module, x: torch.special.softmax(x, -1),
        lambda module, x: x.softmax(-1),
        lambda module, x: x.softmax(dim=3),
        lambda module, x: module.softmax(x),
    ],
)
def test_a_softmax_is_seen_however_it_is_spelt(softmax, see, weights_of):
    found = []

    def attend(module, x):
        found.append(softmax(module, split(x) @ split(x).mT))
        return (found[-1] @ split(x)).transpose(1, 2).flatten(2)

    model = nn.Sequential(Attention(attend))
    with see(model) as seen:
        model(torch.randn(3, 5, 8))
    (only,) = seen
    assert only.name == "0"
    torch.testing.assert_close(weights_of(only), found[0].double())


@pytest.mark.parametrize(
    "scores",
    [
        lambda x: x.unflatten(-1, (2, 4)),  # (B, T, H, band), as Longformer's
        lambda x: split(x),  # (B, H, T, D)
        lambda x: split(x)[:, :1] @ split(x).mT[:, :1],  # one head of two
    ],
)
def test_a_softmax_of_another_shape_is_not_taken_for_attention(scores, see):
    model = Attention(lambda module, x: F.softmax(scores(x), -1))
    with pytest.raises(ClearheadError, match="no attention was seen"), see(model) as seen:
        model(torch.randn(3, 5, 8))
    assert seen == []


@pytest.mark.parametrize("T", [4, 12])  # of 4, the tokens are as many as the heads
def test_longformers_band_is_seen_at_the_keys_that_it_stands_for(T, see, weights_of):
    model = transformers.LongformerModel(longformer()).eval()
    ids = torch.randint(3, 60, (2, T))
    with torch.no_grad(), see(model) as seen:
        bands = model(ids, output_attentions=True).attentions
    assert [s.name for s in seen] == ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]
    i, c = torch.arange(T)[:, None], torch.arange(5)
    j = i + c - 2
    inside = ((j >= 0) & (j < T)).expand(2, 4, -1, -1)
    for s, band in zip(seen, bands, strict=True):
        at_the_keys = weights_of(s).gather(-1, j.clamp(0, T - 1).expand(2, 4, -1, -1))
        torch.testing.assert_close(at_the_keys[inside].float(), band[inside])


def test_longformers_global_tokens_are_not_passed_off_as_a_band(see):
    model, ids = transformers.LongformerModel(longformer()).eval(), torch.randint(3, 60, (2, 8))
    globally = torch.zeros_like(ids)
    globally[:, 0] = 1
    with pytest.raises(ClearheadError, match=r"no attention was seen. Unseen ran encoder"), see(model) as seen:
        model(ids, global_attention_mask=globally)
    assert seen.unseen == ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]


def longformer():
    return transformers.LongformerConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, vocab_size=60,
        attention_window=4,
    )  # fmt: skip


def test_a_softmax_over_heads_in_the_batch_is_seen_with_a_cache_too(see, weights_of):
    config = transformers.XGLMConfig(
        d_model=32, num_layers=2, attention_heads=4, ffn_dim=32, vocab_size=60, pad_token_id=1
    )
    model, ids = transformers.XGLMForCausalLM(config).eval(), torch.randint(3, 60, (2, 9))
    with torch.no_grad(), see(model) as seen:
        first = model(ids[:, :8], use_cache=True)
        last = model(ids[:, 8:], past_key_values=first.past_key_values, output_attentions=True)
        whole = model(ids, output_attentions=True)
    assert [s.scores.shape for s in seen[::2]] == [(2, 4, 8, 8), (2, 4, 1, 9), (2, 4, 9, 9)]
    for s, expected in zip(seen[2:], (*last.attentions, *whole.attentions), strict=True):
        torch.testing.assert_close(weights_of(s).float(), expected)


def test_attention_of_two_and_three_axes_is_seen_too(see, weights_of):
    def one_head(module, x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    def heads_in_the_batch(module, x):
        q = split(x).flatten(0, 1)
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(q, q, q, mask).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)

    for attend, x, shape in [
        (one_head, torch.randn(5, 8), (1, 1, 5, 8)),
        (one_head, torch.randn(3, 5, 8), (3, 1, 5, 8)),
        (heads_in_the_batch, torch.randn(3, 5, 8), (3, 2, 5, 4)),
    ]:
        model = Attention(attend)
        with see(model) as seen:
            out = model(x)
        (only,) = seen
        assert only.q.shape == only.k.shape == only.out.shape == shape
        merged = (weights_of(only).float() @ only.v).transpose(1, 2).flatten(2).reshape(out.shape)
        torch.testing.assert_close(merged, out)


def test_queries_that_serve_the_whole_batch_are_seen_for_each_of_it(see, weights_of):
    latent = torch.randn(1, 2, 3, 4)
    model = Attention(lambda module, x: F.scaled_dot_product_attention(latent, split(x), split(x)))
    with see(model) as seen:
        out = model(torch.randn(3, 5, 8))
    assert seen[0].q.shape == (3, 2, 3, 4)
    torch.testing.assert_close(weights_of(seen[0]).float() @ seen[0].v, out)


def test_keys_fewer_than_queries_are_of_another_sequence(see):
    def pooled(module, x):
        k = F.avg_pool1d(x.mT, 2).mT
        return F.scaled_dot_product_attention(split(x), split(k), split(k)).transpose(1, 2).flatten(2)

    model = Attention(pooled)
    with see(model) as seen:
        model(torch.randn(3, 6, 8))
    assert seen[0].kind == "cross"


def test_only_the_watched_model_is_seen(zoo, see):
    watched, other, eager = zoo["llama"](), zoo["bert"](), zoo["gpt_oss"]()
    x = torch.randn(1, 2, 5, 4)
    with see(watched.model) as seen:
        other.run()
        eager.run()
        F.scaled_dot_product_attention(x, x, x)
        watched.run()
    assert [(s.name, s.step) for s in seen] == [(name, 0) for name, _ in watched.attentions]


def test_a_module_that_attends_twice_is_seen_twice(see):
    config = transformers.AlbertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32, vocab_size=60,
        embedding_size=16,
    )  # fmt: skip
    model = transformers.AlbertModel(config).eval()
    with see(model) as seen:
        model(torch.randint(3, 60, (2, 9)))
    assert len(seen) == 3
    assert len({(s.name, s.layer, s.step) for s in seen}) == 1


GENERATIONS = [(name, "dynamic") for name in ("llama", "mistral", "gpt_oss", "bloom", "mpt")]
GENERATIONS += [(name, "static") for name in ("llama", "mistral", "gpt_oss", "bloom")]


@pytest.mark.parametrize(("name", "cache"), GENERATIONS)
def test_a_generation_is_watched_step_by_step(name, cache, zoo, see, weights_of):
    specimen = zoo[name]()
    ids = specimen.inputs["input_ids"][:1]
    options = {"max_new_tokens": 4, "do_sample": False, "use_cache": True, "cache_implementation": cache}
    expected = specimen.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    with see(specimen.model) as seen:
        watched = specimen.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(watched, expected)
    assert [s.step for s in seen] == [0, 0, 1, 1, 2, 2, 3, 3]

    eager = copy.deepcopy(specimen.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        whole = eager(watched[:, :-1], output_attentions=True).attentions
    for s in seen:
        ours, Tq, end = weights_of(s), weights_of(s).shape[2], 9 + s.step
        assert Tq == (9 if s.step == 0 else 1)
        theirs = whole[s.layer][:, :, end - Tq : end, :end].double()
        assert ours.shape[3] <= end  # a window's cache drops its oldest keys
        assert theirs[..., : end - ours.shape[3]].eq(0).all()
        torch.testing.assert_close(ours, theirs[..., end - ours.shape[3] :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("T", [4, 6, 8])
def test_three_axes_with_time_first_are_heads_of_a_batch(T, see):
    """As fairseq lays them out: (T, B, E) in, (B · H, T, D) to PyTorch's function."""

    class Attention(nn.Module):
        num_heads = 4

        def __init__(self):
            super().__init__()
            self.project = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.project(x).unflatten(-1, (3, 4, 2)).unbind(2)
            return F.scaled_dot_product_attention(*(t.flatten(1, 2).transpose(0, 1) for t in (q, k, v)))

    model = Attention()
    with see(model) as seen:
        model(torch.randn(T, 2, 8))
    assert [s.q.shape for s in seen] == [(2, 4, T, 2)]
