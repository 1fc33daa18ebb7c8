"""Drafts: what a sampler of fewer steps visits, and that winners go on from where they were bred."""

import math
from dataclasses import replace

import pytest
import torch
from vectors import fields, nearness, sampler

import evosearch as es
from evosearch import searches
from evosearch.budget import Budget, Meter
from evosearch.drafts import DraftSampler, drafted, levels_of, rungs_of
from evosearch.genome import replay
from evosearch.metered import MeteredSampler
from evosearch.scoring import score
from evosearch.types import concat

STEPS = 12


@pytest.mark.parametrize(("steps", "drafts", "levels"), [(20, 5, [0, 4, 8, 12, 16, 20]), (10, 4, [0, 2, 5, 8, 10])])
def test_levels_of_a_draft_are_evenly_spread(steps, drafts, levels):
    assert levels_of(steps, drafts) == levels


def test_a_draft_is_the_samplers_own_run_through_fewer_levels():
    s = sampler(STEPS)
    draft, p = DraftSampler(s, 4), s.prior(5)
    end, kept = draft.run(p, 4, keep=(2,), eta=0.5)
    own, own_kept = s.run(p, STEPS, keep=(6,), eta=0.5, through=[3, 6, 9])
    assert (end.i, kept[2].i) == (4, 2)
    assert torch.equal(end.x, own.x)
    assert torch.equal(kept[2].x0, own_kept[6].x0)
    assert draft.cost(p, 4) == 5 * 4
    assert draft.cost(p, 2) == 5 * 2
    assert draft.path.sigma.tolist() == s.path.sigma[::3].tolist()


def test_steps_and_predictions_of_a_draft_are_the_samplers_own():
    s = sampler(STEPS)
    draft = DraftSampler(s, 4)
    p = draft.predict(draft.prior(3))
    stepped = draft.step(p, eta=0.0)
    assert stepped.i == 1
    assert torch.equal(stepped.x, s.step(s.predict(s.rewound().prior(3)), 0.0, to=3).x)
    back = draft.renoise(stepped, 0)
    assert (back.i, back.genomes[0][-1].op) == (0, "renoise")


def _winners(search, s, steps=4, room=5 * STEPS, reward=nearness, **kwargs):
    rng = torch.Generator().manual_seed(0)
    return [p for p in drafted(search, s, reward, rng, steps=steps, room=room, **kwargs) if p.i == STEPS]


def _evolved(s, reward, rng):
    knobs = {"schedule": (1, 3), "sizes": (9, 8, 8), "elites": 0, "parents": 3, "rate": 0.3}
    return searches.evosearch(s, reward, rng, **knobs)


def test_winners_go_on_from_where_they_were_bred():
    """Among children bred at level 9 of 12, the best draft's winner comes from that very state, in the last 3 steps."""
    drafts = []

    def noted(s, reward, rng):
        for p in _evolved(s, reward, rng):
            drafts.append(p)
            yield p

    found = concat(*_winners(noted, sampler(STEPS)))
    pool = concat(*(replace(p, x0=None, eps=None, memory=None) for p in drafts))
    best = pool.id[pool.reward.argmax()].item()
    assert {genome[-1].level for genome in found.genomes} >= {9}
    assert best in found.parent.tolist() + found.id.tolist()
    for k in range(len(found)):
        assert torch.equal(replay(found.genomes[k], sampler(STEPS)).x[0], found.x[k])


@pytest.mark.parametrize("room", [1, 3, 5])
def test_winners_take_the_room_they_are_given(room):
    meter = Meter(Budget(nfe=10**6))
    s = MeteredSampler(sampler(STEPS), meter)
    found = _winners(_evolved, s, room=room * STEPS)
    explored = 9 * 4 + 8 * 3 + 8 * 1
    assert (room - 1) * STEPS < meter.nfe - explored <= room * STEPS
    assert sum(map(len, found)) >= room


@pytest.mark.parametrize(("rungs", "steps"), [(1, [20]), (2, [10, 20]), (3, [8, 13, 20])])
def test_rungs_grow_by_equal_factors(rungs, steps):
    assert rungs_of(20, 5, rungs) == steps


