"""The block of a head's vectors holds what makes each of its weights, step by step."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clearhead.attend.scores import Multiplicative
from clearhead.errors import ClearheadError
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting
from clearhead.view.scene import Scene
from clearhead.view.vectors import PAIRS, clearest, vectors

B, H, K, T, D = 2, 4, 2, 24, 8


def read(block):
    """The header and the arrays, as the docstring has them."""
    length = int.from_bytes(block[:4], "little")
    header = json.loads(block[4 : 4 + length])
    if header["without"]:
        return header, {}
    at, arrays = 4 + length, {}
    assert at % 4 == 0
    Tq, Tk, width, R = (header[name] for name in ("queries", "keys", "width", "runs"))
    added = {None: (0,), "distance": (Tq + Tk - 1,), "pairs": (Tq, Tk)}[header["bias"]]
    for name, kind, shape in [
        *(("max", "<f4", (Tq,)), ("peak", "<f4", (Tq,)), ("starts", "<i4", (Tq, R)), ("stops", "<i4", (Tq, R))),
        *(("bias", "<f4", added), ("a", "<f4", (Tq,)), ("b", "<f4", (Tk,))),
        *(("q", "<i2", (Tq, width)), ("k", "<i2", (Tk, width))),
    ]:
        count = math.prod(shape)
        arrays[name] = np.frombuffer(block, kind, count, at).reshape(shape).astype(float)
        at += arrays[name].size * np.dtype(kind).itemsize
    assert at == len(block)
    return header, arrays


def made_again(block):
    """The head's weights (Tq, Tk) out of the block alone, and by how much each score may be off."""
    header, x = read(block)
    q, k = x["q"] * x["a"][:, None], x["k"] * x["b"][:, None]
    i, j = np.arange(header["queries"])[:, None], np.arange(header["keys"])
    s = header["scale"] * q @ k.T
    if header["softcap"]:
        s = header["softcap"] * np.tanh(s / header["softcap"])
    if header["bias"]:
        s = s + (x["bias"] if header["bias"] == "pairs" else x["bias"][j - i + header["queries"] - 1])
    sees = ((x["starts"][:, None] <= j[:, None]) & (j[:, None] < x["stops"][:, None])).any(-1)
    with np.errstate(invalid="ignore"):  # of a row that sees nothing, whose highest score is −inf
        w = np.where(sees, np.exp(s - x["max"][:, None]) * x["peak"][:, None], 0)
    a, b = x["a"][:, None] / 2, x["b"] / 2
    off = abs(header["scale"]) * (np.abs(q).sum(-1)[:, None] * b + a * np.abs(k).sum(-1) + D * a * b)
    return w, off


def full_weights(q, k, sees, scale, bias=0.0, softcap=None, sinks=None):
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    s = q @ k.mT * scale
    s = s if softcap is None else softcap * (s / softcap).tanh()
    s = (s + bias).masked_fill(~sees, -math.inf)
    if sinks is not None:
        s = torch.cat([s, sinks.double()[None, :, None, None].expand(*s.shape[:3], 1)], -1)
    return s.softmax(-1).nan_to_num(0)[..., : k.shape[2]]


i, j = torch.arange(T)[:, None], torch.arange(T)
CAUSAL = (j <= i)[None, None]
CASES = {
    "causal": (CAUSAL, {}),
    "windowed": (CAUSAL & (j > i - 5), {}),
    "padded": (CAUSAL & (j >= torch.tensor([0, 6])[:, None, None, None]), {}),
    "bidirectional": (torch.ones(1, 1, T, T, dtype=torch.bool), {}),
    "softcapped": (CAUSAL, {"softcap": 1.5}),
    "sinks": (CAUSAL, {"sinks": torch.tensor([0.0, 1.0, -2.0, 3.0])}),
    "biased by distance": (CAUSAL, {"bias": torch.linspace(-3, 0, 2 * T)[j - i + T][None, None].expand(1, H, T, T)}),
    "biased pair by pair": (CAUSAL, {"bias": torch.randn(1, H, T, T, generator=torch.Generator().manual_seed(1))}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_weight_is_made_again_from_the_block(case):
    sees, more = CASES[case]
    q, k = 2 * torch.randn(B, H, T, D), 2 * torch.randn(B, K, T, D)
    record = Record()
    mask = sees.expand(B, 1, T, T)
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=k, mask=mask, scale=D**-0.5, **more))
    expected = full_weights(q, k, sees, D**-0.5, **more).numpy()
    for batch in range(B):
        for head in range(H):
            w, off = made_again(vectors(record[0], batch, head))
            exact = expected[batch, head]
            assert (np.abs(w - exact) <= exact * np.expm1(off) + 2e-6).all()
            assert off.max() < 2e-3
    forms = {"biased by distance": "distance", "biased pair by pair": "pairs"}
    assert read(vectors(record[0], 0, 0))[0]["bias"] == forms.get(case)


