"""How alike heads are is the mean Jensen–Shannon distance between their rows, whatever the model."""

import math
import re

import numpy as np
import pytest
import torch

import clearhead as ch
from clearhead import ClearheadError
from clearhead.models.checkpoints import open_model
from clearhead.scope.alike import js_distance
from clearhead.scope.randomised import randomised
from tests.scope.small import Largest


def by_definition(p, q):
    """√(½ Σ p log₂ p/m + ½ Σ q log₂ q/m), m = ½ (p + q), in float64; what is lacking to 1 is one more key."""
    p, q = (np.append(np.asarray(x, dtype=np.float64), max(0.0, 1 - float(x.sum()))) for x in (p, q))
    p, q = (np.where(x > 1e-5 * (np.arange(len(x)) == len(x) - 1), x, 0) for x in (p, q))
    m = (p + q) / 2
    total = sum(0.5 * x[x > 0] @ np.log2(x[x > 0] / m[x > 0]) for x in (p, q))
    return math.sqrt(max(total, 0.0))


def mean_distances(rows):
    """Of rows (N, queries, Tk)."""
    N, n, _ = rows.shape
    D = torch.zeros(N, N, dtype=torch.float64)
    for a in range(N):
        for b in range(a):
            D[a, b] = D[b, a] = sum(by_definition(rows[a, i], rows[b, i]) for i in range(n)) / n
    return D


