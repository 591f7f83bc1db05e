"""A record keeps O(T) of what it saw, and gives back what was there."""

import gc
import weakref
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clearhead import ClearheadError, WatchWarning, attention, causal
from clearhead.attend import library, native
from clearhead.attend.backends import BACKENDS
from clearhead.scope.layer import Keys, Layer
from clearhead.scope.record import Record
from clearhead.scope.seams import DROPS, LEFT
from clearhead.scope.sighting import Sighting
from clearhead.scope.watch import Watch

B, H, K, T, D = 2, 4, 2, 12, 8


def sighting(q, k, v, *, name="layers.0.attn", step=0, kind="self", causality=True, **more):
    """A call of attention as a model would show it; with a cache, queries are the last of the keys."""
    Tq, Tk = q.shape[2], k.shape[2]
    mask = torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq)[None, None] if causality else None
    out = attention(q, k, v, pattern=causal() if causality else None, backend="reference")
    fields = {"scale": D**-0.5, "mask": mask, "out": out, **more}
    return Sighting(name, 0, kind, step, q=q, k=k, v=v, **fields)


@pytest.fixture
def qkv():
    return torch.randn(B, H, T, D), torch.randn(B, K, T, D), torch.randn(B, K, T, D)


def full_weights(q, k):
    eye = torch.eye(k.shape[2]).expand(B, K, -1, -1)
    return attention(q, k, eye, pattern=causal(), backend="reference")


def test_rows_are_the_weights_that_the_model_used(qkv):
    record = Record()
    record.add(sighting(*qkv))
    expected = full_weights(*qkv[:2])
    torch.testing.assert_close(record["layers.0.attn"].rows([3, 11], head=1, batch=1), expected[1, 1, [3, 11]])
    assert record.check < 1e-5 and record.calls == 1


def test_what_the_model_overwrites_later_is_not_lost(qkv):
    record = Record()
    expected = full_weights(*qkv[:2])
    record.add(sighting(*qkv))
    for x in qkv:
        x.zero_()
    torch.testing.assert_close(record[0].rows(range(T)), expected[0])


def test_the_model_s_mask_is_not_held(qkv):
    record = Record()
    shown = sighting(*qkv)
    mask = weakref.ref(shown.mask)
    record.add(shown)
    del shown
    assert mask() is None


def test_steps_of_a_generation_are_rows_of_one_sequence(qkv):
    q, k, v = qkv
    record = Record()
    record.add(sighting(q[:, :, :9], k[:, :, :9], v[:, :, :9]))
    for n, t in enumerate(range(9, T), start=1):
        record.add(sighting(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], step=n))
    (layer,) = record.layers
    assert len(layer.sequences) == 1 and len(layer.steps) == 4 and record.calls == 4
    torch.testing.assert_close(layer.rows(range(T), batch=1), full_weights(q, k)[1])
    torch.testing.assert_close(layer.statistics.lse, attention(q, k, v, pattern=causal(), return_lse=True)[1])
    keys, weights = layer.top(3)
    torch.testing.assert_close(weights, full_weights(q, k).topk(3, -1).values)


def test_keys_of_a_growing_cache_are_kept_once(qkv):
    q, k, v = qkv
    record = Record()
    for n, t in enumerate(range(4, T)):
        rows = slice(0, 5) if n == 0 else slice(t, t + 1)
        record.add(sighting(q[:, :, rows], k[:, :, : t + 1], v[:, :, : t + 1], step=n))
    assert len({id(step.keys) for step in record[0].steps}) == 1


def test_a_second_text_is_a_sequence_of_its_own(qkv):
    record = Record()
    record.add(sighting(*qkv, step=0))
    record.add(sighting(*(x.flip(2) for x in qkv), step=1))
    with pytest.raises(ClearheadError, match=r"saw 2 sequences in this watch; say which: .*sequence\(0\)"):
        record[0].rows([0])
    flipped = full_weights(*(x.flip(2) for x in qkv[:2]))
    torch.testing.assert_close(record[0].sequence(1).rows([5]), flipped[0, :, [5]])


