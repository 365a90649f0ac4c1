"""Measures: scores of sets of cases, and their bootstrap confidence intervals.

A resample of the bootstrap is a weighted set: a case's weight is the number of times that it was
drawn.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
RESAMPLES = 1_000
BLOCK = 4_000_000
Score = Callable[[Values], Values]
"""Scores of sets of cases: weights of the shape (sets, cases) → (sets,)."""


class Measure(NamedTuple):
    """``values`` by case, NaN where the case has none; None when only the whole has a score."""

    values: Values | None
    score: Score


class Interval(NamedTuple):
    """A score with the limits of its 95 % confidence interval. NaN: there is no score."""

    value: float
    low: float
    high: float


# Bootstrap


def draw_weights(
    cases: int, seed: int, *, resamples: int = RESAMPLES, block: int = BLOCK
) -> Iterator[Values]:
    """Yield the weights of random resamples with replacement, of shape (some resamples, cases).

    The same seed draws the same resamples. ``block`` limits the numbers that are drawn at once.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, block // cases)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.multinomial(cases, np.full(cases, 1 / cases), size)
        yield np.asarray(drawn, dtype=np.float64)


def interval_of(value: float, blocks: Iterable[Values]) -> Interval:
    """Return ``value`` with the 2.5 and 97.5 percentiles of the resampled scores."""
    resampled = np.concatenate(list(blocks))
    known = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def score_all(measure: Measure, cases: int) -> float:
    """Return the score of all cases together."""
    return float(measure.score(np.ones((1, cases)))[0])


# Kinds of measures


def mean_of(values: Iterable[float]) -> Measure:
    """Return the measure that is the mean of the values that are not NaN."""
    found = np.array(list(values), dtype=np.float64)
    known = ~np.isnan(found)
    filled = np.where(known, found, 0.0)

    def score(weights: Values) -> Values:
        return divide(weights @ filled, weights @ known.astype(np.float64))

    return Measure(found, score)


def each_set(score: Callable[[Values], float]) -> Score:
    """Return a `Score` that calls ``score`` with the weights of one set after the other."""
    return lambda weights: np.array([score(row) for row in weights])


def divide(above: Values, below: Values) -> Values:
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient
