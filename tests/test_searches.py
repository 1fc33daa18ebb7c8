"""Conformance: what every search keeps to. A new search needs a row in CASES, and no more."""

import functools
import inspect
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vectors import CORNER, curved, fields, gaussian, nearness, sampler

import evosearch as es
from evosearch import searches
from evosearch.budget import Budget, BudgetExhausted, Meter
from evosearch.declaration import nfe_of, rewards_of
from evosearch.genome import from_json, replay, to_json
from evosearch.metered import MeteredSampler
from evosearch.models import BUNDLED, makes_videos
from evosearch.noise import normal
from evosearch.scoring import preview
from evosearch.searches.particles import PRESETS
from evosearch.searches.schedules import explored
from evosearch.selection import top
from evosearch.session import InvalidReward
from evosearch.types import Population, concat

STEPS = 10
EVO = {"schedule": (0, 3, 6), "sizes": (8, 6, 6, 5), "elites": 2}
CASES = [
    ("best_of_n", {"n": 9}, 0.0),
    ("best_of_n", {"n": 9}, 1.0),
    ("best_of_n", {"n": 1}, 0.0),
    ("evosearch", EVO, 0.0),
    ("evosearch", EVO, 1.0),
    ("evosearch", {**EVO, "inherit_noise": True, "mutation": "additive"}, 1.0),
    ("evosearch", {**EVO, "mutation": "renoise", "span": 2}, 0.5),
    ("evosearch", {**EVO, "elites": 0, "tournament": 1, "rate": 1.0, "schedule": (4, 5, 9)}, 0.0),
    ("evosearch", {**EVO, "look": 3, "finish": 3, "child_eta": 1.0, "schedule": (0, 3, 3)}, 0.0),
    ("evosearch", {"schedule": (4, 6), "sizes": (30, 5, 5), "look": 4}, 0.0),
    ("evosearch", searches.evosearch.fit(STEPS, 12 * STEPS), 0.0),
    ("evosearch", {"schedule": (), "sizes": (9,), "look": 3}, 0.0),
    ("evosearch", {"schedule": (), "sizes": (9,), "look": STEPS - 1, "finish": 4}, 0.0),
    ("evosearch", {**EVO, "draft_steps": 5, "finals": 5, "schedule": (0, 2, 4), "child_eta": 1.0}, 0.0),
    ("evosearch", {**EVO, "draft_steps": 7, "finals": 2, "look": 3}, 0.5),
    ("evosearch", {**EVO, "draft_steps": 5, "finals": 2, "schedule": (0, 2, 4), "steered": 4, "steered_from": 2}, 0.0),
    ("paper_evosearch", EVO, 1.0),
    ("paper_evosearch", {**EVO, "late": True}, 1.0),
    ("planned_evosearch", {"nfe": 300, "brood": 4}, 0.0),
    ("planned_evosearch", {"nfe": 90, "levels": (0, 5), "rates": (0.5,), "draft_steps": 6, "finals": 3}, 0.0),
    ("planned_evosearch", {"nfe": 10}, 1.0),
    ("zero_order", {"n": 11}, 0.0),
    ("zero_order", {"n": 1}, 0.0),
    ("trust_region", {"n": 30, "regions": 3, "batch": 5}, 0.0),
    ("trust_region", {"n": 1}, 0.0),
    ("spectral", {"n": 24, "cells": 2, "batch": 6, "elites": 3}, 0.0),
    ("spectral", {"n": 1, "cells": 1}, 0.0),
    ("evolution_strategy", {"n": 24, "cells": 2, "batch": 6}, 0.0),
    ("evolution_strategy", {"n": 15, "cells": 1, "batch": 6, "optimiser": "cma"}, 0.0),
    ("evolution_strategy", {"n": 15, "cells": 1, "batch": 6, "optimiser": "ribs"}, 0.0),
    ("particles", {"n": 8}, 1.0),
    ("particles", {"n": 8, "preset": "fk"}, 1.0),
    ("particles", {"n": 8, "preset": "das"}, 1.0),
    ("particles", {"n": 8, "preset": "svdd", "levels": (0, 2, 9)}, 1.0),
    ("particles", {"n": 1, "levels": ()}, 1.0),
    ("svdd", {"n": 2, "children": 3}, 1.0),
    ("svdd", {"n": 1, "children": 4, "temperature": 0.3}, 1.0),
    ("blockwise", {"n": 2, "children": 3, "block": 4}, 1.0),
    ("blockwise", {"n": 1, "children": 3, "block": 3}, 1.0),
    ("beam", {"beams": 3, "children": 2, "lookahead": 4}, 1.0),
    ("beam", {"beams": 6, "children": 2, "lookahead": 1, "narrowing": True}, 1.0),
    ("beam", {"beams": 1, "children": 1}, 1.0),
    ("epsilon_greedy", {"rounds": 3}, 1.0),
    ("rollover", {"quota": 4, "n": 5}, 1.0),
    ("rollover", {"quota": 1, "n": 1}, 1.0),
    ("demon", {"noises": 4}, 1.0),
    ("demon", {"noises": 4, "lookahead": 1, "weights": "softmax"}, 1.0),
    ("search_over_paths", {"n": 2, "children": 3}, 0.0),
    ("search_over_paths", {"n": 1, "children": 2, "start": 1.0}, 0.0),
    ("backtrack", {"nfe": 95}, 0.0),
    ("backtrack", {"nfe": 95, "threshold": -1.0, "levels": (3, 9)}, 0.0),
    ("tree", {"nfe": 95}, 1.0),
    ("tree", {"nfe": 95, "greedy": False}, 1.0),
    ("drafts", {"n": 9, "draft_steps": 4, "finals": 5}, 0.0),
    ("drafts", {"of": "evosearch", **EVO, "schedule": (0, 2, 4), "draft_steps": 5, "finals": 2}, 1.0),
    ("drafts", {"of": "backtrack", "nfe": 95, "draft_steps": 5, "finals": 3}, 0.0),
    ("drafts", {"n": 9, "draft_steps": 4, "finals": 1, "steered": 5, "steered_from": 1}, 0.0),
    ("drafts", {"of": "trust_region", "n": 30, "regions": 3, "batch": 5, "draft_steps": 3, "finals": 4}, 0.0),
    ("lidar", {"bank": 6, "n": 2, "quick": 4}, 0.0),
    ("reno", {"rounds": 4, "n": 2}, 0.0),
    ("particles", {"n": 6, "guidance": 1.0, "potential": "difference", "ess": 0.5}, 1.0),
]
IDS = [f"{name}-{k}" for k, (name, _, _) in enumerate(CASES)]
EVERY_SEARCH = pytest.mark.parametrize(("name", "knobs", "eta"), CASES, ids=IDS)
BAD = [float("nan"), float("inf"), float("-inf")]
GRID = {"shape": (3, 2, 2)}


def _sampler(name, **kwargs):
    """A sampler of 3-vectors, or of 2x2 pictures for a search that works in space."""
    return sampler(STEPS, **(GRID if "grid" in getattr(searches, name).needs else {}), **kwargs)


def _found(name, knobs, eta, reward=nearness, s=None, seed=0):
    """Every finished particle of a search, in order."""
    rng = torch.Generator().manual_seed(seed)
    reward = _differentiable(reward)
    s = _sampler(name) if s is None else s
    yields = list(getattr(searches, name)(s, reward, rng, eta=eta, **knobs))
    finished = [p for p in yields if p.i == STEPS and p.reward is not None]
    assert finished
    return concat(*finished)


def _differentiable(reward):
    """The same, saying that it has a gradient."""

    def judged(*args):
        return reward(*args)

    judged.differentiable = True
    return judged


def _rewarded(reward, name, knobs, eta):
    """The same search by `evosearch.search`, which takes rewards of samples and prompts."""
    s = sampler(STEPS, shape=(3, 2, 2), decode=lambda x: (x / 8 + 0.5).clamp(0, 1))
    judged = _differentiable(lambda samples, prompts: reward(samples))
    return es.search(s, "toy", judged, getattr(searches, name), eta=eta, progress=False, **knobs)


def _lightness(samples):
    return samples.flatten(1).sum(1)


def test_every_search_is_here():
    public = {name for name, function in vars(searches).items() if inspect.isfunction(function)}
    assert public == set(searches.__all__) == {name for name, _, _ in CASES}


@EVERY_SEARCH
def test_deterministic(name, knobs, eta):
    assert fields(_found(name, knobs, eta)) == fields(_found(name, knobs, eta))
    assert fields(_found(name, knobs, eta)) != fields(_found(name, knobs, eta, s=_sampler(name, seed=1)))


@EVERY_SEARCH
@pytest.mark.parametrize("batch_size", [1, 4])
def test_same_result_for_any_batch_size(name, knobs, eta, batch_size):
    batched = _found(name, knobs, eta, s=_sampler(name, batch_size=batch_size))
    assert fields(batched) == fields(_found(name, knobs, eta))


def _bounds(name, knobs):
    """The least and the most that a search may spend."""
    nfe = getattr(searches, name).nfe(STEPS, **knobs)
    return nfe if isinstance(nfe, tuple) else (nfe, nfe)


@EVERY_SEARCH
def test_nfe_is_what_the_formula_says(name, knobs, eta):
    rows = scored = 0

    def counted(x, alpha, sigma):
        nonlocal rows
        rows += len(x)
        return curved(x, alpha, sigma)

    def reward(samples):
        nonlocal scored
        scored += len(samples)
        return nearness(samples)

    meter = Meter(Budget(nfe=10**6))
    s = _sampler(name, denoise=counted, batch_size=1)  # no padding
    _found(name, knobs, eta, reward, MeteredSampler(s, meter))
    least, most = _bounds(name, knobs)
    assert rows == meter.nfe
    assert least <= meter.nfe <= most
    if least == most:
        assert scored == rewards_of(getattr(searches, name).waves(STEPS, **knobs))


@EVERY_SEARCH
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_budget_is_never_overspent(name, knobs, eta, share):
    spent = Meter(Budget(nfe=10**6))
    _found(name, knobs, eta, s=MeteredSampler(_sampler(name), spent))
    meter = Meter(Budget(nfe=max(1, round(share * spent.nfe) - 1)))
    with pytest.raises(BudgetExhausted):
        _found(name, knobs, eta, s=MeteredSampler(_sampler(name), meter))
    assert meter.nfe <= meter.budget.nfe


@EVERY_SEARCH
def test_the_best_is_the_best_of_all_and_never_falls(name, knobs, eta):
    result = _rewarded(_lightness, name, knobs, eta)
    seen = [reward for generation in result.generations for reward in generation.rewards]
    assert result.best.reward == max(seen)
    assert result.curve[-1][2] == result.best.reward
    for (nfe, _, reward), (later_nfe, _, later) in zip(result.curve, result.curve[1:], strict=False):
        assert nfe <= later_nfe
        assert reward < later


@EVERY_SEARCH
def test_a_constant_reward_is_plain_sampling(name, knobs, eta):
    chance = {"fk", "svdd", "softmax"} & set(map(str, knobs.values())) or "temperature" in knobs
    if chance or name == "search_over_paths":  # which noises states anew, whatever they are worth
        pytest.skip("does not choose by reward alone")
    found = _found(name, knobs, eta, lambda samples: 0 * samples.flatten(1).sum(1))
    s = _sampler(name)
    first = knobs.get("sizes", [knobs.get("n", 1) if name in ("best_of_n", "particles") else 1])[0]
    if "look" in knobs:  # previews that are all alike let the first few pass
        first = searches.evosearch.waves(STEPS, **knobs)[1].particles
    first = knobs.get("finals", first)
    plain, _ = s.run(s.prior(first), STEPS, eta=eta)
    assert torch.equal(found.x[:first], plain.x)
    assert found.reward.eq(0).all()


@EVERY_SEARCH
def test_choices_do_not_depend_on_the_rewards_zero(name, knobs, eta):
    shifted = _found(name, knobs, eta, lambda samples: nearness(samples) + 64)  # exact: rewards are 1/256ths
    if "threshold" in knobs:
        knobs = {**knobs, "threshold": knobs["threshold"] - 64}
    plain = _found(name, knobs, eta)
    assert torch.allclose(shifted.x, plain.x, atol=1e-4)
    assert torch.allclose(shifted.reward, plain.reward + 64, atol=1e-2)


@EVERY_SEARCH
def test_every_particle_is_made_again_from_its_genome(name, knobs, eta):
    found = _found(name, knobs, eta)
    for k in range(0, len(found), 3):
        genome = from_json(json.loads(json.dumps(to_json(found.genomes[k]))))
        assert torch.equal(replay(genome, _sampler(name), eta=eta).x[0], found.x[k])


@EVERY_SEARCH
@pytest.mark.parametrize("bad", BAD)
def test_what_has_no_reward_never_wins(name, knobs, eta, bad):
    seen = []

    def wrong(lightness):
        return (64 * lightness).floor() % 4 == 0

    def flawed(samples):
        lightness = _lightness(samples)
        seen.extend(lightness.tolist())
        return torch.where(wrong(lightness), bad, lightness)

    try:
        result = _rewarded(flawed, name, knobs, eta)
    except InvalidReward:
        assert wrong(torch.tensor(seen[-1]))  # the only sample that was finished
        return
    found = torch.tensor([reward for generation in result.generations for reward in generation.rewards])
    assert found.isnan().sum() <= result.invalid == wrong(torch.tensor(seen)).sum()
    assert result.best.reward == found[~found.isnan()].max()
    assert all(torch.tensor(scored.reward).isfinite() for scored in result.kept)


@EVERY_SEARCH
@settings(derandomize=True, deadline=None, max_examples=10)
@given(rewards=st.lists(st.sampled_from([0.0, 1.0, 1.0, -3e38, 3e38, *BAD]), min_size=1, max_size=7))
def test_rewards_of_any_kind_break_nothing(name, knobs, eta, rewards):
    def fickle(samples):
        nonlocal calls
        calls += len(samples)
        values = [rewards[(calls + k) % len(rewards)] for k in range(len(samples))]
        return 0 * samples.flatten(1).sum(1) + torch.tensor(values)

    calls = 0
    found = _found(name, knobs, eta, fickle)
    assert found.x.isfinite().all()


class Watched:
    """A sampler that remembers every population it was given or gave, as it was then."""

    def __init__(self, own):
        self.own, self.seen = own, []

    def __getattr__(self, name):
        verb = getattr(self.own, name)
        return self._watched(verb) if callable(verb) else verb

    def _watched(self, verb):
        def call(*args, **kwargs):
            result = verb(*args, **kwargs)
            self.seen += [(p, fields(p)) for p in _populations([args, result])]
            return result

        return call


def _populations(value):
    if isinstance(value, Population):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [p for part in value for p in _populations(part)] if isinstance(value, list | tuple) else []


@EVERY_SEARCH
def test_no_population_is_changed_in_place(name, knobs, eta):
    watched = Watched(_sampler(name))
    _found(name, knobs, eta, s=watched)
    assert watched.seen
    assert all(fields(p) == before for p, before in watched.seen)


EVERY_NAME = pytest.mark.parametrize("name", searches.__all__)


@EVERY_NAME
@pytest.mark.parametrize(
    "limit", [{"nfe": 150}, {"reward_calls": 40}, {"seconds": 0.3}], ids=lambda limit: next(iter(limit))
)
def test_a_budget_of_any_kind_ends_with_the_best_finished_sample(name, limit):
    s = sampler(STEPS, shape=(3, 4, 4), decode=lambda x: (x / 8 + 0.5).clamp(0, 1), batch_size=4)
    judged = _differentiable(lambda samples, prompts: _lightness(samples))
    result = es.search(s, "toy", judged, name, es.Budget(**limit), progress=False)
    best = replay(result.best.genome, s, eta=result.settings["eta"])
    assert best.i == STEPS
    shown = torch.tensor(np.asarray(result.best.sample).copy()).movedim(-1, 0)
    assert torch.equal((s.decode(best)[0] * 255).round().int(), shown.int())
    assert result.cost.nfe <= limit.get("nfe", 10**9)
    assert result.cost.reward_calls <= limit.get("reward_calls", 10**9)
    assert result.cost.seconds <= 0.3 + 1.0 if "seconds" in limit else True


# That they search


