"""Sums over documents are exact in any order, and the interval is that of the ratio estimator."""

import math
import random
from functools import reduce
from operator import add

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from clearhead.scope.moments import BITS, Moments, student

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)
documents = st.lists(st.tuples(st.tuples(numbers, numbers), st.integers(0, 10**6)), min_size=1, max_size=12)


def told(moments: Moments) -> dict[str, object]:
    return {name: list(x) if isinstance(x, list) else x for name, x in vars(moments).items()}


@given(documents, st.randoms(use_true_random=False))
def test_sums_are_the_same_in_whatever_order_and_parts(some: list, chance: random.Random) -> None:
    parts = [Moments.of(sums, n) for sums, n in some]
    whole = reduce(add, parts)
    chance.shuffle(parts)
    while len(parts) > 1:  # any two next to one another become one
        at = chance.randrange(len(parts) - 1)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    assert told(parts[0]) == told(whole)


def test_a_sum_is_kept_to_the_nearest_multiple_of_two_to_the_minus_forty() -> None:
    assert Moments.of([1 / 3], 1).s == [round(2**BITS / 3)]
    assert Moments.of([1e30], 1).ss == [int(1e30 * 2**BITS) ** 2]  # beyond 64 bits, and nothing lost


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_the_interval_is_that_of_the_ratio_estimator_by_numpy(D: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 500, D)
    S = rng.normal(3, 2, (D, 4)) * n[:, None]
    moments = reduce(add, (Moments.of(list(s), int(count)) for s, count in zip(S, n, strict=True)))
    for head, (mean, low, high) in enumerate(moments.intervals()):
        ratio = S[:, head].sum() / n.sum()
        variance = D / (D - 1) * ((S[:, head] - ratio * n) ** 2).sum() / n.sum() ** 2
        half = student(D - 1) * math.sqrt(variance)
        np.testing.assert_allclose([mean, low, high], [ratio, ratio - half, ratio + half], rtol=1e-9, atol=1e-9)


def test_documents_of_one_length_give_students_interval_of_their_means() -> None:
    means = np.array([0.1, 0.4, 0.2, 0.9, 0.3])
    moments = reduce(add, (Moments.of([7 * mean], 7) for mean in means))
    mean, low, high = next(moments.intervals())
    half = 2.7764451 * means.std(ddof=1) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((means.mean(), means.mean() - half, means.mean() + half), abs=1e-8)


def test_95_of_100_intervals_hold_the_truth() -> None:
    rng, D, heads, truth = np.random.default_rng(0), 30, 2000, 0.3
    n = rng.integers(20, 400, D)
    of_document = rng.normal(truth, 0.1, (D, heads))  # queries of one document are alike
    S = of_document * n[:, None] + rng.normal(0, 0.2, (D, heads)) * np.sqrt(n)[:, None]
    moments = reduce(add, (Moments.of(list(s), int(count)) for s, count in zip(S, n, strict=True)))
    held = np.mean([low <= truth <= high for _, low, high in moments.intervals()])
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.6, 5.0), (9.0, 0.7)])
def test_95_of_100_intervals_of_shares_hold_the_truth_and_none_leaves_the_range(a: float, b: float) -> None:
    rng, D, heads = np.random.default_rng(0), 30, 2000
    n = rng.integers(20, 400, D)
    S = rng.beta(a, b, (D, heads)) * n[:, None]
    moments = reduce(add, (Moments.of(list(s), int(count)) for s, count in zip(S, n, strict=True)))
    found = list(moments.intervals(0, 1))
    assert all(0 < low < mean < high < 1 for mean, low, high in found)
    assert 0.93 <= np.mean([low <= a / (a + b) <= high for _, low, high in found]) <= 0.97


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (0.0, math.inf)])
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_no_interval_of_however_few_documents_leaves_the_range(least: float, most: float, values: list[float]) -> None:
    moments = reduce(add, (Moments.of([10 * value], 10) for value in values))
    mean, low, high = next(moments.intervals(least, most))
    assert least <= low <= mean <= high <= most


def test_documents_that_are_alike_leave_no_doubt() -> None:
    same = reduce(add, [Moments.of([0.1 * 3], 3)] * 7)
    assert len({*next(same.intervals())}) == 1  # by floats, the residual would not be quite 0


def test_documents_without_such_queries_change_nothing() -> None:
    some = Moments.of([1.0], 2) + Moments.of([6.0], 4)
    assert list((some + Moments.none(1)).intervals()) == list(some.intervals())


def test_one_document_has_a_mean_and_no_interval_and_none_has_neither() -> None:
    mean, low, high = next(Moments.of([1.0], 4).intervals())
    assert mean == 0.25 and math.isnan(low) and math.isnan(high)
    assert all(map(math.isnan, next(Moments.none(1).intervals())))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_does_not_enter_a_sum(bad: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Moments.of([1.0, bad], 3)


def test_students_t_is_that_of_the_tables() -> None:
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423, 60: 2.0003, 120: 1.9799}
    assert {freedom: round(student(freedom), 4) for freedom in table} == table
    assert student(1000) == pytest.approx(student(1001), abs=1e-5)
    assert student(10**9) == pytest.approx(1.959964, abs=1e-6)
