"""Every column of the table of heads is what its definition says of full weights in float64.

The definitions are written out here once more, query by query and with nothing of the library in them.
"""

import copy
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.bert import modeling_bert
from transformers.models.llama import modeling_llama

import clearhead as ch
from clearhead.models.checkpoints import open_model
from clearhead.scope.columns import COLUMNS
from clearhead.scope.record import Record
from clearhead.scope.sighting import Sighting

SAMPLE = 32
"""Of each text at most so many queries are looked at whole, the first and the last among them."""
NUDGE = 1e-5
"""How far a threshold is moved, for the columns that count what passes one."""


def full_weights(q, k, sees, scale, bias=0, sinks=None):
    """Scores, weights and log-sum-exp in float64, as the formula has them; of empty rows NaN."""
    k = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    s = scale * q.double() @ k.mT + bias
    e = s.exp() * sees
    z = e.sum(-1, keepdim=True) + (0 if sinks is None else sinks.double().exp()[:, None, None])
    return s.numpy(), (e / z).numpy(), z[..., 0].log().numpy()


def targets(role, i, ids, real, kinds, seen):
    """The keys that a role is about, among those that query i may see."""
    earlier = [j for j in range(i) if ids[j] == ids[i] and real[j]]
    first = real.index(True)
    match role:
        case "previous_token":
            found = [i - 1]
        case "next_token":
            found = [i + 1]
        case "first_token":
            found = [first] if i > first else []
        case "self_token":
            found = [i]
        case "duplicate_token":
            found = earlier
        case "induction":
            found = [j + 1 for j in earlier if j + 1 < i]
        case "induction_before":
            found = [j - 1 for j in earlier if j > first]
        case "delimiter":
            marks = [j for j in seen if ids[j] in kinds[role] and j != i]
            found = sorted(marks, key=lambda j: (abs(i - j), j))[:1]
        case "special_tokens" | "punctuation":
            found = [j for j in seen if ids[j] in kinds[role]]
    return [j for j in found if j in seen]


ROLES = (
    *("previous_token", "next_token", "first_token", "self_token", "duplicate_token", "induction"),
    *("induction_before", "delimiter", "special_tokens", "punctuation"),
)


def of_query(i, s, w, lse, seen, text, in_sample, nudge):
    """What one query of one head, at position i, says of each column that it counts in."""
    total = w[seen].sum()
    said = {
        "entropy": -sum(x * log(x) for x in w[seen] if x > 0),
        "peak": w[seen].max(),
        "distance": sum(w[j] * abs(i - j) for j in seen) / total,
        "max_score": s[seen].max(),
        "lse": lse,
    }
    if len(seen) > 1:  # a single key leaves nothing to spread
        said["entropy_normalised"] = said["entropy"] / log(len(seen))
    if in_sample:
        heaviest = np.sort(w[seen])[::-1].cumsum()
        said["effective_context"] = 1 + (heaviest < (0.9 + nudge) * total).sum()
    for role in ROLES if text else ():
        found = targets(role, i, *text, seen)
        if found:
            said[role], said[f"{role}_uniform"] = w[found].sum(), len(found) / len(seen)
    if "first_token" in said:
        said["sink"] = float(said["first_token"] > 0.3 + nudge)
    return said


def of_head(s, w, lse, sees, counted, texts, nudge):
    """One head's row of the table from (B, Tq, Tk) of its weights; `counted` (B, Tq) are the queries that count."""
    said, sampled, estimates, (B, Tq, Tk) = {}, 0, [], w.shape
    for b in range(B):
        rows = counted[b].nonzero()[0].tolist()
        step = max(1.0, (len(rows) - 1) / (SAMPLE - 1))
        sample = {rows[round(n * step)] for n in range(min(SAMPLE, len(rows)))}
        sampled += len(sample)
        for r in rows:
            i, seen = Tk - Tq + r, sees[b, r].nonzero()[0].tolist()
            values = of_query(i, s[b, r], w[b, r], lse[b, r], seen, texts[b], r in sample, nudge)
            for column, value in values.items():
                said.setdefault(column, []).append(value)
        x = np.array(said.pop("effective_context", []))
        if len(x):  # neighbours of an even sample tell how far its mean is from that of all
            unseen = 1 - len(x) / len(rows)
            estimates.append((len(rows), x.mean(), unseen and unseen * (np.diff(x) ** 2).mean() / 2 / len(x)))
    row = {column: max(values) if column == "max_score" else np.mean(values) for column, values in said.items()}
    if estimates:
        queries = sum(n for n, _, _ in estimates)
        row["effective_context"] = sum(n * mean for n, mean, _ in estimates) / queries
        row["effective_context_stderr"] = sum(n**2 * variance for n, _, variance in estimates) ** 0.5 / queries
    return row | {"queries": int(counted.sum()), "sampled": sampled}


