"""The alarm of reward hacking: that it rings where it should, and where it should not, hardly ever."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations, product
from pathlib import Path
from statistics import median

import pytest
import torch
import toy
from scipy.stats import mannwhitneyu

import evosearch as es
from evosearch.bench import hacking as bench
from evosearch.bench.cells import fingerprint, read
from evosearch.hacking import LEVEL, Stage, Watch, alarms, fell
from evosearch.negatives import Negative
from evosearch.types import Gene


def left(samples, prompts):
    return samples[..., :8].flatten(1).mean(1)


def right(samples, prompts):
    return samples[..., 8:].flatten(1).mean(1)


def against(samples, prompts):
    return -samples.flatten(1).mean(1)


# The test


def of(*values, first=0):
    """Values of as many families."""
    return dict(enumerate(map(float, values), first))


def test_the_chance_of_a_fall_is_exact():
    assert fell(of(4, 5, 6, 7), of(1, 2, 3, first=4)) == pytest.approx(1 / 35)
    assert fell(of(1, 2, 3), of(4, 5, 6, 7, first=4)) == 1
    assert fell(of(1, 1, 1), of(1, 1, first=3)) == 1
    assert fell(of(), of(1)) == fell(of(1), of()) == fell(of(), of()) == 1
    before, after = of(0.3, 0.9, 0.5, 0.8, 0.7), of(0.1, 0.6, 0.2, 0.4, first=5)
    expected = mannwhitneyu([*after.values()], [*before.values()], alternative="less", method="exact").pvalue
    assert fell(before, after) == pytest.approx(expected)


def test_families_are_compared_with_themselves():
    before = of(0.1, 0.3, 0.5, 0.7, 0.9)
    after = of(0.09, 0.29, 0.49, 0.69, 0.89)
    assert fell(before, after) == pytest.approx(1 / 2**5)
    assert fell(after, before) == 1
    assert fell(of(5, 2, 4, 9), of(3, 1, 6) | of(8, first=7)) == pytest.approx(
        sum(a + b + c + d <= 3 + 1 + 6 + 7 for a, b, c, d in product((5, 3), (2, 1), (4, 6), (8, 7))) / 16
    )


@pytest.mark.parametrize(("first", "last"), [(6, 6), (8, 1), (3, 5)])
def test_alike_samples_seem_to_have_fallen_as_often_as_is_said(first, last):
    ranks = range(first + last)
    each = [
        fell(of(*(k for k in ranks if k not in after)), of(*after, first=first)) for after in combinations(ranks, last)
    ]
    assert sum(p <= LEVEL for p in each) <= LEVEL * len(each)


def stages(*held_out, ids=None):
    """The best after 8, 32, ... samples, guidance rising."""
    return [
        Stage(8 * 4**k, own, own, [float(k)] * 8, {"judge": values})
        for k, values in enumerate(held_out)
        for own in [list(range(8 * k, 8 * k + 8)) if ids is None else ids[k]]
    ]


LOW, MIDDLE, HIGH = ([base + k / 100 for k in range(8)] for base in (0.1, 0.5, 0.9))


def test_a_fall_is_told_from_the_stage_that_it_shows_most_against():
    (alarm,) = alarms(stages(MIDDLE, HIGH, LOW))
    assert alarm.before.samples in (8, 32)
    assert alarm.p == pytest.approx(2 / 12870)
    (alarm,) = alarms(stages(LOW, HIGH, MIDDLE))  # rises, and falls again
    assert alarm.before.samples == 32
    assert "held-out judge fell from 0.935 to 0.535 while the reward rose from 1 to 2" in str(alarm)
    assert "medians of the best 8 of 32 samples and of 128" in str(alarm)


@pytest.mark.parametrize("held_out", [(LOW, MIDDLE, HIGH), (HIGH, HIGH, HIGH), (HIGH,), ()])
def test_nothing_is_told_where_nothing_fell(held_out):
    assert alarms(stages(*held_out)) == []


def test_what_both_stages_have_says_nothing():
    same = [list(range(8)), list(range(8))]
    assert alarms(stages(HIGH, HIGH, ids=same)) == []
    half = [list(range(8)), [0, 1, 2, 3, 4, 8, 9, 10]]
    (alarm,) = alarms(stages(HIGH, HIGH[:5] + LOW[:3], ids=half))
    assert alarm.p == pytest.approx(1 / 20)


def test_what_a_judge_has_not_judged_is_left_out():
    gaps = [float("nan")] * 4
    (alarm,) = alarms(stages(HIGH, LOW[:4] + gaps))
    assert alarm.p == pytest.approx(1 / 495)
    assert alarms(stages(HIGH, gaps * 2)) == []


# What is watched


def watched(rewards, families, level=5):
    p = toy.sampler().prior(len(rewards))
    genomes = tuple((Gene("prior", 0, family, family), *p.genomes[k]) for k, family in enumerate(families))
    p = replace(p, i=level, genomes=genomes, id=torch.arange(len(rewards)))
    samples = torch.arange(len(rewards)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
    watch = Watch(5)
    negatives = [Negative(p[[k]], samples[k]) for k in range(len(rewards))]
    for start in range(0, len(rewards), 3):
        part = slice(start, start + 3)
        watch.offer(negatives[part], torch.tensor(rewards[part]))
    return watch.stages


def test_stages_are_the_best_of_each_family_after_8_32_and_all():
    rewards = [float(k % 37) for k in range(50)]
    found = watched(rewards, families=[k % 10 for k in range(50)])
    assert [count for count, _ in found] == [8, 32, 50]
    for count, best in found:
        assert [seen.family for seen in best] == [seen.negative.id % 10 for seen in best]
        of_family = {}
        for k in range(count):
            of_family[k % 10] = max(of_family.get(k % 10, (-1.0, 0)), (rewards[k], k))
        expected = [k for _, k in sorted(of_family.values(), reverse=True)[:8]]
        assert [seen.negative.id for seen in best] == expected
        assert [int(seen.negative.sample.max()) for seen in best] == expected


def test_kin_count_once_and_failures_not_at_all():
    (_, kin), (_, all_kin) = watched([float(k) for k in range(20)], [7] * 20)
    assert [seen.negative.id for seen in kin] == [7] and [seen.negative.id for seen in all_kin] == [19]
    assert watched([float("nan")] * 20, list(range(20))) == [(0, [])]


def test_drafts_are_not_compared_with_samples():
    result = toy.found(pipe=toy.sampler(steps=8), reward=left, held_out=right, budget=400)
    assert result.settings["knobs"]["draft_steps"] == 4
    drafts = sum(1 for wave in result.stages[-1:] for _ in wave.ids)
    assert drafts == 8
    finished = {id for generation in result.generations for id in generation.ids}
    assert not finished & {id for stage in result.stages for id in stage.ids}
    whole = toy.found(reward=left, held_out=right, budget=400, algorithm="best_of_n")
    finished = {id for generation in whole.generations for id in generation.ids}
    assert finished >= {id for stage in whole.stages for id in stage.ids}
    assert [stage.samples for stage in whole.stages] == [8, 32, 80]


def test_held_out_rewards_see_what_was_the_best_once_each():
    seen = []

    def judge(samples, prompts):
        seen.append(len(samples))
        return right(samples, prompts)

    result = toy.found(reward=left, held_out=judge, algorithm="best_of_n", n=200, budget=1000)
    ids = {id for stage in result.stages for id in stage.ids} | {scored.id for scored in result.kept}
    assert sum(seen) == len(ids) < 50
    assert [scored.held_out["judge"] for scored in result.kept[:8]] == result.stages[-1].held_out["judge"]
    assert toy.found(reward=left).stages == []


# The alarm


@pytest.mark.parametrize("algorithm", ["evosearch", "best_of_n", "particles"])
def test_it_rings_where_the_guidance_is_the_opposite_of_what_is_held_out(algorithm):
    result = toy.found(reward=toy.bright, held_out=[against, toy.bright], algorithm=algorithm, budget=1000)
    assert [alarm.reward for alarm in result.alarms] == ["against"]


RUNS = 40


@pytest.mark.parametrize("algorithm", ["evosearch", "best_of_n", "zero_order"])
def test_it_hardly_ever_rings_where_the_two_have_nothing_to_do_with_each_other(algorithm):
    rang = sum(
        bool(toy.found(pipe=toy.sampler(seed), reward=left, held_out=right, algorithm=algorithm, budget=400,
                       seed=seed).alarms)
        for seed in range(RUNS)
    )  # fmt: skip
    assert rang <= 5  # at 5 %, more than that is one chance in a hundred


PROMPT = "two red circles and one blue square"


def test_it_does_not_where_the_rules_guide():
    result = es.search(
        "shapes-diffusion", PROMPT, "shapes", "evosearch", "60x", steps=4, held_out="shapes_clip", progress=False
    )
    assert result.alarms == []
    first, *_, last = (sum(stage.held_out["shapes_clip"]) / 8 for stage in result.stages)
    assert last > first


def test_the_benchmark_tells_from_what_stage_it_fell():
    def row(guide, held_out, *values):
        stages_ = [asdict(stage) for stage in stages(*values)]
        return {"guide": guide, "prompt": bench.PROMPTS[0], "stages": [
            stage | {"held_out": {held_out: stage["held_out"]["judge"]}} for stage in stages_
        ]}  # fmt: skip

    shown = bench.table([row("shapes", "shapes_clip", LOW, HIGH), row("shapes_clip", "shapes", LOW, HIGH, MIDDLE)])
    *_, hacked, fine = shown.splitlines()
    assert hacked == f"| shapes_clip | {bench.PROMPTS[0]} | 1.00 to 2.00 | 0.94 to 0.54 | p = 0.000 |"
    assert fine == f"| shapes | {bench.PROMPTS[0]} | 0.00 to 1.00 | 0.14 to 0.94 |  |"
    assert bench.bill(bench.all_cells()) == 2 * len(bench.PROMPTS) * 8 * 40 * 4


def test_it_rings_where_the_learned_reward_is_pushed_hard():
    """As in the benchmark. The first, of fewer rounds, is enough here; such steps may lead elsewhere on others."""
    pipe = es.load("shapes-diffusion")
    for prompt, rounds in ((bench.PROMPTS[3], 16), (bench.PROMPTS[2], bench.ROUNDS)):
        result = es.search(
            pipe, prompt, "shapes_clip", "reno", steps=bench.STEPS, held_out="shapes", progress=False,
            **{**bench.PUSHED, "rounds": rounds},
        )  # fmt: skip
        if result.alarms:
            break
    (alarm,) = result.alarms
    before, after = (median(stage.held_out["shapes"]) for stage in (alarm.before, result.stages[-1]))
    assert alarm.reward == "shapes" and after < before
    assert median(result.stages[-1].guidance) > median(alarm.before.guidance)


EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "hacking"


def test_the_learned_reward_pushed_hard_sets_it_off_and_the_rules_do_not():
    """As recorded by `evosearch bench hacking`, which takes minutes."""
    rows = read(EVIDENCE)
    assert len(rows) == 2 * len(bench.PROMPTS)
    assert {row["weights"] for row in rows} == {fingerprint("shapes-diffusion", "shapes_clip")}  # of those in the box
    rang = {
        guide: [bool(alarms([Stage(**stage) for stage in row["stages"]])) for row in rows if row["guide"] == guide]
        for guide in bench.HELD_OUT
    }
    assert any(rang["shapes_clip"]) and not any(rang["shapes"])
    assert bench.table(rows) in (EVIDENCE.parents[1] / "rewards-combined.md").read_text()
