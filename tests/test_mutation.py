"""Mutation: what children keep of their level's marginal, and of their parents."""

import math

import pytest
import torch
from vectors import gaussian, sampler

from evosearch.genome import replay
from evosearch.mutation import OPERATORS, mutate
from evosearch.path import NoisePath
from evosearch.types import Population

ROWS, SIZE = 100, 1000
N = ROWS * SIZE
STEPS = 10
RATES = pytest.mark.parametrize("rate", [0.15, 0.6, 1.0])
PATHS = pytest.mark.parametrize("path", [NoisePath.flow(STEPS), NoisePath.cosine(STEPS)], ids=["flow", "cosine"])


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _large(path, variance=1.0):
    return sampler(path=path, denoise=gaussian(variance), shape=(SIZE,))


def _true(path, i, variance=0.25):
    """Particles at level i that know the (x0, eps) they are made of."""
    x0 = variance**0.5 * torch.randn(ROWS, SIZE, generator=_rng(1))
    x = float(path.alpha[i]) * x0 + float(path.sigma[i]) * torch.randn(ROWS, SIZE, generator=_rng(2))
    return Population(x, i, torch.arange(ROWS), x0=x0)


def _error(variance):
    """Five standard errors of the variance of N Gaussian numbers."""
    return 5 * variance * math.sqrt(2 / N)


@RATES
@pytest.mark.parametrize("operator", OPERATORS)
def test_at_pure_noise_children_are_unit_gaussian_and_correlate_with_their_parents(operator, rate):
    s = _large(NoisePath.cosine(STEPS))
    p = s.prior(ROWS)
    child = mutate(p, s, _rng(), rate=rate, operator=operator)
    assert abs(child.x.mean()) < 5 / math.sqrt(N)
    assert abs(child.x.var() - 1) < _error(1)
    # The product of Gaussians that correlate by r has the variance 1 + r², at most 2.
    assert (child.x * p.x).mean().item() == pytest.approx(math.sqrt(1 - rate**2), abs=5 * math.sqrt(2 / N))


@RATES
@PATHS
def test_level_preserving_with_true_pairs_keeps_the_marginal(path, rate):
    variance = 0.25
    for i in range(1, STEPS):
        p = _true(path, i, variance)
        child = mutate(p, _large(path), _rng(), rate=rate)
        noise = child.x - float(path.alpha[i]) * p.x0
        sigma = float(path.sigma[i])
        level = float(path.alpha[i]) ** 2 * variance + sigma**2
        assert abs(child.x.var() - level) < _error(level)
        assert abs(noise.var() - sigma**2) < _error(sigma**2)
        assert abs((noise * p.x0).mean()) < 5 * sigma * math.sqrt(variance / N)


@PATHS
def test_the_papers_mutation_holds_more_noise_than_its_level_says(path):
    for i in range(1, STEPS - 1):
        p = _true(path, i)
        child = mutate(p, _large(path), _rng(), rate=0.3, operator="additive")
        noise = child.x - float(path.alpha[i]) * p.x0
        level, excess = float(path.sigma[i]) ** 2, path.tau(i, 1.0) ** 2
        assert abs(noise.var() - (level + excess)) < _error(level + excess)
        assert excess > 2 * _error(level)


@pytest.mark.parametrize(("rate", "expected"), [(0.15, 0.99994), (0.6, 0.99), (1.0, 0.75)])
def test_with_predicted_pairs_variance_shrinks(rate, expected):
    path = NoisePath.cosine(STEPS)
    half = STEPS // 2
    assert float(path.alpha[half]) ** 2 == pytest.approx(0.5)
    s = _large(path)
    p = s.predict(Population(torch.randn(ROWS, SIZE, generator=_rng()), half, torch.arange(ROWS)))
    child = mutate(p, s, _rng(), rate=rate)
    assert child.x.var().item() == pytest.approx(expected, abs=_error(1))


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
def test_an_image_to_start_from_is_no_noise_to_mutate(rate):
    s = _large(NoisePath.flow(STEPS).cut(4, STEPS))
    image, noise = 5.0, float(s.path.sigma[0])
    s.start = lambda z: float(s.path.alpha[0]) * image + noise * z
    p = s.prior(ROWS)
    child = mutate(p, s, _rng(), rate=rate)
    rest = s.start(torch.zeros(1))
    assert (child.x - rest).mean().item() == pytest.approx(0, abs=5 * noise / math.sqrt(N))
    assert (child.x - rest).var().item() == pytest.approx(noise**2, abs=_error(noise**2))
    assert replay(child.genomes[0], s, until=0).x[0].equal(child.x[0])


@pytest.mark.parametrize("i", [0, 3, STEPS - 1])
@PATHS
def test_rate_0_gives_the_parents_state_back_bit_by_bit(path, i):
    p = _true(path, i)
    child = mutate(p, _large(path), _rng(), rate=0)
    assert torch.equal(child.x, p.x)
    assert not torch.equal(child.key, p.key)


def test_clipped_predictions_keep_their_own_noise():
    path, p = NoisePath.cosine(STEPS), _true(NoisePath.cosine(STEPS), 5)
    clipped = p.moved(p.x, x0=p.x0.clamp(-0.1, 0.1), eps=path.eps(p.x, p.x0, 5))
    s = _large(path)
    torch.testing.assert_close(mutate(clipped, s, _rng(), rate=0.6).x, mutate(p, s, _rng(), rate=0.6).x)


@pytest.mark.parametrize("operator", OPERATORS)
def test_children_are_new_and_what_was_known_of_their_parents_is_gone(operator):
    s = _large(NoisePath.cosine(STEPS))
    p = _true(s.path, 4)
    p = p.moved(p.x, x0=p.x0, memory=p.x0, reward=torch.zeros(ROWS))
    child = mutate(p, s, _rng(), rate=0.3, operator=operator)
    assert child.x0 is child.eps is child.memory is child.reward is None
    assert child.i == 4
    assert torch.equal(child.parent, p.id)
    assert not torch.equal(child.x, p.x)
    assert torch.equal(mutate(p, s, _rng(), rate=0.3, operator=operator).x, child.x)


def test_copies_of_one_parent_get_different_children():
    s = sampler()
    children = mutate(s.prior(1)[[0, 0]], s, _rng(), rate=0.5)
    assert not torch.equal(children.x[0], children.x[1])


def test_without_x0_a_state_between_noise_and_data_is_refused():
    s = sampler()
    p, _ = s.run(s.prior(2), 4)
    with pytest.raises(ValueError, match=r"p must have x0 to be mutated at level 4; keep it by run"):
        mutate(p, s, _rng(), rate=0.5)
