"""Genomes: a particle is made again, bit by bit, from how it came to be."""

import json

import pytest
import torch
from test_sampler import second_order
from vectors import nearness, sampler

from evosearch.genome import from_json, replay, to_json
from evosearch.searches import evosearch
from evosearch.types import concat

KNOBS = {"schedule": (0, 3, 6), "sizes": (4, 5, 5, 4), "rate": 0.3}
CASES = {
    "ode": {},
    "sde": {"eta": 1},
    "inherited noise": {"eta": 1, "inherit_noise": True},
    "paper's mutation": {"eta": 1, "mutation": "additive"},
    "renoise": {"mutation": "renoise", "span": 2, "eta": 0.5},
}


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _evolved(s, rng=None, **knobs):
    return concat(*evosearch(s, nearness, rng or _rng(), **{**KNOBS, **knobs}))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("knobs", CASES.values(), ids=CASES)
def test_every_particle_is_made_again(knobs, order):
    path = second_order(10) if order == 2 else sampler().path
    finished = _evolved(sampler(path=path, batch_size=3), **knobs)
    assert max(map(len, finished.genomes)) >= 3
    for k, genome in enumerate(finished.genomes):
        again = replay(genome, sampler(path=path), eta=knobs.get("eta"))
        assert torch.equal(again.x[0], finished.x[k])
        assert (again.id.item(), again.key.item()) == (finished.id[k].item(), finished.key[k].item())
        assert again.genomes == (genome,)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_seeds_of_sampler_and_search_need_not_agree(seed):
    finished = _evolved(sampler(seed=5), _rng(seed))
    for k, genome in enumerate(finished.genomes):
        assert torch.equal(replay(genome, sampler(seed=9), eta=0).x[0], finished.x[k])


def test_branches_are_made_again():
    s = sampler(eta=1)
    half, _ = s.run(s.prior(2), 4)
    finished, _ = s.run(half.branch([0, 1, 1, 1], _rng()), 10)
    for k, genome in enumerate(finished.genomes):
        assert torch.equal(replay(genome, sampler(eta=1)).x[0], finished.x[k])


def test_until_0_is_the_initial_noise_with_its_mutations():
    finished = _evolved(sampler())
    noises = torch.cat([replay(genome, sampler(), until=0).x for genome in finished.genomes])
    assert torch.equal(noises[:4], sampler().prior(4).x)
    rolled, _ = sampler().run(replay(finished.genomes[5], sampler(), until=0), 10, eta=0)
    assert torch.equal(rolled.x[0], finished.x[5])  # a child of the first generation, bred at level 0


def test_until_is_a_level_on_the_way():
    s = sampler()
    whole = replay(_evolved(s).genomes[-1], s, eta=0)
    half = replay(whole.genomes[0], s, until=7, eta=0)
    assert half.i == 7
    assert torch.equal(s.run(half, 10, eta=0)[0].x, whole.x)


@pytest.mark.parametrize("knobs", CASES.values(), ids=CASES)
def test_json_gives_the_genome_back(knobs):
    for genome in _evolved(sampler(), **knobs).genomes:
        assert from_json(json.loads(json.dumps(to_json(genome)))) == genome
