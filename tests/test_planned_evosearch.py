"""The planner: what it learns of an arm, and where it goes then."""

import numpy as np
import pytest
import torch
from vectors import nearness, sampler

from evosearch import searches
from evosearch.searches.planned_evosearch import Arm, Planner
from evosearch.types import concat

STEPS = 10


def _taught(a, b, noise, n=20_000, slope=0.5):
    """An arm that has seen so many children whose reward is a + b · parent's + noise."""
    rng, arm = np.random.default_rng(0), Arm(6, 0.3, slope)
    parents = rng.normal(size=n)
    arm.learn(parents, a + b * parents + noise * rng.normal(size=n))
    return arm


def _promise(arm, parents, n, best, times=400):
    """Its mean over draws of the posterior."""
    rng = np.random.default_rng(1)
    return float(np.mean([arm.promise(np.array(parents), n, best, rng) for _ in range(times)]))


@pytest.mark.parametrize(("a", "b", "noise"), [(0.3, 0.8, 0.1), (-0.5, 0.2, 1.0)])
def test_a_taught_arm_promises_what_is_true(a, b, noise):
    rng, parents = np.random.default_rng(2), np.array([1.5, 0.5])
    rewards = a + b * parents[np.arange(5) % 2] + noise * rng.normal(size=(200_000, 5))
    truth = np.maximum(rewards.max(1) - 1.0, 0).mean()
    assert _promise(_taught(a, b, noise), parents, 5, 1.0) == pytest.approx(truth, rel=0.05, abs=0.003)


def test_before_it_has_learnt_an_arm_promises_by_its_prior_and_is_unsure():
    rng, fresh = np.random.default_rng(0), Arm(6, 0.3, 0.9)
    draws = [fresh.promise(np.array([2.0]), 1, 0.0, rng) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(0.9 * 2.0, abs=0.1)
    assert np.std(draws) > 5 * np.std([_taught(0.0, 0.9, 0.4).promise(np.array([2.0]), 1, 0.0, rng) for _ in range(99)])


def test_learning_in_parts_is_learning_at_once():
    rng, parts, whole = np.random.default_rng(0), Arm(6, 0.3, 0.5), Arm(6, 0.3, 0.5)
    parents, children = rng.normal(size=(2, 30))
    whole.learn(parents, children)
    for k in range(0, 30, 7):
        parts.learn(parents[k : k + 7], children[k : k + 7])
    assert _promise(parts, [1.0], 3, 0.5, 50) == pytest.approx(_promise(whole, [1.0], 3, 0.5, 50))


def _chosen(arms, parents, times=200):
    """How often each arm is chosen, after a first generation of mean 0 and spread 1."""
    planner = Planner(arms, STEPS, 4, np.random.default_rng(0))
    planner.learn(Arm(None, 0.0, 0.0), None, torch.tensor([-1.0, 1.0]))
    found = [planner.choose({6: torch.tensor(parents)}, 10**6)[0] for _ in range(times)]
    return [sum(arm is a for a in found) / times for arm in arms]


def test_it_breeds_where_children_inherit_and_draws_anew_where_they_do_not():
    fresh = _taught(0.0, 0.0, 1.0)
    fresh.level = None
    assert _chosen([fresh, _taught(0.0, 0.9, 0.4)], [1.0, 0.9])[1] > 0.9
    assert _chosen([fresh, _taught(-2.0, 0.0, 0.3)], [1.0, 0.9])[0] > 0.9


def test_it_stops_where_nothing_can_be_paid_for():
    planner = Planner([Arm(None, 0.0, 0.0), Arm(6, 0.3, 0.5)], STEPS, 4, np.random.default_rng(0))
    planner.learn(Arm(None, 0.0, 0.0), None, torch.tensor([-1.0, 1.0]))
    arm, n = planner.choose({6: torch.tensor([1.0])}, 9)
    assert (arm.level, n) == (6, 2)
    assert planner.choose({6: torch.tensor([1.0])}, 3) is None


def test_a_search_that_plans_itself_is_ahead_of_best_of_n():
    gains = []
    for seed in range(30):
        found = []
        for name, knobs in (("planned_evosearch", {"nfe": 600}), ("best_of_n", {"n": 60})):
            s, rng = sampler(STEPS, seed=seed), torch.Generator().manual_seed(seed)
            found.append(max(float(p.reward.max()) for p in getattr(searches, name)(s, nearness, rng, **knobs)))
        gains.append(found[0] - found[1])
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / len(gains) ** 0.5 > 0


def test_nfe_are_spent_to_the_last_particle_that_fits():
    p = concat(*searches.planned_evosearch(sampler(STEPS), nearness, torch.Generator().manual_seed(0), nfe=333))
    cost = sum(STEPS - (genome[-1].level if genome[-1].op != "prior" else 0) for genome in p.genomes)
    assert 333 - 2 < cost <= 333
    assert {genome[-1].level for genome in p.genomes} <= {0, 2, 4, 6, 8}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nfe": 9}, "nfe must be at least 10, one sample of 10 steps, got 9"),
        ({"levels": (0, 10)}, r"levels must lie in 0..9, since sampling takes 10 steps; got \[0, 10\]"),
        ({"rates": (0.3, 2)}, r"rates must be in \[0, 1\], got 2"),
        ({"brood": 0}, "brood must be at least 1, got 0"),
        ({"parents": 0}, "parents must be at least 1, got 0"),
        ({"finals": 2}, "finals goes with draft_steps"),
        ({"draft_steps": 11}, "draft_steps must be at most 10, the steps of sampling, got 11"),
        ({"draft_steps": 5}, "finals must be at least 1, got 0"),
    ],
)
def test_wrong_knobs_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        searches.planned_evosearch.nfe(STEPS, **{"nfe": 100, **wrong})
