"""The tokens at an attention's queries and keys are the ones that are there, or are not known."""

import copy

import pytest
import torch
import transformers
from torch import nn

IDS = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7, 8]])


def same(ids, expected):
    return ids is not None and torch.equal(ids, expected)


def test_of_a_text_all_tokens_are_known(zoo, see):
    for name in ("bert", "gpt2", "llama", "mistral", "gpt_oss", "bloom", "mpt"):
        specimen = zoo[name]()
        with see(specimen.model) as seen:
            specimen.run()
            specimen.model(specimen.inputs["input_ids"])
        padded, plain = seen[:2], seen[2:]
        assert all(same(s.ids_q, specimen.inputs["input_ids"]) for s in seen)
        assert all(same(s.ids_k, s.ids_q) for s in seen)
        assert all(torch.equal(s.valid, specimen.inputs["attention_mask"].bool()) for s in padded)
        assert all(s.valid is None for s in plain)


def test_an_encoder_and_a_decoder_have_each_their_text(zoo, see):
    specimen = zoo["t5"]()
    source, target = specimen.inputs["input_ids"], specimen.inputs["decoder_input_ids"]
    with see(specimen.model) as seen:
        specimen.run()
    for s in seen:
        in_encoder = s.name.startswith("encoder")
        assert same(s.ids_q, source if in_encoder else target)
        assert same(s.ids_k, source if in_encoder or s.kind == "cross" else target)
        assert (s.valid is not None) == in_encoder


def test_a_decoder_that_is_given_vectors_has_no_tokens_even_if_the_encoder_has_as_many(zoo, see):
    model = zoo["t5"]().model
    with see(model) as seen:
        model(input_ids=IDS, decoder_inputs_embeds=torch.randn(1, 9, 32))
    assert all((s.ids_q is None) == s.name.startswith("decoder") for s in seen)


def test_an_image_has_no_tokens_even_beside_a_text_of_as_many(zoo, see):
    specimen = zoo["clip"]()
    with see(specimen.model) as seen:
        specimen.run()
    for s in seen:
        assert s.q.shape[2] == 5
        assert (s.ids_q is None) == (s.ids_k is None) == (s.valid is None) == s.name.startswith("vision")


def test_sound_has_no_tokens_and_what_was_said_of_it_has(zoo, see):
    specimen = zoo["whisper"]()
    with see(specimen.model) as seen:
        specimen.run()
    for s in seen:
        assert (s.ids_q is None) == s.name.startswith("model.encoder")
        assert (s.ids_k is None) == (s.name.startswith("model.encoder") or s.kind == "cross")


def test_tokens_are_those_of_the_outer_module_where_the_inner_one_is_given_their_vectors(zoo, see):
    class Outer(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask=None):
            embeds = self.inner.get_input_embeddings()(input_ids)
            return self.inner(inputs_embeds=embeds, attention_mask=attention_mask)

    model, mask = Outer(zoo["llama"]().model), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])
    with see(model) as seen:
        model(IDS, mask)
        model.inner(inputs_embeds=torch.randn(1, 9, 32), attention_mask=mask)
    assert all(same(s.ids_q, IDS) and same(s.ids_k, IDS) for s in seen[:2])
    assert all(s.ids_q is None and s.ids_k is None for s in seen[2:])
    assert all(torch.equal(s.valid, mask.bool()) for s in seen)


def test_other_names_of_the_argument_are_known(see):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(60, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, idx, targets=None):
            x = self.embed(idx)
            return self.attention(x, x, x)

    model = Small()
    with see(model) as seen:
        model(IDS, IDS)
    assert same(seen[0].ids_q, IDS)


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "gpt2"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_keys_in_a_cache_keep_their_tokens(name, cache, zoo, see):
    model, options = zoo[name]().model, {"do_sample": False, "use_cache": True, "cache_implementation": cache}
    with see(model) as seen:
        made = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, **options)
    assert len(seen) == 8
    for s in seen:
        end = 9 + s.step
        assert same(s.ids_q, made[:, end - s.q.shape[2] : end])
        assert same(s.ids_k, made[:, end - s.k.shape[2] : end])


def test_padded_texts_of_a_batch_go_on_each_with_its_own_tokens(zoo, see):
    specimen = zoo["llama_padded"]()
    with see(specimen.model) as seen:
        made = specimen.model.generate(**specimen.inputs, max_new_tokens=3, do_sample=False)
    for s in seen:
        assert same(s.ids_k, made[:, : s.k.shape[2]])
        assert s.valid.shape == s.ids_q.shape
        assert s.valid.all() == (s.step > 0)


def test_the_tokens_of_beams_follow_them(zoo, see):
    model = zoo["gpt2"]().model
    torch.manual_seed(0)
    ids = torch.randint(3, 60, (2, 5))
    with see(model) as seen:
        model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=6, do_sample=False)
    reordered = 0
    for before, s in zip(seen, seen[2:], strict=False):
        reordered += not torch.equal(s.ids_k[:, : before.ids_k.shape[1]], before.ids_k)
        with see(model) as alone, torch.no_grad():
            model(s.ids_k)
        torch.testing.assert_close(alone[s.layer].k, s.k)  # such keys have none but these tokens
    assert reordered


def test_of_beams_that_translate_the_keys_are_the_source(zoo, see):
    model = zoo["t5"]().model
    source = torch.randint(3, 60, (2, 7))
    with see(model) as seen:
        model.generate(source, num_beams=3, max_new_tokens=4, do_sample=False)
    cross = [s for s in seen if s.kind == "cross"]
    assert len(cross) == 8
    assert all(same(s.ids_k, source.repeat_interleave(3, 0)) for s in cross)


def test_a_tail_that_was_cut_off_the_cache_is_forgotten(zoo, see):
    model, cache = zoo["llama"]().model, transformers.DynamicCache()
    with torch.no_grad(), see(model) as seen:
        model(IDS, past_key_values=cache)
        cache.crop(-4)
        model(torch.tensor([[30, 31]]), past_key_values=cache)
    assert all(same(s.ids_k, torch.tensor([[5, 6, 7, 8, 9, 30, 31]])) for s in seen[2:])


def test_tokens_cached_before_the_watch_are_not_known(zoo, see):
    model, cache = zoo["llama"]().model, transformers.DynamicCache()
    with torch.no_grad():
        model(IDS, past_key_values=cache)
        other = copy.deepcopy(cache)
        with see(model) as seen:
            model(IDS[:, :1], past_key_values=cache)
            model(torch.randint(3, 60, (1, 9)))
            model(IDS[:, :1], past_key_values=other)
    assert [s.k.shape[2] for s in seen] == [10, 10, 9, 9, 10, 10]
    assert all(same(s.ids_q, IDS[:, :1]) and s.ids_k is None for s in seen[:2] + seen[4:])


def test_of_eager_softmax_alone_cached_tokens_are_not_known(zoo, see):
    model = zoo["bloom"]().model
    with see(model) as seen:
        model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2, do_sample=False)
    assert [s.ids_k is None for s in seen] == [False, False, True, True]
    assert all(s.ids_q is not None for s in seen)
