"""Roles are the pairs that their definitions name, and uniform heads score what the table says they would."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearhead import Weights, causal, full, padding, window
from clearhead.scope.roles import ROLES, Text
from clearhead.scope.summary import Summary

COMMA = 0


def plainly(role: str, ids: list[int], i: int, sees: list[bool]) -> set[int]:
    """The targets of query i, as the role's definition says them."""
    T = len(ids)
    match role:
        case "previous_token":
            return {i - 1} if i > 0 else set()
        case "first_token":
            return {0} if i > 0 else set()
        case "self_token":
            return {i}
        case "duplicate_token":
            return {j for j in range(i) if ids[j] == ids[i]}
        case "induction":
            return {j + 1 for j in range(i - 1) if ids[j] == ids[i]}
        case "induction_before":
            return {j - 1 for j in range(1, i) if ids[j] == ids[i]}
        case "delimiter":
            marks = [j for j in range(T) if ids[j] == COMMA and j != i and sees[j]]
            return {min(marks, key=lambda j: (abs(i - j), j))} if marks else set()
    raise AssertionError(role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("pattern", [causal(), full()], ids=["causal", "full"])
@given(ids=st.lists(st.integers(0, 3), min_size=1, max_size=12), queries=st.integers(1, 12))
def test_a_role_names_the_pairs_of_its_definition(role, pattern, ids, queries):
    T, Tq = len(ids), min(queries, len(ids))
    tokens = torch.tensor(ids)
    runs = pattern.runs(Tq, T)
    text = Text(tokens, torch.ones(T, dtype=torch.bool), tokens == COMMA, T - Tq, runs)
    found = sorted(pair for i, j in ROLES[role](text) for pair in zip(i.tolist(), j.tolist(), strict=True))
    mask = runs.dense()[0, 0].tolist()
    expected = sorted((i, j) for i in range(T - Tq, T) for j in plainly(role, ids, i, mask[i - T + Tq]))
    assert found == expected


@pytest.mark.parametrize("pattern", [causal(), full(), causal() & window(5)], ids=["causal", "full", "window"])
def test_a_uniform_head_scores_its_own_baseline(pattern):
    ids = torch.tensor([[1, 2, 0, 1, 2, 3, 0, 1, 1, 2]])
    zero = torch.zeros(1, 2, 10, 4)
    row, _ = Summary.of(Weights(zero, zero, pattern=pattern), ids, None, {COMMA}, None).rows(2)
    for role in ROLES:
        assert row[role] == pytest.approx(row[f"{role}_uniform"], rel=1e-5)
    assert row["entropy_normalised"] == pytest.approx(1)


def test_a_head_that_does_nothing_else_scores_one_for_its_role():
    T = 8
    one_hot = torch.eye(T)[None, None] * 100
    shifted = one_hot.roll(-1, -1)  # query i fits key i − 1
    ids = torch.arange(T)[None]
    (row,) = Summary.of(Weights(shifted, one_hot, pattern=causal(), scale=1.0), ids, None, None, None).rows(1)
    assert row["previous_token"] == pytest.approx(1, abs=1e-3)
    assert row["previous_token_uniform"] == pytest.approx(sum(1 / n for n in range(2, T + 1)) / (T - 1))
    assert row["delimiter"] != row["delimiter"]  # NaN: without a tokenizer nobody knows a delimiter


def test_padding_is_neither_counted_nor_looked_at():
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    ids = torch.tensor([[1, 2, 1, 2, 3, 1]])
    alone = Summary.of(Weights(q, k, pattern=causal()), ids, None, {2}, None)
    pad = torch.full((1, 2, 3, 4), 7.0)
    real = torch.tensor([[False] * 3 + [True] * 6])
    padded_ids = torch.cat([torch.ones(1, 3, dtype=torch.int64), ids], 1)
    padded = Weights(
        torch.cat([pad, q], 2),
        torch.cat([pad, k], 2),
        pattern=causal() & padding(torch.tensor([6]), side="left"),
    )
    for one, other in zip(alone.rows(2), Summary.of(padded, padded_ids, real, {2}, real).rows(2), strict=True):
        assert one == pytest.approx(other, rel=1e-5, nan_ok=True)


def test_summaries_add_up_over_texts():
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    ids = torch.randint(0, 4, (2, 9))
    together = Summary.of(Weights(q, k, pattern=causal()), ids, None, {0}, None)
    apart = Summary()
    for b in range(2):
        apart += Summary.of(Weights(q[b : b + 1], k[b : b + 1], pattern=causal()), ids[b : b + 1], None, {0}, None)
    for one, other in zip(together.rows(3), apart.rows(3), strict=True):
        assert one == pytest.approx(other, rel=1e-9, nan_ok=True)


def test_a_text_of_one_repeated_token_is_read_some_pairs_at_a_time(monkeypatch):
    monkeypatch.setattr("clearhead.scope.roles.PAIRS_AT_A_TIME", 30)
    ids = torch.zeros(20, dtype=torch.int64)
    text = Text(ids, torch.ones(20, dtype=torch.bool), None, 0, causal().runs(20, 20))
    batches = list(ROLES["duplicate_token"](text))
    assert max(len(i) for i, _ in batches) <= 30
    assert sum(len(i) for i, _ in batches) == 20 * 19 // 2
