"""Texts that a model reads or writes together are seen as each is alone, whatever the batch does to their places."""

from dataclasses import fields
from functools import partial

import pytest
import torch
from torch import nn

import clearhead as ch
from clearhead import ClearheadError, WatchWarning
from clearhead.attend.statistics import Statistics
from clearhead.scope.record import Record
from clearhead.scope.summary import Summary
from tests.scope.test_own_models import tiny

UNEVEN = [[5, 6, 7, 5, 6], [3, 4]]


def assert_sums_are_those_of(together: Record, alone: list[Record]) -> None:
    """The table of a batch is made of the same sums over the same queries as its texts' own tables."""
    assert len(together) == len(alone[0])
    for number, layer in enumerate(together.layers):
        ours, theirs = layer.summary(), Summary()
        for record in alone:
            theirs += record[number].summary()
        assert ours.counts == theirs.counts
        for column, total in theirs.sums.items():
            torch.testing.assert_close(ours.sums[column], total, rtol=1e-4, atol=1e-4, msg=lambda m, c=column: c + m)
        torch.testing.assert_close(ours.max_score, theirs.max_score, rtol=1e-3, atol=1e-4)


LATENT = partial(ch.nn.MultiHeadLatentAttention, heads=4, head_width=8, latent=16, value_width=8)
OWN = {
    "causal": ({}, ch.nn.Growing),
    "window": ({"pattern": ch.window(3)}, ch.nn.Growing),
    "alibi": ({"position": ch.nn.Alibi(4)}, ch.nn.Growing),
    "sliding": ({}, lambda: ch.nn.Sliding(64)),
    "paged": ({}, lambda: ch.nn.Paged(POOL)),
    "quantised": ({}, ch.nn.Quantised),
    "latent": ({"attention": LATENT, "position": ch.nn.Rotary(4)}, ch.nn.Growing),
}
POOL = ch.nn.Pool(64, 4)


@pytest.mark.parametrize("name", OWN)
def test_texts_of_unlike_length_that_are_written_together_are_what_each_is_alone(name):
    options, cache = OWN[name]
    model = tiny(**options, layers=1)
    with ch.watch(model) as together:
        written = model.generate(UNEVEN, max_new_tokens=3, cache=cache)
    alone = []
    for prompt in UNEVEN:
        with ch.watch(model) as one:
            model.generate(prompt, max_new_tokens=3, cache=cache)
        alone.append(one)
    assert_sums_are_those_of(together, alone)
    for layer, *each in zip(together.layers, *(one.layers for one in alone), strict=True):
        assert layer.name == each[0].name and len(layer.sequences) == 2
        for n, one in enumerate(each):
            T = len(UNEVEN[n]) + 2
            assert layer.sequence(n).lengths == one.lengths == (T, T)
            ids = layer.sequences[n][-1].ids_k
            assert ids.tolist() == [UNEVEN[n] + written[n].tokens[:2]]
            torch.testing.assert_close(layer.sequence(n).rows(range(T)), one.rows(range(T)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("leaving", [0, 2])
def test_a_text_that_leaves_an_uneven_batch_ends_and_the_others_go_on(leaving):
    model, staying = tiny(), [n for n in range(3) if n != leaving]
    prompts = [[5, 6, 7, 8], [3, 4], [9, 8]]  # the last two are even, without the first
    tokens = torch.tensor([prompt + [0] * (4 - len(prompt)) for prompt in prompts])
    with torch.no_grad(), ch.watch(model) as seen:
        caches = model.caches()
        model(tokens, lengths=torch.tensor([4, 2, 2]), caches=caches)
        model(torch.tensor([[1], [2], [3]]), caches=caches)
        for cache in caches:
            cache.take(torch.tensor(staying))
        model(torch.tensor([[11], [12]]), caches=caches)
    whole = [[*prompt, n + 1] for n, prompt in enumerate(prompts)]
    for place, n in enumerate(staying):
        whole[n].append(11 + place)
    alone = []
    for text in whole:
        with torch.no_grad(), ch.watch(model) as one:
            model(torch.tensor([text]))
        alone.append(one)
    assert [seen[1].sequence(n).lengths[0] for n in range(3)] == [len(text) for text in whole]
    assert_sums_are_those_of(seen, alone)


@pytest.mark.parametrize("keep", ["qk", "statistics"])
@pytest.mark.parametrize("staying", [[1, 2], [0, 1], [2]])
def test_what_is_seen_stays_with_its_text_when_others_leave_an_even_batch(staying, keep):
    model, prompts, new = tiny(), [[5, 6, 7], [3, 4, 9], [8, 2, 7]], [[21, 22], [23, 24], [25, 26]]
    with torch.no_grad(), ch.watch(model, keep=keep) as seen:
        caches = model.caches()
        model(torch.tensor(prompts), caches=caches)
        for cache in caches:
            cache.take(torch.tensor(staying))
        for step in (0, 1):
            model(torch.tensor([new[n][step : step + 1] for n in staying]), caches=caches)
    alone = []
    for n, prompt in enumerate(prompts):
        with torch.no_grad(), ch.watch(model, keep=keep) as one:
            caches = model.caches()
            model(torch.tensor([prompt]), caches=caches)
            for step in range(2 if n in staying else 0):
                model(torch.tensor([new[n][step : step + 1]]), caches=caches)
        alone.append(one)
    assert_sums_are_those_of(seen, alone)
    for number, layer in enumerate(seen.layers):
        assert len(layer.sequences) == 2
        places = [(0, n, n, 0, 3) for n in range(3)] + [(1, place, n, 3, 5) for place, n in enumerate(staying)]
        for sequence, place, n, start, stop in places:
            ours, one = layer.sequence(sequence), alone[n][number]
            assert ours.queries(place) == one.queries()[start:stop]
            assert ours.keys(place) == one.keys()[:stop]
            for f in fields(Statistics):
                values, expected = getattr(ours.statistics, f.name), getattr(one.statistics, f.name)
                torch.testing.assert_close(values[place], expected[0, :, start:stop], rtol=1e-4, atol=1e-5)
            if keep == "qk":
                expected = one.rows(range(start, stop))[..., :stop]
                rows = ours.rows(range(stop - start), batch=place)
                torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


def test_decode_over_a_cache_of_unlike_lengths_is_seen_sequence_by_sequence():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(8, 8)

        def forward(self, x, k, lengths):
            q = self.q(x).unflatten(-1, (2, 4)).transpose(1, 2)
            return ch.decode(q, k, k, lengths=lengths)

    model, k = Attention(), torch.randn(2, 2, 9, 4)
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.randn(2, 1, 8), k, torch.tensor([9, 3]))
    (layer,) = seen.layers
    assert [step.shape for step in layer.steps] == [(1, 2, 1, 9), (1, 2, 1, 3)]
    w = layer.sequence(1).rows([0])[:, 0]
    expected = (w * torch.tensor([2.0, 1.0, 0.0])).sum(-1)
    torch.testing.assert_close(layer.sequence(1).statistics.distance[0, :, 0], expected)


HUGGING_FACE = [(name, "dynamic") for name in ("llama_padded", "gpt2", "mistral", "gpt_oss", "bloom")]
HUGGING_FACE += [(name, "static") for name in ("llama_padded", "mistral", "bloom")]


@pytest.mark.parametrize(("name", "cache"), HUGGING_FACE)
def test_a_left_padded_batch_with_a_cache_is_row_by_row_what_each_text_is_alone(name, cache, zoo):
    specimen = zoo[name]()
    options = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": cache}
    ids, mask = specimen.inputs["input_ids"], specimen.inputs["attention_mask"]
    with ch.watch(specimen.model) as together:
        specimen.model.generate(ids, attention_mask=mask, **options)
    alone = []
    for row, real in zip(ids, mask.bool(), strict=True):
        text = row[real][None]
        with ch.watch(specimen.model) as one:
            specimen.model.generate(text, attention_mask=torch.ones_like(text), **options)
        alone.append(one)
    assert_sums_are_those_of(together, alone)
    for layer, *each in zip(together.layers, *(one.layers for one in alone), strict=True):
        for b, one in enumerate(each):
            T, pads = one.lengths[0], int((mask[b] == 0).sum())
            for seen in ("entropy", "peak", "distance"):
                ours, theirs = (getattr(x.statistics, seen) for x in (layer, one))
                torch.testing.assert_close(ours[b, :, pads:], theirs[0], rtol=1e-4, atol=1e-5)
            if layer.lengths[1] == T + pads:  # a cache that slides keeps the last keys alone, in columns of its own
                ours = layer.rows(range(pads, pads + T), batch=b)
                torch.testing.assert_close(ours[..., pads:], one.rows(range(T)), rtol=1e-4, atol=1e-5)


WRITING = [
    ("llama_padded", {}, "qk", 1),
    ("llama_padded", {"use_cache": False}, "qk", "end"),
    ("mistral", {}, "statistics", "end"),
    ("mistral", {"cache_implementation": "static"}, "qk", 1),
    ("gpt_oss", {"stopping_criteria": True}, "qk", 1),
    ("bloom", {}, "statistics", 1),
    ("t5", {}, "qk", "end"),
]


@pytest.mark.parametrize(("name", "options", "keep", "pad"), WRITING)
def test_padding_after_a_text_that_has_ended_is_no_query_of_it(name, options, keep, pad, zoo):
    specimen = zoo[name]()
    ids, mask = (specimen.inputs[key] for key in ("input_ids", "attention_mask"))
    if name == "t5":  # a query's position among the keys of a source counts the source's padding
        mask = torch.ones_like(mask)
    generate = partial(specimen.model.generate, do_sample=False, max_new_tokens=5)
    written = generate(ids, attention_mask=mask)[:, -5:].tolist()
    # The end is a token that only one of the texts writes, as late as its third.
    step, short, end = max(
        (text.index(token), row, token)
        for row, text in enumerate(written)
        for token in text[:3]
        if token not in written[1 - row]
    )
    pad = end if pad == "end" else pad
    if "stopping_criteria" in options:  # which is how stop strings end a text, with no token that says so
        options = {"stopping_criteria": [lambda ids, scores, **_: ids[:, -1] == end], "eos_token_id": 59}
    else:
        options = {"eos_token_id": end, **options}
    with ch.watch(specimen.model, keep=keep) as together:
        whole = generate(ids, attention_mask=mask, pad_token_id=pad, **options)[:, -5:].tolist()
    assert whole[short] == written[short][: step + 1] + [pad] * (4 - step)
    assert whole[1 - short] == written[1 - short]
    alone = []
    for row, real in zip(ids, mask.bool(), strict=True):
        text = row[real][None]
        with ch.watch(specimen.model, keep=keep) as one:
            generate(text, attention_mask=torch.ones_like(text), pad_token_id=pad, **options)
        alone.append(one)
    assert len(alone[short][-1].steps) == step + 1 < 5 == len(together[-1].steps)
    assert_sums_are_those_of(together, alone)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_drafts_that_were_refused_are_no_queries_of_the_text(name, stored, zoo, tmp_path):
    model = zoo[name]().model
    ids = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    with ch.watch(model) as plain:
        expected = model.generate(ids, **options)
    with ch.watch(model, values=True, store=tmp_path if stored else None) as assisted:
        written = model.generate(ids, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(written, expected)
    assert assisted.calls < plain.calls
    assert_sums_are_those_of(assisted, [plain])
    for ours, theirs in zip(assisted.layers, plain.layers, strict=True):
        assert ours.lengths == theirs.lengths and len(ours.sequences) == 1
        assert all(torch.equal(s.ids_k, expected[:, : s.shape[3]]) for s in ours.steps)
        assert all(s.v.shape[2] == s.shape[3] for s in ours.steps)
        torch.testing.assert_close(ours.rows(range(22)), theirs.rows(range(22)))
        assert torch.equal(ours.top(2)[0], theirs.top(2)[0])


def test_statistics_alone_say_that_refused_drafts_stay_counted():
    model, caches = tiny(), tiny().caches()
    with torch.no_grad(), ch.watch(model, keep="statistics"):
        model(torch.tensor([[5, 6, 7, 8, 9]]), caches=caches)
        for cache in caches:
            cache.crop(torch.tensor([3]))
        with pytest.warns(WatchWarning, match="2 of 5 queries were of tokens that the model took back"):
            model(torch.tensor([[1]]), caches=caches)


def test_a_cache_that_was_cut_back_to_an_earlier_call_goes_on_with_another_text():
    model, caches = tiny(), tiny().caches()
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.tensor([[5, 6, 7]]), caches=caches)
        for ending in ([1, 2], [3, 4]):
            for cache in caches:
                cache.crop(torch.tensor([3]))
            model(torch.tensor([ending]), caches=caches)
    assert [len(sequence) for sequence in seen[1].sequences] == [2, 1]
    assert seen[1].sequences[1][0].ids_k.tolist() == [[5, 6, 7, 3, 4]]
    with pytest.raises(ClearheadError, match="saw 2 sequences"):
        seen[1].rows([0])
