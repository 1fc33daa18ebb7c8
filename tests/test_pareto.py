"""Several rewards of which none weighs more: the front that a search keeps, and who may search for one."""

from __future__ import annotations

import pytest
import torch
import toy

import evosearch as es
from evosearch import searches
from evosearch.selection import fronts

ABLE = [name for name in searches.__all__ if getattr(searches, name).pareto]


def left(samples, prompts):
    """Light on the left, and dark at the top."""
    return samples[..., :8].flatten(1).mean(1) - samples[..., :8, :].flatten(1).mean(1)


def top(samples, prompts):
    return samples[..., :8, :].flatten(1).mean(1)


def low(samples, prompts):
    return -samples[..., :8, :].flatten(1).mean(1) + 0.5 * samples[..., :8].flatten(1).mean(1)


def vectors(samples):
    return torch.tensor([[*scored.parts.values()] for scored in samples])


def area(points):
    """What is dominated above (-1, -1), by two rewards."""
    total, height = 0.0, -1.0
    for across, up in sorted(points.tolist(), reverse=True):
        if up > height:
            total, height = total + (across + 1) * (up - height), up
    return total


def test_the_front_is_what_none_of_all_samples_beats():
    result = toy.found(reward=[left, top], algorithm="best_of_n", n=100, budget=500)
    pipe = toy.sampler()
    finished, _ = pipe.run(pipe.prior(100), 5)
    samples = (pipe.decode(finished) * 255).round() / 255
    rewards = torch.stack([left(samples, []), top(samples, [])], dim=1)
    expected = {id for id, front in zip(finished.id.tolist(), fronts(rewards).tolist(), strict=True) if front == 0}
    assert {scored.id for scored in result.front} == expected
    assert len(expected) > 3
    assert result.front == result.kept[: len(expected)]


@pytest.mark.parametrize("algorithm", ABLE)
def test_the_best_is_that_by_the_first_reward_and_the_curve_is_its(algorithm):
    result = toy.found(reward=[left, top], algorithm=algorithm, budget=300)
    assert result.best.reward == result.best.parts["left"] == max(result.front, key=lambda s: s.reward).reward
    assert [s.reward for s in result.front] == sorted((s.reward for s in result.front), reverse=True)
    assert [s.parts["top"] for s in result.front] == sorted(s.parts["top"] for s in result.front)
    assert result.curve[-1][2] == result.best.reward
    assert result.settings["reward"] == "pareto(left, top)"
    assert set(fronts(vectors(result.front)).tolist()) == {0}
    stopped = toy.found(reward=[left, top], algorithm=algorithm, budget=300, stop_at=result.plain.reward)
    assert stopped.cost.nfe < result.cost.nfe or algorithm == "evosearch"


@pytest.mark.parametrize("seed", range(3))
def test_evolution_finds_a_better_front_than_chance(seed):
    areas = {
        algorithm: area(
            vectors(
                toy.found(
                    pipe=toy.sampler(seed, steps=8), reward=[left, top], algorithm=algorithm, budget="60x", seed=seed
                ).front
            )
        )
        for algorithm in ABLE
    }
    assert areas["evosearch"] > areas["best_of_n"] + 0.1


@pytest.mark.parametrize("steps", [5, 8])
def test_a_search_for_a_front_is_the_same_twice_and_spreads(steps):
    first, again = (toy.found(pipe=toy.sampler(steps=steps), reward=[left, top], budget="60x") for _ in range(2))
    assert [(s.id, s.parts) for s in first.front] == [(s.id, s.parts) for s in again.front]
    alone = toy.found(pipe=toy.sampler(steps=steps), reward=left, budget="60x")
    assert alone.front == []
    assert max(s.parts["top"] for s in first.front) > top(_sample(alone.best), []).item()


def _sample(scored):
    return (torch.tensor(list(scored.sample.tobytes())).view(1, 16, 16, 3).movedim(-1, 1)).float() / 255


def test_three_rewards_and_failures_go_together():
    def failing(samples, prompts):
        return torch.where(torch.arange(len(samples)) == 1, torch.nan, low(samples, prompts))

    result = toy.found(reward=es.rewards.pareto(left, top, failing), budget=300)
    assert result.invalid > 0
    assert len(result.best.parts) == 3
    assert torch.isfinite(vectors(result.kept)).all()


@pytest.mark.parametrize("algorithm", [name for name in searches.__all__ if name not in ABLE])
def test_other_searches_want_one_number(algorithm):
    message = rf"reward must be one number for {algorithm}, got pareto\(left, top\); give weights, .* evosearch"
    with pytest.raises(ValueError, match=message):
        toy.found(reward=[left, top], algorithm=algorithm)


def test_able_are_the_two_that_leave_the_order_to_selection():
    assert ABLE == ["best_of_n", "evosearch"]


def test_a_search_of_the_users_own_is_refused_unless_it_says_that_it_can():
    def own(sampler, reward, rng):
        yield from searches.best_of_n(sampler, reward, rng, n=4)

    with pytest.raises(ValueError, match="reward must be one number for own"):
        toy.found(reward=[left, top], algorithm=own)
    own.pareto = True
    assert toy.found(reward=[left, top], algorithm=own).front


def test_held_out_rewards_are_single():
    with pytest.raises(ValueError, match=r"held_out takes rewards one by one, got pareto\(left, top\)"):
        toy.found(held_out=es.rewards.pareto(left, top))


def test_a_large_front_is_thinned_out_to_those_far_apart():
    def down(samples, prompts):
        return -left(samples, prompts)  # none beats another

    result = toy.found(reward=[left, down], algorithm="best_of_n", n=200, budget=1000)
    assert len(result.front) == len(result.kept) == 64
    rewards = sorted(s.reward for s in result.front)
    everything = toy.found(reward=left, algorithm="best_of_n", n=200, budget=1000)
    assert rewards[-1] == everything.best.reward
