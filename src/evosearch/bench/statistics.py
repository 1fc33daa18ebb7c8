"""How sure a difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


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
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(totals.sum() / counts.sum()), float(low), float(high))


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