def test_steps_of_two_caches_in_turn_stay_apart(qkv):
    one, other = qkv, tuple(x.flip(2) for x in qkv)
    for keep in ("qk", "statistics"):
        record = Record(keep=keep)
        for n, (stop, (q, k, v)) in enumerate([(9, one), (9, other), (10, one), (10, other), (11, one)]):
            start = 0 if stop == 9 else stop - 1
            record.add(sighting(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], step=n))
        assert [len(sequence) for sequence in record[0].sequences] == [3, 2]


def test_two_passes_with_keys_besides_the_queries_are_two_sequences(qkv):
    q, k, v = qkv
    record = Record()
    for n, (a, b, c) in enumerate([(q, k, v), tuple(x.flip(2) for x in qkv)]):
        record.add(sighting(a[:, :, 5:], b, c, step=n))
    assert len(record[0].sequences) == 2


def test_rows_come_in_the_order_in_which_they_are_asked_for(qkv):
    q, k, v = qkv
    record = Record()
    record.add(sighting(q[:, :, :9], k[:, :, :9], v[:, :, :9]))
    record.add(sighting(q[:, :, 9:10], k[:, :, :10], v[:, :, :10], step=1))
    expected = full_weights(q[:, :, :10], k[:, :, :10])
    torch.testing.assert_close(record[0].rows([9, 2, -1, 0], head=1), expected[0, 1, [9, 2, 9, 0]])
    assert record[0].rows([], head=1).shape == (0, 10)


def test_a_module_that_attends_twice_in_a_step_has_a_layer_for_each_time(qkv):
    record = Record()
    record.add(sighting(*qkv))
    record.add(sighting(*(x.flip(2) for x in qkv)))
    assert [layer.name for layer in record.layers] == ["layers.0.attn", "layers.0.attn#2"]


def test_statistics_alone_give_the_same_table_and_refuse_rows(qkv):
    ids = torch.randint(0, 5, (B, T))
    tables = []
    for keep in ("qk", "statistics"):
        record = Record(keep=keep)
        record.add(sighting(*qkv, ids_q=ids, ids_k=ids))
        tables.append(record.heads(pandas=False))
    for one, other in zip(*tables, strict=True):
        assert one == pytest.approx(other, nan_ok=True)
    with pytest.raises(ClearheadError, match=r"kept statistics only.*keep='qk'"):
        record[0].rows([0])


