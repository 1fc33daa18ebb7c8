"""Held-out rewards: what they cost, what becomes of one that fails, and when that is told."""

from __future__ import annotations

import json
import math

import pytest
import torch
import toy

import evosearch as es
from evosearch import cli, report
from evosearch.hacking import Alarm, Stage, middle


def priced(usd=0.0, spent=None, missing=(), fails_after=None):
    """A reward that counts its samples, and may cost, fail or say nothing of some."""

    def held(samples, prompts):
        if fails_after is not None and held.calls >= fails_after:
            raise ValueError("the endpoint is gone")
        held.calls += 1
        start, held.samples = held.samples, held.samples + len(samples)
        if spent is not None:
            held.usd_spent += spent * len(samples)
        numbers = torch.arange(start, held.samples)
        return torch.where(torch.isin(numbers, torch.tensor([*missing])), torch.nan, 1 - toy.bright(samples, prompts))

    held.calls = held.samples = 0
    held.usd_per_call = usd
    if spent is not None:
        held.usd_spent = 0.0
    return held


def test_their_calls_and_money_are_counted_and_not_among_those_that_guide():
    held = priced(usd=0.25)
    result = toy.found(held_out=[held, "jpeg"], algorithm="best_of_n")
    seen = {s.id for s in result.kept} | {id for stage in result.stages for id in stage.ids} | {result.plain.id}
    assert held.samples == len(seen)
    assert result.cost.held_out_calls == 2 * len(seen)
    assert result.cost.usd == pytest.approx(0.25 * len(seen))
    assert result.cost.reward_calls == 20


def test_money_that_is_known_once_it_is_spent_is_counted():
    held, guide = priced(spent=0.5), priced(spent=0.125)
    result = toy.found(reward=guide, held_out=held, algorithm="best_of_n")
    assert result.cost.usd == pytest.approx(0.125 * 20 + 0.5 * held.samples)
    result = toy.found(reward=priced(spent=1.0), algorithm="best_of_n", budget=es.Budget(nfe=100, usd=6))
    assert 6 <= result.cost.usd <= 6 + 4  # a micro-batch more
    with pytest.raises(ValueError, match="usd needs usd_per_hour=, or a reward that has a price"):
        toy.found(budget=es.Budget(nfe=100, usd=6))


def test_they_are_not_asked_for_more_than_the_budget_has():
    held = priced(usd=1.0)
    result = toy.found(held_out=held, algorithm="best_of_n", budget=es.Budget(nfe=100, usd=9, usd_per_hour=0.01))
    assert result.cost.usd <= 9
    assert [math.isfinite(scored.held_out["held"]) for scored in result.kept[:4]] == [True] * 4  # the best first
    assert result.faults == ["held-out held was not asked about all, since the budget's money is spent"]


def test_one_that_cannot_judge_is_told_of_at_the_first_sample():
    calls = []

    def guide(samples, prompts):
        calls.append(len(samples))
        return toy.bright(samples, prompts)

    def wrong(samples, prompts):
        return torch.zeros(7)

    with pytest.raises(ValueError, match="reward wrong must return one value a sample"):
        toy.found(reward=guide, held_out=wrong, algorithm="best_of_n")
    assert len(calls) == 1


def test_one_that_fails_at_the_end_loses_nothing_but_its_own_word(tmp_path, capsys):
    held = priced(fails_after=1)
    result = toy.found(held_out=[held, "jpeg"], algorithm="best_of_n", run_dir=tmp_path / "run")
    assert result.faults == ["held-out held failed: the endpoint is gone"]
    assert math.isfinite(result.plain.held_out["held"])
    assert all(math.isnan(s.held_out["held"]) for s in result.kept if s.id != result.plain.id)
    assert all(math.isfinite(s.held_out["jpeg"]) for s in result.kept)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["faults"] == result.faults
    assert "Warning: held-out held failed: the endpoint is gone." in report.render(result)
    cli._show("", result, tmp_path / "best.png", tmp_path)
    assert "warning       held-out held failed: the endpoint is gone" in capsys.readouterr().err


@pytest.mark.parametrize(("allowed", "told"), [(None, 0), (0.5, 0), (0.1, 1)])
def test_what_is_missing_is_held_to_what_it_allows(allowed, told):
    held = priced(missing=range(2, 6))
    if allowed is not None:
        held.allow_missing = allowed
    result = toy.found(held_out=held, algorithm="best_of_n")
    assert len(result.faults) == told
    for sentence in result.faults:
        assert sentence.startswith("held-out held gave nothing finite for 4 of ")


def test_medians_leave_out_what_is_missing():
    before = Stage(8, [1, 2, 3], [1, 2, 3], [0.1, 0.2, 0.3], {"j": [0.9, math.nan, 0.7]})
    after = Stage(32, [1, 2, 3], [4, 5, 6], [0.4, 0.5, 0.6], {"j": [math.nan, 0.2, 0.4]})
    assert "held-out j fell from 0.8 to 0.3 while" in str(Alarm("j", before, after, 0.01))
    assert math.isnan(middle([math.nan]))


def test_what_was_watched_is_judged_anew_once_rewards_are_measured():
    result = toy.found(
        reward=es.rewards.z_scored(toy.bright, "jpeg"), held_out=["jpeg"], algorithm="best_of_n", budget=200
    )
    by_id = {scored.id: scored.reward for scored in result.kept}
    for stage in result.stages:
        for id, value in zip(stage.ids, stage.guidance, strict=True):
            assert value == pytest.approx(by_id.get(id, value))
    assert max(result.stages[0].guidance) <= max(result.stages[-1].guidance)