def differences(found, weights, sees, ids, real, kinds, kind="self"):
    """How far each column of a layer's rows is from its definition, relative to 1 or to its size if that is more.

    `effective_context` and `sink` count what passes a threshold, where rounding may decide: they are to lie between
    the counts a nudge below it and a nudge above. For all other columns these two are the same.
    """
    s, w, lse = weights
    B, _, Tq, Tk = w.shape
    sees = sees.expand(w.shape).numpy()
    counted, texts = sees[:, 0].any(-1), [None] * B
    if kind == "self":
        real = torch.ones(B, Tk, dtype=torch.bool) if real is None else real
        counted = counted & real[:, Tk - Tq :].numpy()
        texts = [(ids[b].tolist(), real[b].tolist(), kinds) for b in range(B)]
    far = dict.fromkeys(COLUMNS, 0.0)
    for h, row in enumerate(found):
        of_this = s[:, h], w[:, h], lse[:, h], sees[:, h], counted, texts
        below, above = of_head(*of_this, -NUDGE), of_head(*of_this, NUDGE)
        assert set(below) <= set(COLUMNS)
        assert {c for c in COLUMNS if row[c] == row[c]} == set(below), "NaN where nothing counts, and nowhere else"
        for column in below:
            low, high = sorted((below[column], above[column]))
            out = max(low - row[column], row[column] - high, 0)
            far[column] = max(far[column], out / max(1, abs(low)))
    return far


WORDS = ["[PAD]", "[CLS]", "[SEP]", ",", ".", "(", "a", "b", "c", "d", "e"]
TOKENIZER = SimpleNamespace(
    all_special_ids=[0, 1, 2],
    cls_token_id=1,
    sep_token_id=2,
    convert_ids_to_tokens=lambda ids: [WORDS[n] for n in ids],
    convert_tokens_to_string=lambda tokens: "".join(tokens),
)
KINDS = {"delimiter": {2, 3, 4}, "special_tokens": {0, 1, 2}, "punctuation": {3, 4, 5}}
B, H, D = 2, 4, 8
LONG = 320


def distances(Tq, Tk):
    """i − j, a query's position less a key's."""
    return torch.arange(Tk - Tq, Tk)[:, None] - torch.arange(Tk)


def real_tokens(T, side):
    """Of two texts, the second has but two thirds of the tokens."""
    real = torch.arange(T) < torch.tensor([[T], [T - T // 3]])
    return real if side == "right" else real.flip(-1)


def case(name, T):
    """The lengths, who may see whom (B, 1, Tq, Tk), which keys are no padding, and what else the attention has."""
    Tq, Tk, real, more = T, T, None, {}
    if "cross" in name:
        Tk = T // 2 + 4
    if name == "with a past":
        Tq = T - T // 3
    ahead = distances(Tq, Tk)
    sees = torch.ones_like(ahead) > 0 if "full" in name or "cross" in name else ahead >= 0
    if name == "windowed":
        sees = sees & (ahead < 4)
    if name == "windowed on both sides":
        sees = (ahead <= 3) & (ahead >= -2)
    if name == "a query sees nothing":
        sees[2] = False
    sees = sees.expand(B, 1, Tq, Tk)
    if "padded" in name:
        real = real_tokens(Tk, name.split()[-1])
        sees = sees & real[:, None, None]
    if "sinks" in name:
        more["sinks"] = torch.linspace(-1, 3, H)
    if name == "a bias by distance":
        more["bias"] = -0.1 * torch.arange(1, H + 1)[None, :, None, None] * ahead.abs()
    elif "a bias" in name:
        more["bias"] = torch.randn(1, H, Tq, Tk)
    return Tq, Tk, sees, real, more


CASES = (
    *("causal", "full", "windowed", "windowed on both sides", "with a past", "a query sees nothing"),
    *("causal, padded on the right", "causal, padded on the left"),
    *("full, padded on the right", "full, padded on the left"),
    *("cross", "cross, padded on the right"),
    *("sinks", "a bias", "a bias by distance", "sinks and a bias"),
)


@pytest.mark.parametrize(("T", "K"), [(5, 4), (33, 2), (70, 1)], ids=["T=5", "T=33, grouped", "T=70, one key head"])
@pytest.mark.parametrize("name", CASES)
def test_columns_are_their_definitions(name, T, K):
    check(name, T, K)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_columns_of_a_longer_text_are_their_definitions(name):
    """So many pairs that lists of keys and rows have several tiles, and the sample is some of the queries."""
    check(name, LONG, 2)


def check(name, T, K):
    torch.manual_seed(T)
    Tq, Tk, sees, real, more = case(name, T)
    kind = "cross" if "cross" in name else "self"
    q, k, ids = 1.5 * torch.randn(B, H, Tq, D), 1.5 * torch.randn(B, K, Tk, D), torch.randint(1, len(WORDS), (B, Tk))
    tokens = {"ids_k": ids, "ids_q": torch.randint(1, len(WORDS), (B, Tq)) if kind == "cross" else ids[:, -Tq:]}
    if real is not None:
        ids[~real] = 0
        tokens["valid"] = real if kind == "self" else None
    record = Record(TOKENIZER)
    record.add(Sighting("attn", 0, kind, 0, q=q, k=k, v=k, mask=sees, scale=D**-0.5, **tokens, **more))
    weights = full_weights(q, k, sees, D**-0.5, more.get("bias", 0), more.get("sinks"))
    far = differences(record.heads(pandas=False), weights, sees, ids, real, KINDS, kind)
    # A highest score is rounded a few times, by 2⁻²⁴ = 6e-8 of itself each. Means gain: their roundings even out.
    assert max(far.values()) < 5e-7, far
    if "full" in name and T > 5:
        assert all(row[column] == row[column] for row in record.heads(pandas=False) for column in COLUMNS), "no NaN"


PAIRS = (
    ("The cat (a tabby), which slept on the mat, woke. Why?", "It rained, and rained."),
    ("The cat woke; the dog did not.", "The rain fell on the cat."),
)
MARKS = {"delimiter": ", . ; ? [SEP]", "special_tokens": "[CLS] [SEP] [PAD]", "punctuation": "( ) , . ; ?"}
CHAT = (
    "<|im_start|>user\nThe cat (a tabby) sat, and the dog sat. The cat ran; did the dog run?<|im_end|>\n"
    "<|im_start|>assistant\nThe cat ran."
)
CHAT_MARKS = {
    "delimiter": ", . ; ? Ċ <|im_end|>",
    "special_tokens": "<|im_start|> <|im_end|>",
    "punctuation": "Ġ( ) , . ; ?",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pairs", [1, 2], ids=["a pair of texts", "two pairs, one padded"])
def test_columns_of_minilm_are_what_its_eager_weights_say(pairs, dtype, monkeypatch):
    opened = open_model("minilm")
    inputs = opened.tokenizer(*(list(texts[:pairs]) for texts in PAIRS), padding=True, return_tensors="pt")
    real = inputs["attention_mask"] == 1
    assert bool(real.all()) == (pairs == 1)
    far = of_model(opened, inputs, real, real[:, None, None], MARKS, (0, 3, 5), dtype, modeling_bert, monkeypatch)
    # In float32 the model's own layers round before ours do.
    assert max(far.values()) < (2e-6 if dtype == torch.float32 else 1e-13), far


@pytest.mark.slow
def test_columns_of_smollm2_are_what_its_eager_weights_say(monkeypatch):
    opened = open_model("smollm2")
    inputs = opened.inputs(CHAT)
    sees = torch.ones(2 * inputs["input_ids"].shape[1:], dtype=torch.bool).tril()
    far = of_model(opened, inputs, None, sees, CHAT_MARKS, (0, 15, 29), torch.float32, modeling_llama, monkeypatch)
    assert max(far.values()) < 3e-6, far  # after thirty layers in float32


def of_model(opened, inputs, real, sees, marks, layers, dtype, modeling, monkeypatch):
    """`differences` of a watched model from its eager attention in float64, whose q, k and weights are overheard."""
    eager = copy.deepcopy(opened.model).double()
    eager.set_attn_implementation("eager")
    attend, heard = modeling.eager_attention_forward, []

    def overheard(module, q, k, *args, scaling, **kwargs):
        out, w = attend(module, q, k, *args, scaling=scaling, **kwargs)
        heard.append((q, k, scaling, w))
        return out, w

    monkeypatch.setattr(modeling, "eager_attention_forward", overheard)
    with torch.no_grad():
        eager(**inputs)
    model, far = opened.model.to(dtype), dict.fromkeys(COLUMNS, 0.0)
    with torch.no_grad(), ch.watch(model, opened.tokenizer) as seen:
        model(**inputs)
    ids = inputs["input_ids"]
    kinds = {kind: set(opened.tokenizer.convert_tokens_to_ids(tokens.split())) for kind, tokens in marks.items()}
    table = seen.heads(pandas=False)
    assert len(heard) == len(seen)
    for layer in layers:
        q, k, scale, w = heard[layer]
        weights = full_weights(q, k, sees, scale)
        # Llama's softmax is in float32 always: up to a few roundings, which differ by instruction set.
        np.testing.assert_allclose(weights[1], w.numpy(), atol=5e-7)
        rows = [row for row in table if row["layer"] == layer]
        for column, by in differences(rows, weights, sees, ids, real, kinds).items():
            far[column] = max(far[column], by)
    return far
