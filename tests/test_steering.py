"""Steering: noises that are mixed by what they lead to, what that costs, and how drafts' winners are steered."""

import pytest
import torch
from vectors import gaussian, nearness, sampler

from evosearch import searches
from evosearch.budget import Budget, Meter
from evosearch.drafts import DraftSampler, drafted
from evosearch.genome import replay
from evosearch.metered import MeteredSampler
from evosearch.steering import looks, steered
from evosearch.types import concat

STEPS = 10


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _end(*args, **kwargs):
    *_, end = steered(*args, **kwargs)
    return end


def test_one_noise_leaves_nothing_to_choose():
    s = sampler(STEPS)
    p = s.run(s.prior(1), 4, eta=0.0)[0]
    assert torch.equal(_end(p, s, nearness, _rng(), noises=1).x, s.run(p, STEPS, eta=1.0)[0].x)


@pytest.mark.parametrize("lookahead", [1, 2, 3])
@pytest.mark.parametrize("level", [0, 4, 9])
def test_it_costs_a_run_and_what_it_looks_at(level, lookahead):
    meter = Meter(Budget(nfe=10**6))
    s = MeteredSampler(sampler(STEPS), meter)
    p = s.prior(1) if level == 0 else s.run(s.prior(1), level)[0]
    before = meter.nfe
    _end(p, s, nearness, _rng(), noises=5, lookahead=lookahead)
    assert meter.nfe - before == STEPS - level + 5 * sum(looks(STEPS, level, lookahead))


def test_a_step_goes_by_noises_weighted_by_their_distance_to_the_mean():
    """Of the paper: the sum of noises times tanh of the standardised reward, as long as a noise is."""
    s = sampler(STEPS, denoise=gaussian(1.0))
    p = s.predict(s.prior(1))
    first = next(steered(p, s, nearness, _rng(), noises=6))
    tried = p.branch([0] * 6, _rng())
    z = s.noise(tried.key, 0, "step")
    ahead = s.step(p.repeat(6), 1.0, z).x * float(s.path.alpha[1])  # x0 of unit Gaussian data
    reward = nearness(ahead).double()
    mixed = (torch.tanh((reward - reward.mean()) / reward.std(correction=0))[:, None] * z).sum(0)
    mixed = mixed / mixed.norm() * 3**0.5
    assert torch.allclose(first.x, s.step(p, 1.0, mixed[None].float()).x, atol=1e-5)


def test_many_noises_find_the_direction_of_a_linear_reward():
    """The mix of K noises of D numbers points along the gradient but for K draws' error: cosine √(K c² / (D + K c²)).

    c is E[tanh(u) u] of a standard normal u, over √E[tanh²(u)].
    """
    d, k = 48, 64
    s = sampler(STEPS, denoise=gaussian(1.0), shape=(d,))
    u = torch.linspace(-0.1, 0.1, 20001, dtype=torch.float64) * 60
    density = torch.exp(-u * u / 2)
    c = (torch.tanh(u) * u * density).sum() / (torch.tanh(u).square() * density).sum().sqrt() / density.sum().sqrt()
    direction = torch.ones(d) / d**0.5
    cosines = []
    for seed in range(30):
        p = s.predict(s.prior(1))
        first = next(steered(p, s, lambda x: x @ direction, _rng(seed), noises=k))
        z = (first.x - s.step(p, 1.0, torch.zeros(1, d)).x) / s.path.tau(0, 1.0)
        cosines.append(float(z @ direction) / d**0.5)
    expected = float((k * c * c / (d + k * c * c)).sqrt())
    assert torch.tensor(cosines).mean() == pytest.approx(expected, abs=0.03)


# Of drafts


def _drafted(s, room, steering, start=2, search=None, reward=nearness):
    knobs = {"schedule": (2, 3), "sizes": (9, 8, 8), "elites": 0, "parents": 3, "rate": 0.3}
    explore = search or (lambda s, reward, rng: searches.evosearch(s, reward, rng, **knobs))
    how = {"room": room * STEPS, "steering": steering * STEPS, "steered_from": start}
    return [p for p in drafted(explore, s, reward, _rng(), steps=5, **how) if p.i == STEPS]


@pytest.mark.parametrize("steering", [3, 4, 9])
def test_a_winner_is_steered_with_all_that_is_given_and_left(steering):
    def spent(steering):
        meter = Meter(Budget(nfe=10**6))
        _drafted(MeteredSampler(sampler(STEPS), meter), 2, steering)
        return meter.nfe

    explored = 9 * 5 + 8 * 3 + 8 * 2
    most = explored + (2 + steering) * STEPS
    assert most - sum(looks(STEPS, 4)) < spent(steering) <= most
    assert spent(0) <= explored + 2 * STEPS


def test_the_one_that_is_steered_is_the_best_of_those_bred_before_that_begins():
    """Bred at level 2 of 5 or before, which is level 4 of 10; and it goes on from the state it was bred at."""
    s, noted = sampler(STEPS), []

    def noting(draft, reward, rng):
        for p in searches.evosearch(
            draft, reward, rng, schedule=(2, 3), sizes=(9, 8, 8), elites=0, parents=3, rate=0.3
        ):
            noted.append((p, {id: draft.births[id].p for id in p.id.tolist()}))
            yield p

    *_, end = _drafted(s, 2, 4, search=noting)
    births = {id: (birth, reward) for p, known in noted for id, reward in zip(known, p.reward.tolist(), strict=True)
              for birth in [known[id]]}  # fmt: skip
    early = {id: reward for id, (birth, reward) in births.items() if birth.i <= 4}
    assert len(early) == 17 < len(births) == 25
    best = max(early, key=early.get)
    # steered from its own state: with one noise that leaves nothing to choose it would be its SDE
    (genome,) = end.genomes
    assert [gene.op for gene in genome][-1] == "given"
    given = [gene for gene in genome if gene.op == "given" and gene.level == births[best][0].i]
    assert births[best][0].i == 0 or given[0].state == births[best][0].x[0].numpy().tobytes()
    assert torch.equal(replay(genome, sampler(STEPS)).x[0], end.x[0])


def test_steering_gets_ahead_of_what_it_starts_from():
    """Where there are many directions, which a few children cannot try one after the other."""
    for seed in range(4):
        s = sampler(STEPS, denoise=gaussian(1.0), shape=(48,), seed=seed)
        *finished, end = _drafted(s, 1, 8, reward=lambda x: x.sum(1) / 48**0.5)
        assert float(end.reward) > float(concat(*finished).reward.max()) + 1  # standard deviations


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steered": 1}, "steered must be enough to try 2 noises a step from level 4 of 10, got 1"),
        ({"steered": -1}, "steered must be at least 0, got -1"),
        (
            {"steered": 3, "steered_from": 5},
            "steered_from must be a level from 0 to 4, since a draft takes 5 steps; got 5",
        ),
        ({"steered": 3, "draft_steps": None, "finals": 0}, "steered goes with draft_steps, of whose winners"),
    ],
)
def test_what_steers_nothing_is_refused(wrong, message):
    knobs = {"schedule": (2,), "sizes": (9, 8), "draft_steps": 5, "finals": 1, "steered_from": 2}
    with pytest.raises(ValueError, match=message):
        searches.evosearch.nfe(STEPS, **{**knobs, **wrong})


def test_a_draft_sampler_counts_levels_of_its_own():
    assert DraftSampler(sampler(STEPS), 5).levels[2] == 4
