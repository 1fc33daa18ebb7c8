"""The model whose truth is known, and searches against it."""

import math
import sys

import numpy as np
import pytest
import torch

from evosearch import searches
from evosearch.models.toy import GaussianMixture
from evosearch.resampling import ess, systematic
from evosearch.scoring import preview
from evosearch.searches.particles import PRESETS

RING = GaussianMixture.ring(8)
LOPSIDED = GaussianMixture.of([[-1.0, 2.0, 0.5], [3.0, 0.0, -1.0]], 0.7, weights=[1, 3])
TEMPERATURE = 10.0


class Ring:
    """How near a point of the plane is to the circle of radius 2."""

    differentiable = True

    def __call__(self, x):
        return -(x.square().sum(1) - 4).abs()


REWARD = Ring()


def radius(x):
    return x.norm(dim=1).double()


# the model


@pytest.mark.parametrize("mixture", [RING, LOPSIDED])
@pytest.mark.parametrize(("alpha", "sigma"), [(0.1, 0.995), (0.6, 0.8), (0.9, 0.1)])
def test_the_denoiser_is_that_of_the_score(mixture, alpha, sigma):
    """Tweedie: E[x0 | x] = (x + sigma² grad log p(x)) / alpha."""
    x = torch.randn(50, mixture.dimensions, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(mixture.log_density(x, alpha, sigma).sum(), x)
    assert torch.allclose(mixture.denoise(x, alpha, sigma), (x + sigma**2 * score) / alpha)


def test_pure_noise_says_nothing():
    mean = (LOPSIDED.weights[:, None] * LOPSIDED.means).sum(0)
    assert torch.allclose(LOPSIDED.denoise(torch.randn(5, 3).double(), 0.0, 1.0), mean.expand(5, 3))


@pytest.mark.parametrize("path", ["diffusion", "flow"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_come_to_the_mixture_as_steps_grow(path, eta):
    def error(steps):
        s = RING.sampler(steps, path, eta=eta, batch_size=2000)
        finished, _ = s.run(s.prior(2000), steps)
        return abs(float(radius(finished.x).mean()) - float(radius(RING.sample(200_000)).mean()))

    assert error(80) < 0.05
    assert error(80) < error(8)


def test_the_tilted_target_is_that_of_weighted_data():
    data = RING.sample(400_000, torch.Generator().manual_seed(0))
    weight = torch.softmax(REWARD(data).double() / TEMPERATURE, 0)
    target = RING.tilted(REWARD, TEMPERATURE)
    assert target.mean(radius) == pytest.approx(float((weight * radius(data)).sum()), abs=0.01)
    drawn = target.sample(200_000, torch.Generator().manual_seed(1))
    assert float(radius(drawn).mean()) == pytest.approx(target.mean(radius), abs=0.01)
    assert float(target.probability.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RING.sampler(5, "spiral"), "path must be one of diffusion, flow, got 'spiral'"),
        (lambda: LOPSIDED.tilted(REWARD, 1.0), "tilted needs a mixture in 2 dimensions, got 3"),
        (lambda: RING.tilted(REWARD, -1.0), r"temperature must be .* above 0, got -1.0"),
        (lambda: GaussianMixture.ring(0), "count must be at least 1, got 0"),
        (lambda: GaussianMixture.ring(3, deviation=-1.0), r"deviation must be .* above 0, got -1.0"),
        (lambda: GaussianMixture.of([[0.0], [1.0]], 1.0, [1.0]), "weights must be 2 numbers above 0, one for each"),
        (lambda: GaussianMixture.of([], 1.0), "means must be K points of D numbers each"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# what searches draw


def reference(steps, count=300_000, temperature=TEMPERATURE):
    """Mean radius of the sampler's own samples, weighted by exp(reward / temperature), and without weights."""
    path, generator = RING.sampler(steps).path, torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, generator=generator)
    for i in range(steps):
        x0 = RING.denoise(x, float(path.alpha[i]), float(path.sigma[i]))
        x = path.step(x, x0, i, eta=1.0, noise=torch.randn(x.shape, generator=generator))
    weight = torch.softmax(REWARD(x).double() / temperature, 0)
    return float((weight * radius(x)).sum()), float(radius(x).mean())


def weighted(p):
    return float((torch.softmax(p.log_weight, 0) * radius(p.x)).sum())


def particle_errors(n, seeds, target, steps=10, **knobs):
    found = []
    for seed in range(seeds):
        s = RING.sampler(steps, eta=1.0, batch_size=n, seed=seed)
        *_, p = searches.particles(
            s, REWARD, torch.Generator().manual_seed(seed), n=n, temperature=TEMPERATURE, **knobs
        )
        found.append(weighted(p) - target)
    return np.array(found)


@pytest.mark.parametrize(
    "knobs",
    [
        PRESETS["das"],
        PRESETS["bfs"],
        {**PRESETS["bfs"], "potential": "current", "resampling": "systematic"},
        {**PRESETS["das"], "guidance": 1.0},
    ],
    ids=["das", "bfs", "current", "guided"],
)
def test_particles_follow_the_target_the_better_the_more_they_are(knobs):
    target, plain = reference(10)
    sizes = (16, 64, 256)
    errors = {n: particle_errors(n, 60, target, **knobs) for n in sizes}
    spread = [math.sqrt((errors[n] ** 2).mean()) for n in sizes]
    slope = np.polyfit(np.log(sizes), np.log(spread), 1)[0]
    assert -0.6 <= slope <= -0.4
    assert abs(errors[256].mean()) < 4 * errors[256].std() / math.sqrt(60) + 0.01 < abs(plain - target) / 3


def test_dropping_the_weights_of_no_resampling_as_the_released_fk_does_biases_the_result():
    """Ours keeps them; its error is within its own spread, theirs is not."""
    target, plain = reference(10)
    knobs = {"tempering": "constant", "potential": "difference", "resampling": "systematic"}
    kept = [particle_errors(256, 40, target, ess=ess, **knobs) for ess in (1.0, 0.5)]
    dropped = np.array([released_fk(256, seed) - target for seed in range(40)])
    for errors in kept:
        assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(40) + 0.01
    assert abs(dropped.mean()) > 8 * dropped.std() / math.sqrt(40)
    assert abs(dropped.mean()) > abs(plain - target) / 4


def released_fk(n, seed, steps=10, levels=(2, 4, 6, 8, 10)):
    """Mean radius of particles whose weights count where they lead to resampling, and nowhere else."""
    s = RING.sampler(steps, eta=1.0, batch_size=n, seed=seed)
    rng, p, spent = torch.Generator().manual_seed(seed), s.prior(n), torch.zeros(n, dtype=torch.float64)
    for level in levels:
        p = preview(s.run(p, level)[0], s, REWARD)
        now = p.reward.double() / TEMPERATURE
        if ess(now - spent) <= 0.5 * n:
            rows = systematic(now - spent, n, rng)
            p, now = p.branch(rows, rng), now[rows]
        spent = now
    return float(radius(p.x).mean())


def tree_bias(nfe, seeds, target, temperature):
    found = []
    for seed in range(seeds):
        s = RING.sampler(2, eta=1.0, batch_size=1, seed=seed)
        knobs = {"nfe": nfe, "temperature": temperature, "width": 1.0, "greedy": False}
        *_, leaves = searches.tree(s, REWARD, torch.Generator().manual_seed(seed), **knobs)
        found.append(weighted(leaves) - target)
    return np.mean(found), np.std(found) / math.sqrt(seeds)


def test_tree_sampling_comes_to_the_target_the_nearer_the_more_it_spends():
    """Where states branch at every level, and the target is far from the model."""
    temperature = TEMPERATURE / 3
    target, plain = reference(2, temperature=temperature)
    (coarse, _), (fine, error) = (tree_bias(nfe, seeds, target, temperature) for nfe, seeds in ((100, 24), (1600, 6)))
    assert plain - target > 0.5
    assert 0.05 < coarse < 0.2
    assert abs(fine) < min(coarse / 2, 0.03 + 2 * error)


@pytest.mark.parametrize("growth", [0.25, 1.0])
def test_a_tree_does_not_idle(monkeypatch, growth):
    """Most ways down end at finished samples; each roll-out is worth a few of them, whatever the knobs."""
    module = sys.modules["evosearch.searches.tree"]
    descents, chosen = 0, module._Node.chosen

    def counted(*args):
        nonlocal descents
        descents += 1
        return chosen(*args)

    monkeypatch.setattr(module._Node, "chosen", counted)
    for steps in (1, 2, 5):
        s = RING.sampler(steps, eta=1.0, batch_size=1)
        found = list(searches.tree(s, REWARD, torch.Generator(), nfe=60 * steps, growth=growth))
        assert descents < 10 * steps * len(found)
        descents = 0