STEERED = [
    ("evosearch", {"schedule": (0, 3, 6), "sizes": (20, 20, 20, 20)}, 0.0),
    ("paper_evosearch", {"schedule": (0, 3, 6), "sizes": (20, 20, 20, 20)}, 1.0),
    ("zero_order", {"n": 80}, 0.0),
    ("trust_region", {"n": 80, "regions": 5}, 0.0),
    ("spectral", {"n": 80, "cells": 2}, 0.0),
    ("evolution_strategy", {"n": 80, "cells": 2}, 0.0),
    ("evolution_strategy", {"n": 40, "cells": 2, "optimiser": "ribs"}, 0.0),
    *(("particles", {"n": 40, "preset": preset}, 1.0) for preset in PRESETS),
    ("particles", {"n": 40, "preset": "das", "guidance": 1.0, "levels": ()}, 1.0),
    ("svdd", {"n": 10, "children": 4}, 1.0),
    ("blockwise", {"n": 10, "children": 4, "block": 3}, 1.0),
    ("beam", {"beams": 5, "children": 4, "lookahead": 2}, 1.0),
    ("epsilon_greedy", {"rounds": 4}, 1.0),
    ("rollover", {"quota": 8}, 1.0),
    ("demon", {"noises": 8}, 1.0),
    ("search_over_paths", {"n": 5}, 0.0),
    ("backtrack", {"nfe": 300}, 0.0),
    ("tree", {"nfe": 300}, 1.0),
    ("lidar", {"bank": 40, "n": 10}, 0.0),
    ("reno", {"rounds": 20, "n": 3}, 0.0),
]


def _closeness(samples):
    """`nearness` with a gradient."""
    samples = samples.flatten(2).mean(2) if samples.ndim > 2 else samples
    return -(samples - CORNER).square().sum(1)


@pytest.mark.parametrize(("name", "knobs", "eta"), STEERED)
def test_what_a_search_comes_to_is_where_the_reward_is(name, knobs, eta):
    """Not the best alone, which is the best of whatever is drawn: the later half of all, sent up and sent down."""

    def mean(sign, seed):
        found = _found(name, knobs, eta, lambda samples: sign * _closeness(samples), _sampler(name, seed=seed), seed)
        return sign * float(found.reward[len(found) // 2 :].mean())

    apart = torch.tensor([mean(1, seed) - mean(-1, seed) for seed in range(6)])
    assert apart.mean() > 3 * apart.std() / len(apart) ** 0.5


BRED = [case for case in STEERED if case[0] in ("evosearch", "paper_evosearch", "zero_order", "trust_region")]


@pytest.mark.parametrize(("name", "knobs", "eta"), BRED)
def test_no_parent_is_invalid_where_another_is_valid(name, knobs, eta):
    def flawed(samples):
        reward = nearness(samples)
        return torch.where((64 * samples.sum(1)).floor() % 4 > 0, float("nan"), reward)  # three of four

    found = _found(name, knobs, eta, flawed)
    reward = dict(zip(found.id.tolist(), found.reward.tolist(), strict=True))
    first = found.reward.isfinite().tolist().index(True)
    known = found.parent[first + 20 :].tolist()  # a batch later at the latest
    parents = [reward[parent] for parent in known if parent in reward]
    assert found.reward.isnan().float().mean() > 0.3
    assert len(parents) > 20 and torch.tensor(parents).isfinite().all()


# On the bundled pipelines


@pytest.fixture(scope="module")
def bundled():
    return functools.cache(es.load)


@EVERY_NAME
@pytest.mark.parametrize("model", BUNDLED)
def test_every_search_runs_on_every_bundled_pipeline(bundled, name, model):
    def judged(samples, prompts):
        return samples.flatten(1).mean(1)

    judged.differentiable = True
    pipe = bundled(model)
    prompt = "a red circle moves left" if makes_videos(pipe) else "a red circle"
    result = es.search(pipe, prompt, judged, name, 30, steps=3, batch_size=4, progress=False)
    assert 3 <= result.cost.nfe <= 30
    frames = result.best.sample if makes_videos(pipe) else [result.best.sample]
    shown = np.stack([np.asarray(frame) for frame in frames]) / 255
    assert result.best.reward == pytest.approx(shown.mean(), abs=1e-5)
    assert result.best.reward >= result.curve[0][2]


# Particles


def _weights(reward, **knobs):
    s = sampler(STEPS)
    *_, p = searches.particles(s, reward, torch.Generator().manual_seed(0), n=8, **knobs)
    return p.log_weight


@pytest.mark.parametrize("potential", ["current", "difference", "max"])
def test_a_level_whose_previews_are_all_invalid_says_nothing(potential):
    """As a detector has it that finds nothing in early previews: what comes later steers as if it were the first."""

    def blind_at_first(samples):
        nonlocal calls
        calls += 1
        return nearness(samples) * (float("nan") if calls == 1 else 1.0)

    calls = 0
    knobs = {"potential": potential, "resampling": "systematic", "tempering": "constant", "ess": 0.9}
    late = _weights(blind_at_first, levels=(2, 5), **knobs)
    alone = _weights(nearness, levels=(5,), **knobs)
    assert late.isfinite().all()
    assert torch.allclose(late, alone)


def test_what_the_best_is_taken_by_follows_the_potential():
    def smallness(samples):  # which previews lose on their way
        return -samples.square().sum(1)

    knobs = {"n": 8, "preset": "svdd", "levels": tuple(range(STEPS))}
    current, highest = (_found("particles", {**knobs, "potential": p}, 1.0, smallness).x for p in ("current", "max"))
    assert not torch.equal(current, highest)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_stands_for_its_settings(preset):
    assert torch.equal(_weights(nearness, preset=preset), _weights(nearness, **PRESETS[preset]))


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("particles", {"n": 4, "preset": "fks"}, "preset must be one of fk, das, svdd, bfs, got 'fks'"),
        ("particles", {"n": 4, "guidance": 1.0}, "reward must be differentiable for particles with guidance"),
        ("evolution_strategy", {"n": 8, "batch": 3}, "batch must be at least 4, got 3"),
        ("tree", {"nfe": 50, "width": 0.5}, "width must be a number from 1, got 0.5"),
        ("tree", {"nfe": 50, "growth": 0.1}, "growth must be a number from 0.25 to 1, got 0.1"),
    ],
)
def test_wrong_knobs(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        list(getattr(searches, name)(sampler(STEPS), nearness, torch.Generator(), **knobs))


def test_an_optimiser_of_a_single_number_is_refused():
    with pytest.raises(ValueError, match="cells must leave an optimiser at least 2 numbers to vary, got 1"):
        _found("evolution_strategy", {"n": 8, "cells": 1}, 0.0, s=sampler(STEPS, shape=(1, 4, 4)))


@pytest.mark.parametrize(("quick", "answers"), [(4, 2), (STEPS, 8), (STEPS + 5, 8)])
def test_a_bank_of_whole_samples_is_an_answer(quick, answers):
    found = _found("lidar", {"bank": 6, "n": 2, "quick": quick}, 0.0)
    assert len(found) == answers
    s = _sampler("lidar")
    s.prior(2)  # those that are guided come first
    bank, _ = s.run(s.prior(6), STEPS, eta=0.0)
    assert torch.equal(found.x[:6], bank.x) == (answers == 8)


def test_epsilon_is_the_share_of_fresh_noises_from_the_first_round_on():
    """Without fresh ones all candidates of a step lie around the particle's own noise."""

    def spread(epsilon):
        seen, s = [], sampler(STEPS)
        step = s.step
        s.step = lambda p, eta, noise=None: (noise is not None and seen.append(noise), step(p, eta, noise))[1]
        knobs = {"rounds": 1, "candidates": 50, "epsilon": epsilon, "radius": 0.01}
        list(searches.epsilon_greedy(s, nearness, torch.Generator().manual_seed(0), **knobs))
        return float(torch.stack(seen).std(1).mean())

    assert spread(0.0) < 0.02 < 0.8 < spread(1.0)


def test_a_region_widens_with_success_and_narrows_with_failure():
    centres, tried = (sampler(STEPS).prior(n) for n in (3, 4))
    centres = replace(centres, reward=torch.tensor([0.0, 0.0, 0.0]))
    tried = replace(tried, reward=torch.tensor([1.0, -1.0, -1.0, float("nan")]))
    streak, widths = torch.tensor([2, -2, 2]), torch.tensor([0.8, 0.8, 0.8])
    region = torch.tensor([0, 1, 0, 1])
    streak, widths = sys.modules["evosearch.searches.trust_region"]._adapted(streak, widths, centres, tried, region)
    assert widths.tolist() == pytest.approx([0.8 * 1.5, 0.8 / 1.5, 0.8])
    assert streak.tolist() == [0, 0, 2]  # the third region was not tried


def test_regions_take_turns_over_the_batches():
    s, seen = sampler(STEPS), []
    run = s.run
    s.run = lambda p, *args, **kwargs: (seen.append(p), run(p, *args, **kwargs))[1]
    reward = {"n": 45, "regions": 5, "batch": 3, "warm_up": 0.4}
    list(searches.trust_region(s, lambda x: -x.flatten(1).square().sum(1) * 0, torch.Generator(), **reward))
    parents = torch.cat([p.parent for p in seen[1:]]).tolist()
    assert sorted(parents.count(k) for k in set(parents)) == [5, 5, 5, 6, 6]


def test_a_given_quota_leaves_the_noises_what_is_over():
    assert searches.rollover.fit(10, 100, quota=11) == {"n": 1}
    assert searches.rollover.fit(10, 110, quota=11) == {"n": 11}


# From an image


@pytest.mark.parametrize("name", ["spectral", "evolution_strategy", "zero_order", "trust_region", "reno"])
def test_the_image_that_a_pipeline_starts_from_is_not_searched(name):
    s = sampler(STEPS, shape=(3, 8, 8))
    s.start = lambda z: 5 + 0.5 * z
    starts = []
    run = s.run
    s.run = lambda p, *args, **kwargs: (starts.append(p.x), run(p, *args, **kwargs))[1]
    knobs = {"rounds": 20, "n": 3} if name == "reno" else {"n": 60}
    _found(name, knobs, 0.0, lambda samples: 0.01 * samples.flatten(1).square().sum(1), s=s)
    starts = torch.cat(starts).detach()
    assert starts.mean() == pytest.approx(5, abs=0.2)
    assert starts.std() == pytest.approx(0.5, abs=0.15)


# EvoSearch as in its paper


def test_the_papers_children_are_its_equations_seven_and_eight():
    """At the noise a mixture; in between, the next step's spread on top of the parent's state."""
    s, seen = sampler(STEPS, eta=1.0), []
    run = s.run
    s.run = lambda p, *args, **kwargs: (seen.append(p), run(p, *args, **kwargs))[1]
    knobs = {"schedule": (0, 4), "sizes": (6, 6, 6), "elites": 2, "rate": 0.3, "rivals": 0.1}
    list(searches.paper_evosearch(s, nearness, torch.Generator().manual_seed(0), **knobs))
    first, second, third = seen
    assert (first.i, second.i, third.i) == (0, 0, 4)
    z = normal(0, second.id, 0, "mutation", (3,))
    parents = first.x[[first.id.tolist().index(k) for k in second.parent[2:].tolist()]]
    assert torch.allclose(second.x[2:], (1 - 0.3**2) ** 0.5 * parents + 0.3 * z[2:])
    _, states = run(second, STEPS, keep=(4,), eta=1.0)
    _, earlier = run(first, STEPS, keep=(4,), eta=1.0)
    pool = concat(earlier[4], states[4])
    parents = pool.x[[pool.id.tolist().index(k) for k in third.parent[2:].tolist()]]
    z = normal(0, third.id, 4, "mutation", (3,))
    assert torch.allclose(third.x[2:], parents + s.path.tau(4, 1.0) * z[2:])


def test_the_released_code_resumes_states_one_step_late():
    starts = {}
    for late in (False, True):
        s, seen = sampler(STEPS, eta=1.0), []
        run = s.run
        s.run = lambda p, *args, seen=seen, run=run, **kwargs: (seen.append(p), run(p, *args, **kwargs))[1]
        knobs = {"schedule": (4,), "sizes": (6, 6), "elites": 5, "late": late}
        list(searches.paper_evosearch(s, nearness, torch.Generator().manual_seed(0), **knobs))
        starts[late] = seen[1]
        _, passed = run(seen[0], STEPS, keep=(4, 5), eta=1.0)
        states = passed[4 + late].x
        assert all((states == x).all(1).any() for x in starts[late].x[:5])  # the elites
    assert starts[True].i == starts[False].i == 4


# What fits a budget


@pytest.mark.parametrize("name", searches.__all__)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 28, 50])
def test_fitted_knobs_fill_the_budget(name, steps):
    search = getattr(searches, name)
    smallest = next(b for b in range(1, 20 * steps) if _fits(search, steps, b))
    for budget in [smallest, *range(20 * steps, 200 * steps, 7 * steps + 3), 5000, 20_000]:
        cost = nfe_of(search.waves(steps, **search.fit(steps, budget)))
        assert cost <= budget
        # A search that grows in several directions cannot fill every budget; some have nothing to search in one step.
        assert cost > min(budget - smallest, 0.8 * budget) or steps == 1
    with pytest.raises(ValueError, match=f"budget must be at least {smallest} NFE.* got {smallest - 1}$"):
        search.fit(steps, smallest - 1)