def watched(specimen, **options):
    with torch.no_grad(), ch.watch(specimen.model, **options) as seen:
        specimen.run()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distance_is_that_of_its_definition(dtype):
    p, q = ((3 * torch.randn(20, 500, dtype=torch.float64)).softmax(-1) for _ in range(2))
    got = js_distance(p.to(dtype), q.to(dtype))
    expected = torch.tensor([by_definition(a, b) for a, b in zip(p, q, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-5)


def test_it_is_0_for_the_same_row_and_1_where_no_key_is_shared():
    p = (3 * torch.randn(50, 3000)).softmax(-1)
    apart = torch.eye(4)
    assert (js_distance(p, p) == 0).all()
    nearly = (p.log() + 1e-3 * torch.randn_like(p)).softmax(-1)
    assert js_distance(p, nearly).max() < 1e-3
    assert js_distance(apart[0], apart[1]) == 1
    assert js_distance(apart[0] * 0, apart[1]) == 1  # all on a sink, all on a key


def test_a_sink_counts_as_one_more_key():
    p, q = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([0.25, 0.5, 0.0])
    with_sink = js_distance(torch.tensor([0.5, 0.0, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.0, 0.25]))
    torch.testing.assert_close(js_distance(p, q), with_sink)


def test_in_every_kind_of_model_it_is_the_mean_over_all_queries_of_its_definition(specimen):
    seen = watched(specimen)
    true = specimen.true_weights()
    stacks = {}
    for number, layer in enumerate(seen.layers):
        stacks.setdefault((re.split(r"\d", layer.name)[0], layer.kind), []).append(number)
    for (_, kind), stack in stacks.items():
        b = 1
        rows = torch.cat([true[n][b] for n in stack]).detach().double()
        real = seen[stack[0]].steps[0].real
        if real is not None and kind == "self":
            rows = rows[:, real[b, -rows.shape[1] :]]
        got = seen.alike(layers=stack, batch=b)
        # Rounding in nearly the same rows is small in the divergence, and larger in its root.
        torch.testing.assert_close(got.distances.double(), mean_distances(rows), rtol=0, atol=2e-3)
        assert got.queries == got.of == rows.shape[1]
        assert got.heads == [(n, h) for n in stack for h in range(seen[n].heads)]


def test_of_a_long_text_evenly_spaced_queries_are_compared(zoo):
    seen = watched(zoo["llama"]())
    got = seen.alike(3)
    rows = torch.cat([layer.rows([1, 4, 7]) for layer in seen.layers])
    torch.testing.assert_close(got.distances.double(), mean_distances(rows), rtol=0, atol=1e-3)
    assert (got.queries, got.of) == (3, 9)


def test_more_heads_and_keys_than_a_tile_holds_are_compared_tile_by_tile(zoo, monkeypatch):
    seen = watched(zoo["llama"]())
    expected = seen.alike().distances
    monkeypatch.setattr("clearhead.scope.alike.HEADS", 3)
    monkeypatch.setattr("clearhead.scope.alike.KEYS", 4)
    monkeypatch.setattr("clearhead.scope.alike.ROWS_AT_A_TIME", 1)
    torch.testing.assert_close(seen.alike().distances, expected, rtol=0, atol=1e-3)


def test_a_generation_is_compared_as_its_text_is(zoo):
    llama = zoo["llama"]()
    ids = llama.inputs["input_ids"][:1]
    with torch.no_grad():
        with ch.watch(llama.model) as generated:
            longer = llama.model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=1)
        with ch.watch(llama.model) as at_once:
            llama.model(longer[:, :-1])
    one, other = generated.alike(), at_once.alike()
    torch.testing.assert_close(one.distances, other.distances, rtol=0, atol=1e-3)
    assert one.of == other.of == ids.shape[1] + 3


@pytest.fixture
def collapsed(zoo):
    """GPT-2 in which heads 1 and 3 of layer 0 have become head 0."""
    gpt2 = zoo["gpt2"]()
    attention = gpt2.model.transformer.h[0].attn.c_attn
    with torch.no_grad():
        for x in (attention.weight, attention.bias):
            for part in range(2):  # its queries and its keys
                own = x[..., 32 * part : 32 * (part + 1)].unflatten(-1, (4, 8))
                own[..., [1, 3], :] = own[..., [0, 0], :]
    return gpt2


def test_heads_that_have_collapsed_are_found(collapsed):
    found = watched(collapsed).alike()
    assert found.clusters(0.001) == [[(0, 0), (0, 1), (0, 3)]]
    assert found.share(0.001) == 3 / 8
    assert found.nearest[[0, 1, 3]].max() < 0.001 < found.nearest[[2, 4, 5, 6, 7]].min()
    places = [found.order.index(n) for n in (0, 1, 3)]
    assert max(places) - min(places) == 2
    points, kept = found.layout
    assert (points[[1, 3]] - points[0]).norm(dim=-1).max() < 0.05 and 0 < kept < 1


def test_the_verdict_is_a_sentence_with_its_baseline(collapsed):
    baseline = watched(collapsed.__class__(randomised(collapsed.model, 5), collapsed.inputs, [], list))
    found = watched(collapsed).alike(against=baseline)
    assert found.baseline.distances.shape == (8, 8)
    assert str(found) == found.verdict(0.1)
    share = round(100 * found.baseline.share(0.001))
    assert found.verdict(0.001) == (
        "38% of 8 heads have another within a Jensen–Shannon distance of 0.001 (mean over 9 of 9 queries); "
        f"of the baseline's 8, {share}% have."
    )


def test_no_matrix_of_tokens_by_tokens_is_made(monkeypatch):
    T = 3000
    layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    with torch.no_grad(), ch.watch(layer) as seen:
        layer(torch.randn(1, T, 16))
    monkeypatch.setattr("clearhead.scope.alike.ROWS_AT_A_TIME", 2**16)
    with Largest() as largest:
        seen.alike(8)
    assert largest.numbers <= T * T / 16


def test_training_makes_heads_differ():
    """As models begin, their attention is all but uniform; what each head does it has learned."""
    minilm = open_model("minilm")
    text = minilm.tokenizer("The cat sat on the mat, and the dog on the rug. Why?", return_tensors="pt")
    with torch.no_grad():
        with ch.watch(minilm.model) as seen:
            minilm.model(**text)
        fresh = randomised(minilm.model)
        with ch.watch(fresh) as begun:
            fresh(**text)
    found = seen.alike(against=begun)
    assert found.share(0.1) < 0.1 < 0.9 < found.baseline.share(0.1)


def test_what_cannot_be_compared_is_refused_in_a_sentence(zoo):
    t5 = watched(zoo["t5"]())
    with pytest.raises(ClearheadError, match=r"alike: the layers must have read one text, but .* of 5 queries"):
        t5.alike()
    clip = watched(zoo["clip"]())
    with pytest.raises(ClearheadError, match=r"5 queries to 5 keys of another text\. Name those that did: layers="):
        clip.alike()
    llama = watched(zoo["llama"]())
    with pytest.raises(ClearheadError, match="queries: got 0, expected a whole number, 1 or more"):
        llama.alike(0)
    with pytest.raises(ClearheadError, match="there is no layer 2"):
        llama.alike(layers=[2])
    with pytest.raises(ClearheadError, match="no layer was chosen"):
        llama.alike(layers=[])
    with pytest.raises(ClearheadError, match="watch with keep='qk'"):
        watched(zoo["llama"](), keep="statistics").alike()
    one = torch.nn.MultiheadAttention(8, 1)
    with torch.no_grad(), ch.watch(one) as seen:
        one(*[torch.randn(3, 1, 8)] * 3)
    with pytest.raises(ClearheadError, match="got 1 head, expected two or more"):
        seen.alike()
    with pytest.raises(ClearheadError, match=r"the baseline read another text; run it on the same inputs"):
        llama.alike(against=watched(zoo["llama_padded"]()))


def test_weights_that_are_no_numbers_are_not_called_alike(zoo):
    llama = zoo["llama"]()
    with torch.no_grad():
        llama.model.model.layers[1].self_attn.q_proj.weight[8] = math.nan  # of the layer's head 1
    with pytest.warns(ch.WatchWarning, match="differs by nan"):
        seen = watched(llama)
    with pytest.raises(ClearheadError, match="alike: layer 1, head 1 has weights that are no numbers"):
        seen.alike()


def test_a_text_in_which_nothing_is_seen_is_refused_in_a_sentence():
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 3, 8)
    with torch.no_grad(), ch.watch(layer) as seen:
        layer(x, x, x, attn_mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ClearheadError, match="alike: no query of this text sees a key in every head"):
        seen.alike()
