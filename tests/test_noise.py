"""Keyed noise, and the keys that branching and breeding give."""

from itertools import combinations

import pytest
import torch
from vectors import sampler

from evosearch.noise import normal, seed_of
from evosearch.types import concat

SIZE = 20_000


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_seeds_are_those_of_every_earlier_release():
    assert seed_of(0, 1, 2, "prior") == 398302964168170685
    assert seed_of(7, "particle", 0) == 3414473192198573614


@pytest.mark.parametrize("shape", [(4,), (3, 8, 8), (16, 3, 4, 4)])
def test_noise_of_an_event_is_the_stream_of_its_own_generator(shape):
    noise = normal(0, torch.tensor([1, 5]), 2, "step", shape)
    for row, key in zip(noise, (1, 5), strict=True):
        assert torch.equal(row, torch.randn(shape, generator=_rng(seed_of(0, key, 2, "step"))))


def test_noise_is_the_same_in_every_release():
    small, large = (normal(0, torch.tensor([1]), 2, "prior", shape)[0].flatten() for shape in [(4,), (3, 8, 8)])
    assert small.tolist() == pytest.approx([0.2277275, 0.9759875, -1.1457829, 0.1804724])
    assert large[:4].tolist() == pytest.approx([1.331172, -0.5789805, -0.5038241, 0.5614811])


def test_noise_depends_on_neither_batch_nor_order():
    keys = torch.arange(7) * 12345
    together = normal(3, keys, 4, "step", (5,))
    alone = torch.cat([normal(3, key[None], 4, "step", (5,)) for key in keys])
    backwards = normal(3, keys.flip(0), 4, "step", (5,)).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_events_that_differ_in_anything_have_independent_unit_noise():
    events = [(0, 1, 2, "step"), (9, 1, 2, "step"), (0, 8, 2, "step"), (0, 1, 7, "step"), (0, 1, 2, "mutation")]
    noises = [normal(seed, torch.tensor([key]), level, purpose, (SIZE,))[0] for seed, key, level, purpose in events]
    for z in noises:
        assert abs(z.mean()) < 5 / SIZE**0.5
        assert abs(z.var() - 1) < 5 * (2 / SIZE) ** 0.5
    for a, b in combinations(noises, 2):
        assert abs((a * b).mean()) < 5 / SIZE**0.5


def test_selecting_keeps_who_a_particle_is():
    p = sampler().prior(3)
    copies = p[[1, 1]]
    assert copies.key.tolist() == copies.id.tolist() == [int(p.key[1])] * 2
    assert torch.equal(p.repeat(2).key, p[[0, 0, 1, 1, 2, 2]].key)


def test_branch_renames_every_copy_but_the_first():
    p = sampler().prior(3)
    q = p.branch([2, 0, 2, 2], _rng())
    assert q.key[:2].tolist() == p.key[[2, 0]].tolist()
    assert q.parent.tolist() == [-1, -1, int(p.id[2]), int(p.id[2])]
    assert len(set(q.key.tolist())) == len(set(q.id.tolist())) == 4
    assert [len(genome) for genome in q.genomes] == [1, 1, 2, 2]
    assert torch.equal(q.x, p.x[[2, 0, 2, 2]])


def test_branched_copies_part_under_the_sde():
    s = sampler(eta=1)
    p = s.prior(1)
    copies, _ = s.run(p[[0, 0]], 5)
    branches, _ = s.run(p.branch([0, 0], _rng()), 5)
    assert torch.equal(copies.x[0], copies.x[1])
    assert not torch.equal(branches.x[0], branches.x[1])
    assert torch.equal(branches.x[0], copies.x[0])


@pytest.mark.parametrize("inherit", [True, False])
def test_the_born_have_new_names_and_may_inherit_their_noise(inherit):
    p = sampler().prior(3)
    children = p.born("additive", _rng(), inherit_noise=inherit, rate=0.5)
    assert torch.equal(children.parent, p.id)
    assert not set(children.id.tolist()) & set(p.id.tolist())
    assert torch.equal(children.key, p.key if inherit else children.id)
    gene = children.genomes[0][-1]
    assert (gene.op, gene.level, gene.id, gene.key) == ("additive", 0, int(children.id[0]), int(children.key[0]))
    assert gene.rate == 0.5


def test_populations_refuse_rows_that_do_not_match_and_levels_that_differ():
    s = sampler()
    p = s.prior(2)
    with pytest.raises(ValueError, match="reward must have one row a particle: expected 2, got 3"):
        p.moved(p.x, reward=torch.zeros(3))
    with pytest.raises(ValueError, match=r"populations of one level, got levels \[0, 1\]"):
        concat(p, s.step(s.predict(p)))
    with pytest.raises(TypeError, match="use p"):
        p[0]