def test_cross_attention_and_the_steps_of_a_generation_are_one_block():
    q, k = torch.randn(1, H, 5, D), torch.randn(1, K, T, D)
    record = Record()
    record.add(Sighting("cross", 0, "cross", 0, q=q, k=k, v=k, scale=0.3))
    w, _ = made_again(vectors(record[0], 0, 3))
    np.testing.assert_allclose(w, full_weights(q, k, torch.tensor(True), 0.3)[0, 3], atol=1e-3)

    q, k = torch.randn(1, H, T, D), torch.randn(1, K, T, D)
    steps = Record()
    past = 0
    for step, stop in enumerate((10, 11, 12, T)):
        mask = CAUSAL[:, :, past:stop, :stop]
        of_step = {"q": q[:, :, past:stop], "k": k[:, :, :stop], "v": k[:, :, :stop]}
        steps.add(Sighting("attn", 0, "self", step, **of_step, mask=mask, scale=D**-0.5))
        past = stop
    assert len(steps[0].steps) == 4
    w, _ = made_again(vectors(steps[0], 0, 2))
    np.testing.assert_allclose(w, full_weights(q, k, CAUSAL, D**-0.5)[0, 2], atol=1e-3)


def test_scores_without_vectors_are_given_as_they_are():
    scores = torch.randn(1, H, T, T).masked_fill(~CAUSAL, torch.finfo(torch.float32).min)
    record = Record()
    record.add(Sighting("attn", 0, "self", 0, scores=scores))
    block = vectors(record[0], 0, 1)
    assert read(block)[0]["width"] == 0
    np.testing.assert_allclose(made_again(block)[0], scores[0, 1].double().softmax(-1), atol=1e-6)


def test_what_no_page_can_add_up_is_said_in_a_sentence():
    q, k = torch.randn(1, H, T, D), torch.randn(1, K, T, D)
    record = Record()
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=k, scale=1.0))
    step = record[0].steps[0]
    assert step.call is not None
    score = Multiplicative(torch.eye(D))
    step.call = replace(step.call, score=score, score_weights=score.weights)
    header, arrays = read(vectors(record[0], 0, 0))
    assert "no dot products" in header["without"] and "Multiplicative" in header["without"] and not arrays

    Tq = math.isqrt(PAIRS) + 1
    q, bias = torch.randn(1, 1, Tq, 2), torch.randn(1, 1, Tq, Tq)
    large = Record()
    large.add(Sighting("attn", 0, "self", 0, q=q, k=q, v=q, bias=bias, scale=1.0))
    assert f"{Tq * Tq:,} pairs" in read(vectors(large[0], 0, 0))[0]["without"]


def test_a_head_that_is_not_there_and_statistics_alone_are_refused():
    q = torch.randn(1, 2, 3, D)
    record, sums = Record(), Record(keep="statistics")
    for one in (record, sums):
        one.add(Sighting("attn", 0, "self", 0, q=q, k=q, v=q, scale=1.0))
    with pytest.raises(ClearheadError, match="head: got 2, but there are 2"):
        Scene(record).block("vectors-0-2")
    with pytest.raises(ClearheadError, match="kept statistics only"):
        vectors(sums[0], 0, 0)


def test_a_vector_that_is_no_number_stays_none():
    q, k = torch.randn(1, 1, 3, D), torch.randn(1, 1, 3, D)
    k[0, 0, 2, 1] = math.nan
    record = Record()
    record.add(Sighting("attn", 0, "self", 0, q=q, k=k, v=q, mask=CAUSAL[:, :, :3, :3], scale=1.0))
    _, x = read(vectors(record[0], 0, 0))
    assert np.isnan(x["b"]).tolist() == [False, False, True]


def test_the_clearest_heads_are_the_strongest_of_each_role_each_once():
    heads = [
        {"layer": 0, "head": 0, "previous_token": 0.9, "induction": math.nan, "self_token": 0.8},
        {"layer": 0, "head": 1, "previous_token": 0.2, "induction": math.nan, "self_token": 0.1},
        {"layer": 1, "head": 0, "previous_token": 0.1, "induction": 0.3, "self_token": 0.1},
    ]
    assert clearest(heads) == [(0, 0), (1, 0)]
    assert clearest([]) == []


def test_where_no_role_is_told_the_clearest_heads_are_those_of_the_highest_peaks():
    heads = [{"layer": n // 4, "head": n % 4, "induction": math.nan, "peak": n / 40} for n in range(40)]
    assert clearest(heads) == [(n // 4, n % 4) for n in range(39, 31, -1)]