def _fits(search, steps, budget):
    try:
        return bool(search.fit(steps, budget))
    except ValueError:
        return False


def test_a_search_of_the_smallest_budget_runs():
    assert len(_found("evosearch", searches.evosearch.fit(STEPS, STEPS), 0.0)) == 1
    assert len(_found("paper_evosearch", searches.paper_evosearch.fit(STEPS, 6 * STEPS), 1.0)) == 6


@pytest.mark.parametrize("n", [0, -1])
def test_best_of_n_refuses_to_draw_nothing(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        searches.best_of_n.nfe(STEPS, n=n)


# EvoSearch


def test_the_papers_sd21_command_costs_5000():
    knobs = {"schedule": (0, 20, 30, 40), "sizes": (42, 26, 26, 26, 30), "elites": 0}
    assert searches.evosearch.nfe(50, **knobs) == 5000


def test_elites_are_free():
    knobs = {"schedule": (0, 4), "sizes": (10, 8, 6)}
    assert searches.evosearch.nfe(STEPS, **knobs, elites=3) == 10 * 10 + (8 - 3) * 10 + (6 - 3) * 6
    assert searches.evosearch.nfe(STEPS, **knobs, elites=3, mutation="renoise", span=2) == 100 + 5 * 10 + 3 * 8


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_first_population_is_best_of_n(eta):
    evolved = _found("evosearch", {"schedule": (0,), "sizes": (9, 2)}, eta)
    assert torch.equal(evolved.x[:9], _found("best_of_n", {"n": 9}, eta).x)


def _equal_to_parents(eta, **knobs):
    """For each child, bred at noise or in between, whether it ended where its parent did."""
    found = _found("evosearch", {"schedule": (0, 4, 7), "sizes": (6, 6, 6, 6), **knobs}, eta)
    state = dict(zip(found.id.tolist(), found.x, strict=True))
    born = [(x, state[parent]) for x, parent in zip(found.x, found.parent.tolist(), strict=True) if parent != -1]
    assert len(born) == 15
    return [torch.equal(child, parent) for child, parent in born]


@pytest.mark.parametrize(
    "knobs", [{"eta": 0.0}, {"eta": 0.0, "inherit_noise": True}, {"eta": 1.0, "inherit_noise": True}]
)
def test_at_rate_0_children_equal_their_parents(knobs):
    assert all(_equal_to_parents(rate=0.0, **knobs))


@pytest.mark.parametrize(
    "knobs",
    [{"rate": 0.0, "eta": 1.0}, {"rate": 0.3, "eta": 0.0}, {"mutation": "renoise", "span": 1, "eta": 0.0}],
)
def test_new_noise_makes_children_differ(knobs):
    assert not any(_equal_to_parents(**knobs))


def test_children_come_near_their_parents():
    def distance(rate):
        found = _found("evosearch", {"schedule": (0,), "sizes": (50, 50), "rate": rate}, 0.0)
        state = dict(zip(found.id.tolist(), found.x, strict=True))
        children = [k for k, parent in enumerate(found.parent.tolist()) if parent != -1]
        return torch.stack([(found.x[k] - state[int(found.parent[k])]).norm() for k in children]).mean()

    assert distance(0.05) < distance(0.2) < distance(0.8)


def test_parents_are_chosen_by_reward():
    found = _found("evosearch", {"schedule": (0,), "sizes": (40, 40), "tournament": 40}, 0.0)
    best = found.id[found.reward[:40].argmax()]
    assert found.parent[40:].eq(best).all()


def test_elites_of_earlier_generations_still_breed():
    def reward(samples: Tensor) -> Tensor:  # the first population alone is any good
        nonlocal calls
        calls += 1
        return nearness(samples) - 1000 * (calls > 1)

    calls = 0
    found = _found("evosearch", {"schedule": (0, 4), "sizes": (6, 6, 6), "tournament": 11, "elites": 1}, 0.0, reward)
    best = found.id[found.reward.argmax()]
    assert found.parent[6:].eq(best).all()


@pytest.mark.parametrize("child_eta", [None, 1.0])
def test_the_first_population_is_culled_by_its_previews(child_eta):
    s, n = sampler(STEPS), 20
    seen = preview(s.run(s.prior(n), 6, eta=0.0)[0], s, nearness)
    best = seen[top(seen.reward, 4)]
    knobs = {"schedule": (2, 6), "sizes": (n, 3, 3), "look": 6, "finish": 4, "child_eta": child_eta}
    found = _found("evosearch", knobs, 0.0)
    assert found.id[:4].equal(best.id)
    assert torch.equal(found.x[:4], s.run(best, STEPS, eta=0.0)[0].x)
    assert {*found.parent[4:].tolist()} <= {*found.id.tolist()}
    assert searches.evosearch.nfe(STEPS, **knobs) == n * 7 + 4 * 3 + 2 * 8 + 2 * 4


def test_fitted_knobs_leave_room_for_those_that_finish():
    knobs = {"look": 3, "finish": 20, "schedule": (6,), "elites": 1}
    fitted = searches.evosearch.fit(STEPS, 600, **knobs)
    assert fitted["sizes"][0] >= 20
    assert 600 - 4 < searches.evosearch.nfe(STEPS, **knobs, **fitted) <= 600  # one more would cost 4


@pytest.mark.parametrize("steps", [8, 20, 28, 50])
@pytest.mark.parametrize("times", [1, 2, 3, 5, 10, 30, 100, 1000])
def test_a_schedule_by_budget_spends_it(steps, times):
    knobs = searches.evosearch.fit(steps, times * steps)
    waves = searches.evosearch.waves(steps, **knobs)
    assert 0.92 * times * steps <= nfe_of(waves) <= times * steps
    assert len(knobs["schedule"]) <= 113  # of 8 children each while there are fewer than 900
    if times == 1:
        assert knobs == {"schedule": [], "sizes": [1]}
        return
    drafts, finals, steered = knobs["draft_steps"], knobs["finals"], knobs.get("steered", 0)
    assert drafts == max(4, round(steps / 4))
    assert steered == (round((0.4 if times < 50 else 0.6) * times) if times >= 10 else 0)
    assert finals == max(1, round((times - steered) / 5))
    assert [wave.particles for wave in waves[-2:] if wave.steps == steps] == (
        [finals, steered] if steered else [finals]
    )
    room = (times - finals - steered) * steps
    assert explored(drafts, room) == pytest.approx(max(0.3, min(1.0, 7 * drafts / room)))
    assert 0 <= explored(drafts, room) * room - nfe_of(waves[:1]) < drafts


@pytest.mark.parametrize(("given", "levels"), [({}, [2]), ({"steered": 0}, [2, 3, 4])])
def test_each_level_of_a_schedule_by_budget_gets_as_much_in_generations_as_large(given, levels):
    knobs = searches.evosearch.fit(20, 20_000, **given)
    spent, sizes = dict.fromkeys(knobs["schedule"], 0), {level: [] for level in knobs["schedule"]}
    for level, size in zip(knobs["schedule"], knobs["sizes"][1:], strict=True):
        spent[level] += size * (5 - level)
        sizes[level].append(size)
    assert [*spent] == levels
    assert max(spent.values()) - min(spent.values()) < 5
    assert all(max(found) - min(found) <= 1 for found in sizes.values())


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 0.1, "elites": 2},
        {"tournament": 2},
        {"parents": 1, "child_eta": 0.5},
        {"draft_steps": None},
        {"draft_steps": 3, "finals": 9},
        {"steered": 0},
        {"steered": 9, "steered_from": 1},
    ],
)
def test_a_schedule_by_budget_goes_with_what_the_user_says(given):
    fitted = searches.evosearch.fit(STEPS, 30 * STEPS, **given)
    assert not fitted.keys() & given.keys()
    assert 0.95 * 30 * STEPS < nfe_of(searches.evosearch.waves(STEPS, **fitted, **given)) <= 30 * STEPS
    assert (fitted.get("parents") is None) == bool(given.keys() & {"tournament", "parents"})
    assert (fitted.get("draft_steps") is None) == ("draft_steps" in given)
    _found("evosearch", {**fitted, **given}, 0.0)


