"""Roles are the targets that their definitions name, and heads score what full weights in float64 say they do."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clearhead as ch
from clearhead import Weights, alibi, causal, full, padding, window
from clearhead.attend import native, second
from clearhead.models.checkpoints import open_model
from clearhead.scope import aims
from clearhead.scope.columns import ROLES
from clearhead.scope.roles import MARKED, REPEATED, SINGLE, Text
from clearhead.scope.sampled import SAMPLED
from clearhead.scope.summary import Summary
from clearhead.scope.words import Kinds

COMMA, SEP = 0, 3
KINDS = Kinds(delimiter=frozenset({COMMA}), special_tokens=frozenset({SEP}), punctuation=frozenset({COMMA}))


def plainly(role: str, ids: list[int], i: int, sees: list[bool]) -> set[int]:
    """The targets of query i that it may see, as the role's definition says them."""
    T = len(ids)
    match role:
        case "previous_token":
            found = {i - 1}
        case "next_token":
            found = {i + 1}
        case "first_token":
            found = {0} if i > 0 else set()
        case "self_token":
            found = {i}
        case "duplicate_token":
            found = {j for j in range(i) if ids[j] == ids[i]}
        case "induction":
            found = {j + 1 for j in range(i - 1) if ids[j] == ids[i]}
        case "induction_before":
            found = {j - 1 for j in range(1, i) if ids[j] == ids[i]}
        case "delimiter":
            marks = [j for j in range(T) if ids[j] == COMMA and j != i and sees[j]]
            found = {min(marks, key=lambda j: (abs(i - j), j))} if marks else set()
        case "special_tokens":
            found = {j for j in range(T) if ids[j] == SEP}
        case "punctuation":
            found = {j for j in range(T) if ids[j] == COMMA}
        case _:
            raise AssertionError(role)
    return {j for j in found if 0 <= j < T and sees[j]}


PATTERNS = {"causal": causal(), "full": full(), "window": causal() & window(5), "two-sided": window(2, 3)}


@pytest.mark.parametrize("role", [*SINGLE, *REPEATED, *MARKED])
@pytest.mark.parametrize("pattern", PATTERNS)
@given(ids=st.lists(st.integers(0, 3), min_size=1, max_size=12), queries=st.integers(1, 12))
def test_a_role_names_the_pairs_of_its_definition(role, pattern, ids, queries):
    T, Tq = len(ids), min(queries, len(ids))
    tokens = torch.tensor(ids)
    runs = PATTERNS[pattern].runs(Tq, T)
    text = Text(tokens, torch.ones(T, dtype=torch.bool), T - Tq, runs, tokens == COMMA, tokens == SEP, tokens == COMMA)
    mask = runs.dense()[0, 0].tolist()
    if role in SINGLE:
        targets = SINGLE[role](text).tolist()
        found = [{j} if j >= 0 and mask[row][j] else set() for row, j in enumerate(targets)]
    else:
        repeats = (REPEATED | MARKED)[role](text)
        listed = repeats.seen(runs).dense()[0, 0]
        found = [set(repeats.keys[row].tolist()) for row in listed]
    assert found == [plainly(role, ids, i, mask[i - T + Tq]) for i in range(T - Tq, T)]


def by_definition(w, mask, ids, stop=None):
    """A head table's row of one text from its full weights (H, Tq, Tk): the mean of what each query gives.

    Queries are the last of the tokens, or those before `stop`.
    """
    H, Tq, Tk = w.shape
    stop = Tk if stop is None else stop
    row = {}
    for role in ROLES:
        weight, uniform = [], []
        for row_of, i in enumerate(range(stop - Tq, stop)):
            sees = [mask[min(h, len(mask) - 1)][row_of].tolist() for h in range(H)]
            targets = [sorted(plainly(role, ids, i, s)) for s in sees]
            if all(targets):
                weight.append([float(w[h, row_of, targets[h]].sum()) for h in range(H)])
                uniform.append([len(targets[h]) / sum(sees[h]) for h in range(H)])
        if weight:
            row[role] = torch.tensor(weight).mean(0)
            row[f"{role} queries"] = len(weight)
            row[f"{role}_uniform"] = torch.tensor(uniform).mean(0)
            if role == "first_token":
                row["sink"] = (torch.tensor(weight) > 0.3).double().mean(0)
    fewest = [
        [next(n for n in range(1, Tk + 1) if r.sort(descending=True).values[:n].sum() >= 0.9 * r.sum()) for r in head]
        for head in w
    ]
    row["effective_context"] = torch.tensor(fewest).double().mean(1)
    return row


def without_kernels(monkeypatch):
    monkeypatch.setattr(native, "refuses", lambda call: "the test says so")