def test_scores_read_off_a_softmax_give_the_same_rows_and_lse(qkv):
    q, k, v = qkv
    scores = (q @ k.repeat_interleave(H // K, 1).mT * D**-0.5).masked_fill(
        ~torch.ones(T, T, dtype=torch.bool).tril(), torch.finfo(torch.float32).min
    )
    record = Record()
    record.add(Sighting("attn", 0, "self", 0, scores=scores))
    torch.testing.assert_close(record[0].rows(range(T)), full_weights(q, k)[0])
    torch.testing.assert_close(record[0].statistics.lse, attention(q, k, v, pattern=causal(), return_lse=True)[1])
    assert record.in_full == ["attn"]


def test_a_mask_that_is_kept_in_full_is_named(qkv):
    shown = replace(sighting(*qkv), mask=torch.randn(1, 1, T, T), causal=False, out=None)
    record, sums = Record(), Record(keep="statistics")
    for one in (record, sums):
        one.add(shown)
    assert record.in_full == ["layers.0.attn"]
    assert sums.in_full == []


def test_a_layer_whose_weights_do_not_make_the_model_s_output_is_named(qkv):
    record = Record()
    wrong = sighting(*qkv, out=torch.randn(B, H, T, D))
    said = r"layers.0.attn: on rows \[0, 6, 11\] the attention that was seen differs by"
    with pytest.warns(WatchWarning, match=said):
        record.add(wrong)


def watched(model, x, **options):
    with Watch(model, record=Record, **options) as record:
        out = model(x)
    return record, out


class Attention(nn.Module):
    """A plain causal attention."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.qkv, self.dropout = nn.Linear(8, 24), dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)
        return out.transpose(1, 2).flatten(2)


X = torch.randn(2, 7, 8)


@pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
def test_it_says_how_many_ran_on_our_kernels_and_why_others_did_not():
    model = nn.ModuleDict({"a": Attention(), "b": Attention(dropout=0.5)})
    with Watch(model, record=Record) as record:
        model["a"](X), model["b"](X), model["a"](X)
    assert (record.kernels.taken, dict(record.kernels.passed)) == (2, {DROPS: 1})
    assert record.kernels.explain().splitlines() == [
        "Clearhead's native kernels took 2 of 3 attentions: a.",
        f"The model's own kernels computed 1, because {DROPS}: b.",
    ]
    assert repr(record).startswith("Record(3 attentions seen in 2 layers, 2 on native kernels, check=")


def test_without_our_kernels_all_runs_on_the_model_s_own_and_says_so(monkeypatch):
    model = Attention()
    expected = model(X)
    monkeypatch.setattr(library, "missing", lambda: "they were not built")
    record, out = watched(model, X)
    assert torch.equal(out, expected)
    assert (record.kernels.taken, dict(record.kernels.passed)) == (0, {"they were not built": 1})
    assert record.checked == 1 and record.check < 1e-6


def test_statistics_are_the_same_whoever_computes():
    model = Attention()
    (ours, _), (own, _) = watched(model, X), watched(model, X, kernels="model")
    assert own.kernels.taken == 0 and own.kernels.passed == {LEFT: 1}
    for field in fields(ours[0].statistics):
        a, b = (getattr(record[0].statistics, field.name) for record in (ours, own))
        torch.testing.assert_close(a, b)
    assert torch.equal(ours[0].rows(range(7)), own[0].rows(range(7)))


@pytest.mark.parametrize("name", ["llama", "llama_padded", "gpt_oss", "gemma2", "t5", "bert", "transformer_encoder"])
def test_the_self_check_asks_the_model_s_own_kernel(name, zoo, monkeypatch):
    """It finds out if ours computes another attention, at the rows that it looks at."""
    if library.missing() is not None:
        pytest.skip(str(library.missing()))
    specimen = zoo[name]()

    def wrong(call, probe):
        out, lse, statistics = native.forward(call, probe)
        return out * 1.1, lse, statistics

    with torch.no_grad(), Watch(specimen.model, record=Record) as right:
        specimen.run()
    assert right.checked == right.calls and right.check < 1e-4
    assert right.kernels.taken > 0
    monkeypatch.setitem(BACKENDS, "native", SimpleNamespace(forward=wrong, refuses=native.refuses))
    said = r"on rows \[0, \d+, \d+\] the attention that was seen differs by"
    with pytest.warns(WatchWarning, match=said), torch.no_grad(), Watch(specimen.model, record=Record):
        specimen.run()


def test_with_statistics_alone_nothing_of_q_k_and_v_is_held(zoo):
    specimen, shown = zoo["llama"](), []

    class Holding(Record):
        def add(self, sighting):
            shown.extend(weakref.ref(x) for x in (sighting.q, sighting.k, sighting.v, sighting.out))
            super().add(sighting)

    with torch.no_grad(), Watch(specimen.model, record=Holding, keep="statistics") as record:
        specimen.model(**specimen.inputs, use_cache=False)
    gc.collect()
    assert len(shown) == 8 and all(x() is None for x in shown)
    for layer in record.layers:
        (step,) = layer.steps
        assert step.call is step.keys is step.values is step.file is None
        kept = [getattr(step.statistics, field.name) for field in fields(step.statistics)]
        B, H, Tq, _ = step.shape
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
        assert sum(storages.values()) <= 4 * 8 * B * H * Tq


def test_keys_that_go_on_are_copied_a_few_times_only():
    k = torch.randn(1, 2, 400, 4)
    keys, rooms = Keys(k[:, :, :10].clone()), set()
    for T in range(11, 401):
        assert keys.grow(k[:, :, :T])
        rooms.add(keys.whole.data_ptr())
    assert torch.equal(keys.whole, k) and len(rooms) < 12
    assert not keys.grow(k[:, :, :399]) and not keys.grow(k.flip(2))


def test_the_table_has_a_row_a_head_and_is_a_dataframe_where_pandas_is(qkv):
    record = Record()
    record.add(sighting(*qkv))
    rows = record.heads(pandas=False)
    assert [(row["layer"], row["name"], row["head"]) for row in rows] == [(0, "layers.0.attn", h) for h in range(H)]
    expected = attention(*qkv, pattern=causal(), probe=True)[1].entropy.mean((0, 2))
    assert [row["entropy"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)
    frame = record.heads()
    assert list(frame.columns) == list(rows[0]) and len(frame) == H


@pytest.fixture
def three(qkv):
    record = Record()
    for n in range(3):
        record.add(replace(sighting(*(x + n for x in qkv), name=f"layers.{n}.attn"), layer=n))
    return record


def test_layers_and_heads_are_had_as_from_a_list(three):
    layers = three.layers
    assert list(three) == layers and [layer.name for layer in three] == [f"layers.{n}.attn" for n in range(3)]
    assert "layers.1.attn" in three and layers[1] in three
    assert "layers.3.attn" not in three and Layer("layers.0.attn", "self", 0) not in three and 0 not in three
    assert three[0:2] == layers[:2] and three[::-1] == layers[::-1]
    for several in ([0, 2], [0, "layers.2.attn"], torch.tensor([0, 2]), np.array([0, -1]), range(0, 3, 2)):
        assert three[several] == [layers[0], layers[2]]
    for one in (np.int64(1), np.int32(-2), torch.tensor(1), torch.tensor(-2)):
        assert three[one] is layers[1]
    for chosen in (three[1, 3], three["layers.1.attn", -1], three[np.int64(1), torch.tensor(3)]):
        assert chosen.layer is layers[1] and chosen.number == 3
    head = three[1, 3]
    assert torch.equal(head.rows([2, -1], batch=1), layers[1].rows([2, -1], head=3, batch=1))
    assert torch.equal(head.top(2)[0], layers[1].top(2)[0][:, 3])
    assert torch.equal(head.statistics.entropy, layers[1].statistics.entropy[:, 3:])
    line = next(row for row in three.heads(pandas=False) if (row["layer"], row["head"]) == (1, 3))
    assert head.summary["entropy"] == line["entropy"]


def test_queries_heads_and_texts_may_be_any_whole_numbers_or_a_slice(three):
    layer = three[0]
    expected = layer.rows([0, 1, 2], head=1)
    for i in (slice(0, 3), range(3), np.arange(3), torch.arange(3), [np.int64(0), torch.tensor(1), 2]):
        assert torch.equal(layer.rows(i, head=np.int64(1), batch=torch.tensor(0)), expected)
        assert torch.equal(layer.weights.rows(i, head=1), expected)
    assert torch.equal(layer.rows(slice(None, None, -1)), layer.rows(range(T)).flip(1))
    assert layer.sequence(np.int64(0)).name == layer.name


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda r: r[True], "True is no layer; expected a number, the name of a module, a slice or a list"),
        (lambda r: r[[0, True]], "True is no layer"),
        (lambda r: r[np.bool_(False)], "is no layer"),
        (lambda r: r[1.0], "1.0 is no layer"),
        (lambda r: r[0, H], f"head of layers.0.attn: got {H}, but there are {H}, counted from 0"),
        (lambda r: r[0, True], "head of layers.0.attn: got True, expected one whole number"),
        (lambda r: r[0].rows([0, True]), "query i of layers.0.attn: got True, expected whole numbers"),
        (lambda r: r[0].rows(True), "expected whole numbers"),
        (lambda r: r[0].rows(0, batch=True), "batch: got True, expected one whole number"),
        (lambda r: r[0].queries(batch=True), "batch: got True, expected one whole number"),
        (lambda r: r[0].keys(batch=True), "batch: got True, expected one whole number"),
        (lambda r: r[0].sequence(True), "there is no True"),
        (lambda r: r["layers.9"], "no attention named 'layers.9' was seen; there are: layers.0.attn."),
        (lambda r: r[3], "there is no layer 3: 1 attentions were seen"),
        (lambda r: r[0].rows([T]), f"query i of layers.0.attn: got {T}, but there are {T}, counted from 0"),
        (lambda r: r[0].sequence(1), "saw 1 sequences, counted from 0; there is no 1"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(qkv, ask, sentence):
    record = Record()
    record.add(sighting(*qkv))
    with pytest.raises(ClearheadError, match=sentence):
        ask(record)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_queries_that_are_padding_are_not_averaged(qkv, kind):
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[-1, T // 2 :] = False
    record = Record(keep="statistics")
    record.add(sighting(*qkv, kind=kind, valid=valid))
    assert {row["queries"] for row in record.heads(pandas=False)} == {int(valid.sum())}
