"""Resampling: unbiased, no more spread than it must have, and whole whatever the weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evosearch.resampling import ess, multinomial, normalise, ssp, stratified, systematic

SCHEMES = [multinomial, stratified, systematic, ssp]
ROUNDING = [systematic, ssp]  # their counts are the expectation, rounded up or down
INF, NAN = float("inf"), float("nan")

LOG_WEIGHTS = {
    "mixed": [0.0, -1.0, 2.0, 0.5, -3.0],
    "equal": [7.0] * 6,
    "halves": [0.0, 0.0, -INF, -INF],
    "zero first": [-INF, 0.0, 1.0],
    "one-hot": [-INF, 3.0, -INF],
    "huge": [1e30, 1e30, -1e30],
    "invalid": [0.0, NAN, 1.0],
    "infinite": [0.0, INF, INF],
    "none": [-INF, NAN, -INF],
    "single": [-5.0],
}
some_log_weights = st.lists(st.one_of(st.floats(-50, 50), st.floats(), st.just(-INF)), min_size=1, max_size=12)


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _counts(scheme, log_w, n, rng):
    return torch.bincount(scheme(log_w, n, rng), minlength=len(log_w)).double()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("log_w", LOG_WEIGHTS.values(), ids=LOG_WEIGHTS)
def test_unbiased(scheme, n, log_w):
    log_w, rng, draws = torch.tensor(log_w), _rng(), 2000
    weights = normalise(log_w)
    mean = torch.stack([_counts(scheme, log_w, n, rng) for _ in range(draws)]).mean(0)
    error = (n * weights * (1 - weights) / draws).sqrt()  # the multinomial's, the largest of all
    assert ((mean - n * weights).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(derandomize=True, deadline=None)
@given(log_w=some_log_weights, n=st.integers(1, 20), seed=st.integers(0, 1000))
def test_makes_n_copies_and_none_of_the_weightless(scheme, log_w, n, seed):
    log_w = torch.tensor(log_w, dtype=torch.float64)
    counts = _counts(scheme, log_w, n, _rng(seed))
    assert counts.sum() == n
    assert len(counts) == len(log_w)
    assert (counts[normalise(log_w) == 0] == 0).all()


@pytest.mark.parametrize("scheme", ROUNDING)
@settings(derandomize=True, deadline=None)
@given(log_w=some_log_weights, n=st.integers(1, 20), seed=st.integers(0, 1000))
def test_counts_are_the_expectation_rounded(scheme, log_w, n, seed):
    log_w = torch.tensor(log_w, dtype=torch.float64)
    counts, expected = _counts(scheme, log_w, n, _rng(seed)), n * normalise(log_w)
    assert (counts >= (expected - 1e-9).floor()).all()
    assert (counts <= (expected + 1e-9).ceil()).all()


@pytest.mark.parametrize("scheme", [stratified, *ROUNDING])
def test_less_variance_than_multinomial(scheme):
    log_w, rng = torch.tensor(LOG_WEIGHTS["mixed"]), _rng()
    spread = {
        f: torch.stack([_counts(f, log_w, 8, rng) for _ in range(2000)]).var(0).sum() for f in (scheme, multinomial)
    }
    assert spread[scheme] < 0.7 * spread[multinomial]


@settings(derandomize=True, deadline=None)
@given(log_w=some_log_weights)
def test_weights_sum_to_one_and_ess_lies_between_one_and_n(log_w):
    log_w = torch.tensor(log_w, dtype=torch.float64)
    weights = normalise(log_w)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights >= 0).all()
    assert 1 - 1e-9 <= ess(log_w) <= len(log_w) + 1e-9


@pytest.mark.parametrize(("log_w", "expected"), [([3.0] * 7, 7), ([0.0, -INF, NAN], 1), ([0.0, 0.0, -INF], 2)])
def test_ess_of_equal_and_of_lonely_weights(log_w, expected):
    assert ess(torch.tensor(log_w)) == pytest.approx(expected)