CALLS = {
    "causal": {"pattern": causal()},
    "full": {"pattern": full()},
    "windowed": {"pattern": causal() & window(9)},
    "a window for each head": {
        "pattern": causal()
        & ch.where(torch.ones(4, 32, 32, dtype=torch.bool).triu(-12).index_fill(0, torch.tensor(1), True))
    },
    "biased": {"pattern": causal(), "bias": alibi(4)},
    "softcapped": {"pattern": causal(), "softcap": 2.0},
    "sinks": {"pattern": causal(), "sinks": torch.tensor([0.0, 1.0, 2.0, 3.0])},
}


@pytest.mark.parametrize("way", ["kernels", "whole rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_roles_are_what_full_weights_in_float64_say(name, dtype, way, monkeypatch):
    if way == "whole rows":
        without_kernels(monkeypatch)
        monkeypatch.setattr(aims, "ELEMENTS", 4 * 32 * 11)  # so that the queries come in several parts
    torch.manual_seed(0)
    Tq, Tk = 25, 32
    q, k = 1.5 * torch.randn(1, 4, Tq, 8).to(dtype), 1.5 * torch.randn(1, 2, Tk, 8).to(dtype)
    ids = torch.randint(0, 6, (1, Tk))
    options = CALLS[name]
    if name == "a window for each head":
        q = torch.cat([q, q[:, :, :7]], 2)
    exact = Weights(q.double(), k.double(), backend="reference", **options)
    expected = by_definition(exact.weights(), exact.call.runs.dense()[0], ids[0].tolist())
    table = list(Summary.of(Weights(q, k, **options), ids, None, KINDS, None).rows(4))
    assert {role for role in ROLES if table[0][role] == table[0][role]} == {role for role in ROLES if role in expected}
    for column, values in expected.items():
        if column.endswith(" queries"):
            continue
        found = torch.tensor([row[column] for row in table]).double()
        assert torch.allclose(found, values.double(), rtol=1e-4, atol=1e-5), column


def test_cross_attention_has_no_roles_but_an_effective_context():
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 5, 4, dtype=torch.float64), torch.randn(1, 2, 9, 4, dtype=torch.float64)
    weights = Weights(q, k)
    (row, _) = Summary.of(weights, None, None, None, None).rows(2)
    w = weights.weights()[0].sort(-1, descending=True).values.cumsum(-1)
    assert row["effective_context"] == pytest.approx(float(((w < 0.9).sum(-1) + 1).double().mean()))
    assert all(row[role] != row[role] for role in ROLES)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_uniform_head_scores_its_own_baseline(pattern):
    ids = torch.tensor([[1, 2, 0, 1, 2, 3, 0, 1, 1, 2]])
    zero = torch.zeros(1, 2, 10, 4)
    row, _ = Summary.of(Weights(zero, zero, pattern=PATTERNS[pattern]), ids, None, KINDS, None).rows(2)
    for role in ROLES:
        assert row[role] == pytest.approx(row[f"{role}_uniform"], rel=1e-5, nan_ok=True)
    assert row["entropy_normalised"] == pytest.approx(1)


@pytest.mark.parametrize("Tk", [10, 30, 8190])
@pytest.mark.parametrize("way", ["kernels", "whole rows"])
def test_nine_of_ten_equal_weights_are_the_effective_context(way, Tk, monkeypatch):
    if way == "whole rows":
        without_kernels(monkeypatch)
    zero = torch.zeros(1, 1, 1, 4)
    (row,) = Summary.of(Weights(zero, torch.zeros(1, 1, Tk, 4)), None, None, None, None).rows(1)
    assert row["effective_context"] == Tk * 9 // 10


def test_of_weights_that_are_no_numbers_there_is_no_effective_context():
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    q[0, 1, 3] = torch.nan
    one, other = Summary.of(Weights(q, k), None, None, None, None).rows(2)
    assert 1 <= one["effective_context"] <= 5
    assert other["effective_context"] != other["effective_context"]


def test_a_head_that_does_nothing_else_scores_one_for_its_role():
    T = 8
    one_hot = torch.eye(T)[None, None] * 100
    shifted = one_hot.roll(-1, -1)  # query i fits key i − 1
    ids = torch.arange(T)[None]
    (row,) = Summary.of(Weights(shifted, one_hot, pattern=causal(), scale=1.0), ids, None, None, None).rows(1)
    assert row["previous_token"] == pytest.approx(1, abs=1e-3)
    assert row["previous_token_uniform"] == pytest.approx(sum(1 / n for n in range(2, T + 1)) / (T - 1))
    assert row["delimiter"] != row["delimiter"]  # NaN: without a tokenizer nobody knows a delimiter
    assert row["next_token"] != row["next_token"]  # NaN: a causal head can't see the next


@pytest.mark.parametrize("way", ["kernels", "whole rows"])
def test_padding_is_neither_counted_nor_looked_at(way, monkeypatch):
    if way == "whole rows":
        without_kernels(monkeypatch)
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    ids = torch.tensor([[1, 2, 1, 2, 3, 1]])
    kinds = Kinds(frozenset({2}), frozenset({1}), frozenset({2}))
    alone = Summary.of(Weights(q, k, pattern=causal()), ids, None, kinds, None)
    pad = torch.full((1, 2, 3, 4), 7.0)
    real = torch.tensor([[False] * 3 + [True] * 6])
    padded_ids = torch.cat([torch.ones(1, 3, dtype=torch.int64), ids], 1)
    padded = Weights(
        torch.cat([pad, q], 2),
        torch.cat([pad, k], 2),
        pattern=causal() & padding(torch.tensor([6]), side="left"),
    )
    for one, other in zip(alone.rows(2), Summary.of(padded, padded_ids, real, kinds, real).rows(2), strict=True):
        assert one == pytest.approx(other, rel=1e-5, nan_ok=True)


def test_summaries_add_up_over_texts():
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    ids = torch.randint(0, 4, (2, 9))
    together = Summary.of(Weights(q, k, pattern=causal()), ids, None, KINDS, None)
    apart = Summary()
    for b in range(2):
        apart += Summary.of(Weights(q[b : b + 1], k[b : b + 1], pattern=causal()), ids[b : b + 1], None, KINDS, None)
    for one, other in zip(together.rows(3), apart.rows(3), strict=True):
        assert one == pytest.approx(other, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("way", ["kernels", "whole rows"])
def test_of_a_long_text_the_effective_context_is_sampled_and_marks_are_exact(way, monkeypatch):
    if way == "whole rows":
        without_kernels(monkeypatch)
    torch.manual_seed(0)
    T = 3 * SAMPLED
    q, k = torch.randn(1, 2, T, 8), torch.randn(1, 2, T, 8)
    ids = torch.randint(0, 6, (1, T))
    weights = Weights(q, k, pattern=causal())
    (row, _) = Summary.of(weights, ids, None, KINDS, None).rows(2)
    assert (row["queries"], row["sampled"]) == (T, SAMPLED)
    w = weights.weights(head=0).double()
    fewest = ((w.sort(-1, descending=True).values.cumsum(-1) < 0.9).sum(-1) + 1).double()
    some = fewest[torch.linspace(0, T - 1, SAMPLED).round().long()]
    assert row["effective_context"] == pytest.approx(float(some.mean()))
    neighbours = sum((a - b) ** 2 for a, b in zip(some[1:].tolist(), some.tolist(), strict=False))
    expected = ((1 - SAMPLED / T) * neighbours / (2 * (SAMPLED - 1)) / SAMPLED) ** 0.5
    assert row["effective_context_stderr"] == pytest.approx(expected)
    for role, mark in (("punctuation", COMMA), ("special_tokens", SEP)):
        first = int((ids[0] == mark).int().argmax())
        exact = w[first:, ids[0] == mark].sum(-1).mean()  # of all the queries that see one
        assert row[role] == pytest.approx(float(exact), rel=1e-5)


def test_the_standard_error_is_how_far_estimates_are_from_the_exact_mean():
    torch.manual_seed(0)
    T, heads = 600, 64
    spread = torch.linspace(0.2, 3, heads)[:, None, None]  # from heads that look everywhere to ones that pick
    q, k = spread * torch.randn(1, heads, T, 16), torch.randn(1, heads, T, 16)
    weights = Weights(q, k, pattern=causal())
    table = list(Summary.of(weights, None, None, None, None).rows(heads))
    exact = second.fewest(weights.call, weights.statistics.max_score, weights.statistics.peak, 0.9)[0].double().mean(1)
    estimate, error = (
        torch.tensor([row[column] for row in table]) for column in ("effective_context", "effective_context_stderr")
    )
    assert 0.5 < float(((estimate - exact) / error).square().mean().sqrt()) < 1.3


def test_a_text_of_which_every_query_is_looked_at_has_no_sampling_error():
    q, k = torch.randn(1, 2, SAMPLED, 8), torch.randn(1, 2, SAMPLED, 8)
    for row in Summary.of(Weights(q, k, pattern=causal()), None, None, None, None).rows(2):
        assert row["effective_context_stderr"] == 0


def test_a_long_text_weighs_more_than_a_short_one_though_its_sample_is_as_large():
    torch.manual_seed(0)
    both, alone = Summary(), []
    for T in (SAMPLED, 10 * SAMPLED):
        q, k = torch.randn(1, 2, T, 8), torch.randn(1, 2, T, 8)
        summary = Summary.of(Weights(q, k, pattern=causal()), None, None, None, None)
        both += summary
        alone.append(next(summary.rows(2)))
    row, (short, long) = next(both.rows(2)), alone
    assert row["effective_context"] == pytest.approx((short["effective_context"] + 10 * long["effective_context"]) / 11)
    assert row["effective_context_stderr"] == pytest.approx(10 / 11 * long["effective_context_stderr"])
    assert (row["queries"], row["sampled"]) == (11 * SAMPLED, 2 * SAMPLED)


def test_standard_errors_are_those_of_means_over_queries():
    torch.manual_seed(0)
    q, k, ids = torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8), torch.randint(0, 6, (1, 20))
    weights = Weights(q, k, pattern=causal())
    summary = Summary.of(weights, ids, None, KINDS, None)
    w = weights.weights().double()
    values = {"first_token": w[:, 1:, 0], "peak": w.amax(-1), "previous_token": w.diagonal(-1, 1, 2)}
    for column, of_queries in values.items():
        assert summary.queries(column) == of_queries.shape[1]
        expected = of_queries.std(1) / of_queries.shape[1] ** 0.5
        torch.testing.assert_close(summary.standard_error(column), expected, rtol=1e-4, atol=1e-6)
    one = Summary.of(Weights(q[:, :, :1], k[:, :, :1]), None, None, None, None)
    assert one.standard_error("peak").isnan().all()


def test_layers_that_read_the_same_text_share_what_the_text_decides():
    q, k = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4)
    ids = torch.randint(0, 4, (1, 9))

    def read(ids):
        return aims.read(Weights(q, k, pattern=causal()).call.runs, 0, ids, None, None, KINDS, 1)

    first = read(ids)
    assert read(ids.clone()) is first
    assert read(ids + 1) is not first
    ids += 1  # in the same memory
    assert read(ids) is not first


