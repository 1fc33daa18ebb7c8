"""How sure a difference is.

Bootstrap intervals are expanded percentiles (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
section 5.3): plain percentiles are as narrow as if the spread were known, and of 30 groups cover 93 %, of 6 86 %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Pairs = Mapping[tuple[str, int], float]
"""What was found, by prompt and seed."""

FEWEST = 5
"""Prompts, for an interval to mean something."""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def clustered_mean(groups: Mapping[str, Sequence[float]], resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over all values, with a bootstrap interval that resamples whole groups.

    Seeds of one prompt are not independent of each other, prompts are.

    Args:
        groups: Values by prompt.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    >>> clustered_mean({"a": [1.0, 3.0], "b": [2.0]}).mean
    2.0
    """
    totals = np.array([sum(values) for values in groups.values()])
    counts = np.array([len(values) for values in groups.values()])
    draws = np.random.default_rng(seed).integers(len(totals), size=(resamples, len(totals)))
    means = totals[draws].sum(1) / counts[draws].sum(1)
    return Interval(float(totals.sum() / counts.sum()), *_expanded(means, len(totals)))


def clustered_correlation(groups: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> Interval:
    """Correlation of all pairs, with a bootstrap interval that resamples whole groups; 0 where one side is all alike.

    Args:
        groups: Pairs (n, 2) of each.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    >>> round(clustered_correlation([np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([[3.0, 6.0]])]).mean, 6)
    1.0
    """
    sums = np.array([[len(g), *g.sum(0), *(g**2).sum(0), g.prod(1).sum()] for g in groups])
    draws = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    found = _correlation(sums[draws].sum(1))
    return Interval(float(_correlation(sums.sum(0))), *_expanded(found, len(groups)))


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Of numbers of pairs, sums of each side, of their squares, and of products, (..., 6)."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    vx, vy, both = n * xx - x * x, n * yy - y * y, n * xy - x * y
    alike = (vx <= 1e-12 * n * xx) | (vy <= 1e-12 * n * yy)  # beyond what sums of floats can tell
    return np.where(alike, 0.0, both / np.sqrt(np.where(alike, 1.0, vx * vy))).clip(-1.0, 1.0)


def paired(found: Pairs, base: Pairs) -> dict[str, list[float]]:
    """By how much more was found than in the base, by prompt: all prompts and seeds that both have.

    >>> paired({("a", 0): 3.0, ("b", 0): 1.0}, {("a", 0): 1.0, ("a", 1): 0.0})
    {'a': [2.0]}
    """
    differences: dict[str, list[float]] = defaultdict(list)
    for prompt, seed in sorted(found.keys() & base.keys()):
        differences[prompt].append(found[prompt, seed] - base[prompt, seed])
    return dict(differences)


def small_mean(values: Sequence[float]) -> Interval:
    """Mean of a few independent values, with an interval by Student's distribution; of one, no interval.

    >>> small_mean([1.0, 2.0, 3.0]).mean
    2.0
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, mean, mean)
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def _expanded(found: np.ndarray, n: int) -> tuple[float, float]:
    """The 95 % interval from what the resamples of n groups gave, by quantiles further out than 2.5 %."""
    if n < 2:
        return float(found.min()), float(found.max())
    tail = float(stats.norm.cdf(stats.t.ppf(0.025, n - 1) * (n / (n - 1)) ** 0.5))
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)
