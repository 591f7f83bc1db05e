"""Moments: exact sums over documents, and the mean and its interval that they give."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

BITS = 40
"""A document's sums are rounded to multiples of 2^−40, some 10⁻¹²; whatever is done with them then is exact."""
SHARE = 0.95
"""The share of intervals that hold the truth, in the long run."""
LARGEST = 300.0
"""The logarithm beyond which a factor is as good as infinite."""
NORMAL = 1.959963984540054
"""The normal distribution's, beyond which 5 % lie on either side together."""


class Interval(NamedTuple):
    """A mean, and where the mean of all such documents lies with 95 % confidence."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Moments:
    """Of one column of one attention: what documents d, each with a sum S_d a head over n_d queries, add up to.

    The integers are whole multiples of 2^−40 (of 2^−80, where squared), so that adding them up is exact: the
    same in whatever order and parts it is done.
    """

    documents: int
    """How many have an n_d above 0."""
    n: int
    nn: int
    """Σ n_d and Σ n_d²."""
    s: Sequence[int]
    ss: Sequence[int]
    sn: Sequence[int]
    """For each head, Σ S_d, Σ S_d² and Σ S_d n_d."""

    @staticmethod
    def of(sums: Sequence[float], n: int) -> "Moments":
        """Of one document. Raises ValueError or OverflowError for a sum that is not finite."""
        s = [round(math.ldexp(x, BITS)) for x in sums]
        return Moments(int(n > 0), n, n * n, s, [x * x for x in s], [x * n for x in s])

    @staticmethod
    def of_json(values: Sequence[Any], heads: int) -> "Moments":
        """From its fields in their order, as JSON has them; TypeError or ValueError for what is something else."""
        documents, n, nn, *sums = values
        of_heads = [documents, n, nn, *(x for some in sums for x in some)]
        if len(sums) != 3 or any(len(some) != heads for some in sums) or any(type(x) is not int for x in of_heads):
            raise ValueError(f"expected three counts and three lists of {heads} integers")
        return Moments(documents, n, nn, *sums)

    @staticmethod
    def none(heads: int) -> "Moments":
        """Of no document."""
        return Moments.of([0.0] * heads, 0)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.documents + other.documents,
            self.n + other.n,
            self.nn + other.nn,
            [a + b for a, b in zip(self.s, other.s, strict=True)],
            [a + b for a, b in zip(self.ss, other.ss, strict=True)],
            [a + b for a, b in zip(self.sn, other.sn, strict=True)],
        )

    def intervals(self, least: float = -math.inf, most: float = math.inf) -> Iterator[Interval]:
        """For each head the mean over all queries of all documents, and its 95 % confidence interval.

        The documents are the independent units, as queries of one document are alike. Then the mean is a ratio
        of two sums over documents, m = Σ S_d / Σ n_d, and its variance by the delta method

            D/(D−1) · Σ (S_d − m n_d)² / (Σ n_d)²

        for the D documents that have something to say (n_d > 0). The interval is m ± t √variance, t being
        Student's with D − 1 degrees of freedom (Cochran, Sampling Techniques, 1977, ch. 6). A mean that has a
        `least` or a `most` value has its interval on the scale of log (m − least), or of
        log (m − least) / (most − m), and so within them (Korn & Graubard, Survey Methodology 24, 1998). NaN where
        nothing was counted, and the ends where a single document was.

        >>> two = Moments.of([1.0], 2) + Moments.of([6.0], 4)
        >>> next(two.intervals())
        Interval(mean=1.1666666666666667, low=-4.4805..., high=6.8138...)
        >>> next(two.intervals(least=0))
        Interval(mean=1.1666666666666667, low=0.0092..., high=147.6...)
        """
        D, n = self.documents, self.n
        for s, ss, sn in zip(self.s, self.ss, self.sn, strict=True):
            if D == 0:
                yield Interval(math.nan, math.nan, math.nan)
                continue
            mean = s / (n << BITS)
            half = math.nan
            if D > 1:
                residual = n * n * ss - 2 * n * s * sn + s * s * self.nn  # Σ (n S_d − s n_d)², nothing lost
                half = student(D - 1) * math.sqrt(D * residual / ((D - 1) * n**4 << 2 * BITS))
            yield Interval(mean, *_ends(mean, half, least, most))


def _ends(mean: float, half: float, least: float, most: float) -> tuple[float, float]:
    """The ends of mean ± half, on a scale that keeps them within least and most."""
    if math.isinf(least) or math.isnan(half):
        return mean - half, mean + half
    if not least < mean < most:  # all documents are at one end of the range, but for rounding
        return mean, mean
    if math.isinf(most):
        factor = math.exp(min(half / (mean - least), LARGEST))
        return least + (mean - least) / factor, least + (mean - least) * factor
    above, below = mean - least, most - mean
    factor = math.exp(min(half * (most - least) / (above * below), LARGEST))
    low, high = (above * by / (above * by + below) for by in (1 / factor, factor))
    return least + low * (most - least), least + high * (most - least)


@lru_cache
def student(freedom: int) -> float:
    """Student's t between whose two sides 95 % lie (Abramowitz & Stegun 1964, 26.7.3–5).

    >>> [round(student(freedom), 3) for freedom in (1, 2, 10, 2000)]
    [12.706, 4.303, 2.228, 1.961]
    """
    if freedom > 1000:
        return NORMAL + (NORMAL**3 + NORMAL) / (4 * freedom)
    low, high = NORMAL, 13.0
    while high - low > 1e-12:
        t = (low + high) / 2
        low, high = (t, high) if _within(t, freedom) < SHARE else (low, t)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability that Student's lies between −t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, cosine = freedom % 2, math.cos(angle)
    term, total = cosine**odd, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