def test_a_text_of_one_repeated_token_is_one_run_of_keys_for_each_query():
    T = 512
    q, k = torch.randn(1, 2, T, 8), torch.randn(1, 2, T, 8)
    ids = torch.full((1, T), 5)
    weights = Weights(q, k, pattern=causal())
    (of_text,) = aims.read(weights.call.runs, 0, ids, None, None, None, 1)
    copies, _ = of_text.lists
    roles, n = copies.keys.shape
    assert n == T and copies.runs.start.shape[-1] == roles  # one run a query and role: the list is the text
    (row, _) = Summary.of(weights, ids, None, None, None).rows(2)
    w = weights.weights(head=0).double()
    assert row["duplicate_token"] == pytest.approx(float((1 - w.diagonal())[1:].mean()), rel=1e-5)


@pytest.mark.parametrize("way", ["kernels", "whole rows"])
def test_a_batch_is_the_texts_in_it(way, monkeypatch):
    if way == "whole rows":
        without_kernels(monkeypatch)
    torch.manual_seed(0)
    q, k, ids = torch.randn(3, 4, 20, 8), torch.randn(3, 2, 20, 8), torch.randint(0, 6, (3, 20))
    mask = causal() & padding(torch.tensor([20, 13, 17]), side="right")
    real = torch.arange(20) < torch.tensor([[20], [13], [17]])
    exact = Weights(q.double(), k.double(), pattern=mask, backend="reference")
    expected = [
        by_definition(
            exact.weights(batch=b)[:, :n], exact.call.runs.dense()[b][:, :n], [*ids[b, :n].tolist(), *[9] * (20 - n)], n
        )
        for b, n in enumerate([20, 13, 17])
    ]
    table = list(Summary.of(Weights(q, k, pattern=mask), ids, real, KINDS, real).rows(4))
    for role in ("duplicate_token", "induction", "previous_token", "punctuation"):
        queries = torch.tensor([row[f"{role} queries"] for row in expected])
        means = torch.stack([row[role] for row in expected]).double()
        mean = (means * queries[:, None]).sum(0) / queries.sum()
        assert torch.allclose(torch.tensor([row[role] for row in table]).double(), mean, rtol=1e-4), role


@pytest.mark.slow
def test_heads_of_smollm2_score_what_their_eager_weights_say():
    opened = open_model("smollm2")
    inputs = opened.inputs("The cat sat, and the dog sat. The cat ran, and the dog ran after the cat, (of course).")
    ids = inputs["input_ids"][0]
    with torch.no_grad(), ch.watch(opened.model, opened.tokenizer) as seen:
        opened.model(**inputs)
    eager = copy.deepcopy(opened.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(**inputs, output_attentions=True).attentions
    # The roles that no tokenizer has a say in.
    mask = torch.ones(1, len(ids), len(ids), dtype=torch.bool).tril()
    for layer in (0, 15, 29):
        expected = by_definition(attentions[layer][0].double(), mask, (ids + 10).tolist())
        rows = list(seen[layer].summary().rows(9))
        for role in ("previous_token", "self_token", "duplicate_token", "induction", "induction_before", "sink"):
            assert [row[role] for row in rows] == pytest.approx(expected[role].tolist(), abs=1e-4), (layer, role)