@pytest.mark.parametrize("given", [{"schedule": [0, 5]}, {"look": None}, {"mutation": "renoise", "span": 1}])
def test_the_papers_rules_hold_where_the_user_says_when(given):
    fitted = {"schedule": None, **searches.evosearch.fit(STEPS, 60 * STEPS, **given), **given}
    assert fitted["sizes"][0] >= 2 * fitted["sizes"][1] == 2 * fitted["sizes"][-1]
    assert fitted["schedule"][0] == 0
    assert "parents" not in fitted


def test_models_of_few_steps_get_the_papers_rules_or_samples():
    assert searches.evosearch.fit(4, 12) == {"schedule": [], "sizes": [3]}
    assert searches.evosearch.fit(4, 400)["schedule"] == [0, 1, 2, 3]


def test_the_best_of_all_seen_at_a_level_breed_in_turn():
    knobs = {"schedule": (2, 2, 6), "sizes": (12, 7, 7, 7), "parents": 3, "rate": 0.2}
    found = _found("evosearch", knobs, 0.0)
    assert found.reward is not None
    for start in (12, 18, 24):
        best = found.id[top(found.reward[:start], 3)].tolist()
        if start == 24:  # who was bred at level 2 has passed 6 as well
            assert any(id in found.id[12:24].tolist() for id in best)
        assert found.parent[start : start + 6].tolist() == best * 2