def test_successive_halving_finishes_those_that_finer_drafts_put_first():
    """Of the best by drafts in 3 steps, so many as half the room pays for are drafted in 6; the best of those win."""
    s, noted = sampler(STEPS), []

    def plain(own, reward, rng):
        for p in searches.best_of_n(own, reward, rng, n=24):
            noted.append(p)
            yield p

    room = 3 * STEPS
    found, taken = concat(*_winners(plain, s, steps=3, room=room, rungs=2)), s.computed
    coarse = concat(*noted)
    noises = sampler(STEPS).prior(24)
    finer = score(s.run(noises, STEPS, through=levels_of(STEPS, 6)[1:-1])[0], s, nearness)
    tried = coarse.id[coarse.reward.argsort(descending=True)[: room // 2 // 6]]
    rows = [row for row, id in enumerate(noises.id.tolist()) if id in tried.tolist()]
    expected = [noises.id[row].item() for row in sorted(rows, key=lambda row: -float(finer.reward[row]))]
    assert found.id.tolist() == expected[: len(found)]
    assert len(found) == (room - len(tried) * 6) // STEPS == 1
    assert taken == 24 * 3 + len(tried) * 6 + STEPS


def test_some_are_finished_early_where_there_is_room():
    def yields(room):
        rng = torch.Generator().manual_seed(0)
        search = lambda s, reward, rng: searches.best_of_n(s, reward, rng, n=100)  # noqa: E731
        return [p.i for p in drafted(search, sampler(STEPS), nearness, rng, steps=4, room=room * STEPS)]

    assert STEPS not in yields(3)[:-1]
    early = [k for k, level in enumerate(yields(10)[:-1]) if level == STEPS]
    assert len(early) == 2  # the best of 16 and of 64; the best of 256 would be more than are drawn


def test_what_is_yielded_on_the_way_is_the_best_draft_so_far():
    rng, s = torch.Generator().manual_seed(0), sampler(STEPS, batch_size=4)
    search = lambda s, reward, rng: searches.best_of_n(s, reward, rng, n=12)  # noqa: E731
    ways = [p for p in drafted(search, s, nearness, rng, steps=4, room=STEPS) if p.i < STEPS]
    all_drafts = score(s.run(s.rewound().prior(12), STEPS, through=[3, 6, 9])[0], s, nearness)
    for n, p in zip((4, 8, 12), ways, strict=True):
        assert p.reward.item() == all_drafts.reward[:n].max()
        assert p.id.item() == all_drafts.id[all_drafts.reward[:n].argmax()]
        assert p.i == 0


def test_the_best_sample_is_never_a_draft():
    """A reward that loves drafts: the run's best is a whole sample all the same, whatever drafts had."""
    s = sampler(STEPS, shape=(3, 2, 2), decode=lambda x: (x / 8 + 0.5).clamp(0, 1))
    light = lambda samples, prompts: samples.flatten(1).sum(1)  # noqa: E731
    result = es.search(s, "toy", light, "evosearch", "20x", progress=False)
    assert result.settings["knobs"]["draft_steps"] == 4
    for scored in result.kept:
        p = replay(scored.genome, s, eta=result.settings["eta"])
        assert p.i == STEPS
        assert float(light((s.decode(p) * 255).round() / 255, [])) == pytest.approx(scored.reward, abs=1e-5)
    assert len(result.curve) >= 1


def test_what_a_search_yields_twice_is_finished_once():
    def twice(s, reward, rng):
        for p in searches.best_of_n(s, reward, rng, n=6):
            yield p
            yield p

    found = concat(*_winners(twice, sampler(STEPS), room=6 * STEPS))
    assert len(found) == len(set(found.id.tolist())) == 6


def test_drafts_without_a_reward_are_finished_last():
    def reward(samples):
        judged = nearness(samples)
        return torch.where(judged < judged.median(), judged, math.nan)

    drafts = []

    def noted(s, reward, rng):
        for p in searches.best_of_n(s, reward, rng, n=8):
            drafts.append(p)
            yield p

    (found,) = _winners(noted, sampler(STEPS), room=2 * STEPS, reward=reward)
    pool = concat(*drafts)
    valid = pool.id[pool.reward.isfinite()].tolist()
    assert valid
    assert set(found.id.tolist()) & set(valid)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"of": "particles"}, "of must name a search that varies noises or states and needs no SDE, got 'particles'"),
        ({"of": "drafts"}, "of must name a search .* got 'drafts'"),
        ({"of": "best-of-n"}, "of must name a search .* got 'best-of-n'"),
        ({"m": 3}, "best_of_n has no knob 'm'"),
        ({"draft_steps": 13, "finals": 1, "n": 3}, "draft_steps must be at most 12, the steps of sampling, got 13"),
        ({"draft_steps": None}, "draft_steps must be a whole number, got None"),
        ({"finals": 0}, "finals must be at least 1, got 0"),
    ],
)
def test_drafts_refuse_what_cannot_be_drafted(knobs, message):
    with pytest.raises(ValueError, match=message):
        es.search(sampler(STEPS), "toy", lambda samples, prompts: samples.sum(1), "drafts", "20x", **knobs)


SEARCHES = [
    name for name in searches.__all__
    if name != "drafts"
    and getattr(searches, name).space in ("noise", "trajectory")
    and not {"SDE", "gradient", "grid"} & {*getattr(searches, name).needs}
]  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_that_may_draft_finds_winners_that_are_made_again(name):
    def found():
        s = sampler(STEPS)
        knobs = searches.drafts.fit(STEPS, 40 * STEPS, of=name)
        rng = torch.Generator().manual_seed(0)
        yields = list(searches.drafts(s, nearness, rng, of=name, **knobs))
        return concat(*(p for p in yields if p.i == STEPS))

    winners = found()
    assert fields(winners) == fields(found())
    for k in range(len(winners)):
        assert torch.equal(replay(winners.genomes[k], sampler(STEPS)).x[0], winners.x[k])