def test_the_plan_in_words():
    def said(times, steps=20, **given):
        knobs = searches.evosearch.fit(steps, times * steps, **given) | given
        return searches.evosearch.plan(steps, given, **knobs)

    assert said(1) == "At 1x one sample nothing is left to breed with, and all goes into new noises: 1 sample."
    assert said(5) == (
        "At 5x one sample new noises gain most, and get 44% of what explores: 7 drafts in 5 of 20 steps; then 28 "
        "children in 4 generations, bred at level 2, 3, 4 of 5; the NFE of 1 sample finish the best."
    )
    assert said(100) == (
        "At 100x one sample children gain most, and get 70% of what explores: 38 drafts in 5 of 20 steps; then 150 "
        "children in 18 generations, bred at level 2 of 5; the NFE of 8 samples finish the best, and those of 60 "
        "steer one from level 8 of 20."
    )
    assert said(30, draft_steps=None).startswith(
        "At 30x one sample children gain most, and get 70% of what explores: 9 s"
    )
    assert (
        said(30, sizes=[4, 2], schedule=[4], parents=2)
        == "4 samples; then 1 child in 1 generation, bred at level 4 of 20."
    )
    assert said(30, tournament=2).startswith("At 30x one sample")
    assert said(2, steps=4) == "2 samples."
    looked = {"schedule": (), "sizes": (9,), "look": 3, "finish": 2}
    assert searches.evosearch.plan(20, looked, **looked) == "9 samples, looked at after 3 of 20 steps, 2 finished."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"schedule": [1, 2], "draft_steps": 5},
            r"draft_steps goes with both schedule and sizes, .* got \['schedule'\]",
        ),
        ({"draft_steps": 0}, "draft_steps must be at least 1, got 0"),
        ({"finals": "many"}, "finals must be a whole number of at least 1, got 'many'"),
    ],
)
def test_drafts_that_cannot_be_fitted_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        searches.evosearch.fit(20, 2000, **given)


def test_selection_moves_the_mean_and_chance_does_not():
    size, s = 400, sampler(STEPS, gaussian(1.0))
    knobs = {"schedule": (0,), "sizes": (size, size), "elites": 0, "rate": 0.15}
    for tournament, moves in ((3, True), (1, False)):
        reward = _found("evosearch", {**knobs, "tournament": tournament}, 0.0, s=s).reward
        gain, error = reward[size:].mean() - reward[:size].mean(), reward.std() * (2 / size) ** 0.5
        assert (gain > 5 * error) == moves


GOOD = {"schedule": (0, 4), "sizes": (8, 6, 6)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": ()}, "sizes must have one more entry than schedule, .* expected 1, got 3"),
        ({"schedule": (5, 2)}, r"schedule must be levels none of which is below the one before, got \[5, 2\]"),
        ({"schedule": (0, 10)}, r"schedule must lie in 0..9, since sampling takes 10 steps; got \[0, 10\]"),
        ({"schedule": (-1, 4)}, r"schedule must lie in 0..9"),
        ({"sizes": (8, 6)}, "sizes must have one more entry than schedule, .* expected 3, got 2"),
        ({"sizes": (0, 6, 6)}, "the first of sizes must be at least 1, got 0"),
        ({"elites": 6}, r"elites must be below every later population, .* got 6 with sizes \[8, 6, 6\]"),
        ({"elites": -1}, "elites must be at least 0, got -1"),
        ({"rate": 1.1}, r"rate must be in \[0, 1\], got 1.1"),
        ({"parents": 0}, "parents must be at least 1, got 0"),
        ({"finals": 2}, "finals goes with draft_steps, whose winners it finishes; got finals=2 alone"),
        ({"draft_steps": 11, "finals": 2}, "draft_steps must be at most 10, the steps of sampling, got 11"),
        ({"draft_steps": 5}, "finals must be at least 1, got 0"),
        ({"draft_steps": 5, "finals": 9}, "finals must be at most the first of sizes, 8, got 9"),
        ({"tournament": 0}, "tournament must be at least 1, got 0"),
        ({"mutation": "flip"}, "mutation must be one of level_preserving, additive, renoise, got 'flip'"),
        ({"mutation": "renoise"}, "span must be at least 1 for mutation='renoise', got 0"),
        ({"look": 0}, "look must be at least 1, got 0"),
        ({"look": 10}, "look must be a level from 1 to 9, since sampling takes 10 steps; got 10"),
        ({"look": 3, "finish": 9}, "finish must be at most the first of sizes, 8, got 9"),
        ({"finish": 2}, "finish goes with look, the level of the previews that decide; got finish=2 alone"),
        ({"child_eta": 2.0}, r"child_eta must be in \[0, 1\], got 2.0"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        searches.evosearch.nfe(STEPS, **{**GOOD, **wrong})
    with pytest.raises(ValueError, match=message):
        _found("evosearch", {**GOOD, **wrong}, 0.0)


@pytest.mark.parametrize("knobs", [{}, {"look": 4, "finish": 150}, {"parents": 4}])
def test_large_populations_of_evosearch_go_in_waves_that_change_nothing(monkeypatch, knobs):
    module = sys.modules["evosearch.searches.evosearch"]

    def found(wave):
        monkeypatch.setattr(module, "_WAVE", wave)
        rng, s = torch.Generator().manual_seed(0), sampler(10, batch_size=8)
        sizes = {"schedule": (0, 5), "sizes": (200, 21, 11), **knobs}
        return [p for p in searches.evosearch(s, nearness, rng, **sizes) if p.i == 10]

    whole, parts = found(1000), found(60)
    first = 150 if "look" in knobs else 200
    assert [len(p) for p in whole] == [first, 20, 10]
    assert [len(p) for p in parts] == [64] * (first // 64) + [first % 64, 20, 10]
    assert torch.equal(concat(*whole).x, concat(*parts).x)
    assert concat(*whole).id.tolist() == concat(*parts).id.tolist()
