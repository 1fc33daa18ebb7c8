"""Rewards made of several: what each combination is worth, and that it stays one function of a sample in a search."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny_clip
import torch
import toy
from scipy.stats import percentileofscore
from test_run import same

import evosearch as es
from evosearch import rewards

PROMPTS = ["a prompt"] * 100


def channel(k, scale=1.0, **attributes):
    """A reward: the mean of a channel, times a scale."""

    def reward(samples, prompts):
        return scale * samples.flatten(2).mean(2)[:, k]

    reward.__name__ = "rgb"[k]
    reward.differentiable = True
    for name, value in attributes.items():
        setattr(reward, name, value)
    return reward


RED, GREEN, BLUE = channel(0), channel(1, 100.0), channel(2)
MADE = {
    "weighted": lambda a, b: rewards.weighted({a: 2.0, b: -1.0}),
    "z_scored": rewards.z_scored,
    "rank_average": rewards.rank_average,
    "minimum": rewards.minimum,
    "constrained": lambda a, b: rewards.constrained(maximise=a, subject_to={b: 0.5}),
    "pareto": rewards.pareto,
}
EACH = pytest.mark.parametrize("make", MADE.values(), ids=MADE)
SCALAR = [make for name, make in MADE.items() if name != "pareto"]


def of(*rows):
    """Samples whose channels have these means, (N, 3, 2, 2)."""
    return torch.tensor(rows).view(-1, 3, 1, 1).expand(-1, -1, 2, 2)


def drawn(n, seed=0):
    return torch.rand((n, 3, 2, 2), generator=torch.Generator().manual_seed(seed))


def test_all_combinations_are_tried():
    assert set(MADE) == set(rewards.COMBINATIONS)


# Values


def test_weights_are_a_sum():
    samples = drawn(5)
    found = rewards.weighted({RED: 2.0, GREEN: -0.01})(samples, PROMPTS[:5])
    assert torch.allclose(found, 2 * RED(samples, []) - 0.01 * GREEN(samples, []))


def test_the_minimum_is_the_weakest_side():
    assert rewards.minimum(RED, BLUE)(of([0.2, 0.0, 0.7], [0.9, 0.0, 0.3]), PROMPTS[:2]).tolist() == pytest.approx(
        [0.2, 0.3]
    )


def test_whatever_lacks_something_is_behind_whatever_does_not_and_the_more_the_more_it_lacks():
    bound = rewards.constrained(maximise=RED, subject_to={BLUE: 0.5, channel(1): 0.25})
    found = bound(
        of(
            [0.1, 0.25, 0.5],  # reaches both, just so
            [0.9, 0.9, 0.49],  # lacks a fiftieth of one
            [0.9, 0.2, 0.9],  # lacks a fifth of the other
            [0.9, 0.2, 0.49],
            [0.3, 0.9, 0.9],
        ),
        PROMPTS[:5],
    )
    assert found.argsort(descending=True).tolist() == [4, 0, 1, 2, 3]
    assert found[[0, 4]].tolist() == pytest.approx([0.1, 0.3])
    assert found[1:4].tolist() == pytest.approx([-1.02e6, -1.2e6, -1.22e6], rel=1e-5)


def test_deviations_are_those_of_the_first_samples_up_to_each_and_of_all_of_them_from_then_on():
    samples = drawn(30)
    found = rewards.z_scored(RED, GREEN, settle=10)(samples, PROMPTS[:30])
    parts = np.stack([RED(samples, []).numpy(), GREEN(samples, []).numpy()], axis=1).astype(float)
    for k in range(30):
        seen = parts[: min(k + 1, 10)]
        deviation = seen.std(axis=0)
        expected = ((parts[k] - seen.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).mean()
        assert found[k].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_none_of_the_first_is_flattered(n):
    rising = of(*([10.0**k, 0.0, 0.0] for k in range(n)))  # each leaves those before it far behind
    assert rewards.z_scored(RED)(rising, PROMPTS[:n])[-1].item() == pytest.approx((n - 1) ** 0.5, rel=0.2)
    assert rewards.z_scored(RED)(rising, PROMPTS[:n])[-1].item() <= (n - 1) ** 0.5 + 1e-4
    assert rewards.rank_average(RED)(rising, PROMPTS[:n])[-1].item() == pytest.approx(1 - 0.5 / n)


def test_what_does_not_vary_counts_as_it_is():
    reward = rewards.z_scored(RED, settle=4)
    assert reward(of(*[[0.1, 0.0, 0.0]] * 4), PROMPTS[:4]).tolist() == [0.0] * 4
    assert reward(of([0.4, 0.0, 0.0]), PROMPTS[:1]).item() == pytest.approx(0.3)
    ranked = rewards.rank_average(RED, settle=4)
    assert ranked(of(*[[0.1, 0.0, 0.0]] * 4), PROMPTS[:4]).tolist() == [0.5] * 4
    assert ranked(of([0.4, 0.0, 0.0]), PROMPTS[:1]).item() == pytest.approx(0.8)


def test_ranks_are_those_among_the_first():
    first, later = drawn(16), drawn(40, seed=1)
    reward = rewards.rank_average(RED, GREEN)
    reward(first, PROMPTS[:16])
    found = reward(first, PROMPTS[:16])
    for k in range(16):
        expected = [percentileofscore(p(first, []), p(first, [])[k], kind="mean") / 100 for p in (RED, GREEN)]
        assert found[k].item() == pytest.approx(np.mean(expected), abs=1e-6)
    alone = rewards.rank_average(RED)
    alone(first, PROMPTS[:16])
    value, red = alone(later, PROMPTS[:40]), RED(later, [])
    assert (value[red.argsort()].diff() > 0).all()
    low, high = RED(first, []).min().item(), RED(first, []).max().item()
    beyond = of([high + 2 * (high - low), 0.0, 0.0], [low - (high - low), 0.0, 0.0])
    assert alone(beyond, PROMPTS[:2]).tolist() == pytest.approx([1 - 1 / 32 + 2, 1 / 32 - 1], abs=1e-5)


def test_rewards_stay_apart():
    samples = drawn(3)
    found = rewards.pareto(RED, GREEN)(samples, PROMPTS[:3])
    assert torch.equal(found, torch.stack([RED(samples, []), GREEN(samples, [])], dim=1))


# What they keep to


@EACH
def test_the_batch_makes_no_difference(make):
    samples = drawn(40)
    whole = make(RED, GREEN)(samples, PROMPTS[:40])
    reward = make(RED, GREEN)
    parts = [reward(part, PROMPTS[: len(part)]) for part in samples.split((1, 2, 10, 20, 7))]
    assert torch.equal(torch.cat(parts), whole)


@EACH
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_part_that_fails_fails_the_whole_and_is_not_learnt_from(make, bad):
    def failing(samples, prompts):
        return torch.where(samples[:, 2, 0, 0] == 1, bad, RED(samples, prompts))

    samples = drawn(40)
    samples[5::7, 2] = 1.0
    failed = samples[:, 2, 0, 0] == 1
    found = make(failing, GREEN)(samples, PROMPTS[:40])
    assert torch.equal(found.isnan().view(40, -1).all(1), failed)
    assert torch.equal(found[~failed], make(RED, GREEN)(samples[~failed], PROMPTS[: int((~failed).sum())]))
    assert make(failing, GREEN)(samples[failed], PROMPTS[: int(failed.sum())]).isnan().all()


@EACH
def test_price_gaps_and_gradient_are_those_of_the_parts(make):
    priced, gappy = channel(0, usd_per_call=0.25, allow_missing=0.1), channel(1, usd_per_call=0.5)
    reward = make(priced, gappy)
    assert reward.usd_per_call == 0.75
    assert reward.allow_missing == 0.1
    smooth = make is not rewards.rank_average
    assert reward.differentiable is smooth
    assert not make(priced, channel(1, differentiable=False)).differentiable


@EACH
def test_a_prompt_that_a_part_cannot_judge_is_refused(make):
    with pytest.raises(ValueError, match="shapes"):
        make("shapes", RED).check("a photograph of nothing at all", False)


@pytest.mark.parametrize("make", [make for make in SCALAR if make is not rewards.rank_average])
def test_gradients_are_those_of_the_parts(make):
    reward = make(RED, GREEN)
    reward(drawn(16), PROMPTS[:16])
    samples = drawn(4, seed=1).requires_grad_()
    reward(samples, PROMPTS[:4]).sum().backward()
    step, still = 1e-3, samples.detach()
    for k in range(3):
        moved = still.clone()
        moved[:, k] += step
        change = (reward(moved, PROMPTS[:4]) - reward(still, PROMPTS[:4])) / step
        assert torch.allclose(samples.grad[:, k].flatten(1).sum(1), change, rtol=0.02, atol=0.02)


def test_a_combination_is_a_part_with_its_parts_to_be_seen():
    reward = rewards.minimum(rewards.z_scored(RED, GREEN, settle=4), {RED: 0.5, BLUE: 1.0})
    assert reward.names == ["r", "g", "r 2", "b"]
    samples = drawn(9)
    assert torch.equal(reward.each(samples, PROMPTS[:9])[:, 1], GREEN(samples, []))
    scored, summed = rewards.z_scored(RED, GREEN, settle=4), rewards.weighted({RED: 0.5, BLUE: 1.0})
    expected = torch.minimum(scored(samples, PROMPTS[:9]), summed(samples, PROMPTS[:9]))
    assert torch.equal(reward(samples, PROMPTS[:9]), expected)
    assert reward.settled and not reward.fresh().settled


# As text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("minimum(shapes, jpeg)", "minimum(shapes, jpeg)"),
        (" z_scored( shapes-quality,jpeg, settle=8 ) ", "z_scored(shapes_quality, jpeg, settle=8)"),
        ("weighted({shapes: 1, jpeg: -.01})", "1 shapes + -0.01 jpeg"),
        ("rank_average(minimum(jpeg), shapes)", "rank_average(minimum(jpeg), shapes)"),
        ("constrained(jpeg, {shapes: -0.5})", "constrained(maximise=jpeg, subject_to={shapes: -0.5})"),
        ("pareto(shapes, jpeg)", "pareto(shapes, jpeg)"),
    ],
)
def test_a_combination_can_be_spelled(text, name):
    reward = rewards.resolve(text)
    assert reward.__name__ == name
    if not name.startswith("1 "):
        assert rewards.resolve(name).__name__ == name  # what a report says can be asked for


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("minimum(", r"reward must be a name or a combination such as .*, got 'minimum\('"),
        ("minimum(shapes) + 1", "reward must be a name or a combination"),
        ("shapes.minimum(jpeg)", "reward must be a name or a combination"),
        ("weighted({1: 2})", "reward must be a name or a combination"),
        ("minimum(__import__('os'))", "must be one of weighted, z_scored"),
        ("minimun(shapes)", "did you mean 'minimum'?"),
        ("minimum(shape)", "did you mean 'shapes'?"),
        ("minimum()", "minimum takes at least one reward, got none"),
        ("minimum(shapes, settle=3)", "got an unexpected keyword argument 'settle'; it takes parts"),
        ("jpeg(3)", "reward jpeg takes nothing in brackets; write jpeg"),
        ("z_scored(jpeg, settle=1)", "settle must be at least 2, got 1"),
        ("constrained(jpeg, {})", "subject_to must have a threshold of at least one reward"),
        ("constrained(jpeg, {shapes: many})", "subject_to: shapes must have a number as its threshold, got 'many'"),
        ("weighted({jpeg: much})", "reward jpeg must have a number as its weight, got 'much'"),
        (
            "weighted(shapes)",
            r"^weighted must be given rewards with their weights, as in weighted\(\{a: 1, b.*'shapes'$",
        ),
        ("weighted([shapes])", r"^reward must be a name or a combination"),
        ("weighted({})", "reward must name at least one reward"),
        ("minimum(per_frame:jpeg, shapes)", r"; within brackets write per_frame\(jpeg\) for per_frame:jpeg$"),
        ("minimum(hps:/x, jpeg)", r'; within brackets write hps\("/x"\) for hps:/x$'),
        ("weighted({hps:my-own/folder: 1})", r'; within brackets write hps\("my-own/folder"\) for hps:my-own/folder$'),
        ("weighted({pyiqa:musiq: 1, jpeg: 2})", r'; within brackets write pyiqa\("musiq"\) for pyiqa:musiq$'),
        ("weighted({jpeg:1, shapes:2)", r"got 'weighted\(\{jpeg:1, shapes:2\)'$"),
        ("clip_score(dtype='half')", "^dtype must be float32, float16 or bfloat16, got 'half'$"),
        ("hps(device='gpu:x')", "^device must be one that torch knows, as 'cpu' or 'cuda:1', got 'gpu:x'$"),
        ("pareto(shapes)", "pareto takes at least two rewards, got 1"),
        ("minimum(pareto(shapes, jpeg))", "pareto keeps rewards apart and cannot be a part of another"),
    ],
)
def test_what_is_spelled_wrong_is_said(wrong, message):
    with pytest.raises(ValueError, match=message):
        rewards.resolve(wrong)


def test_what_a_reward_is_made_with_stands_in_brackets(tmp_path):
    tiny_clip.folder(tmp_path)
    made = rewards.resolve(f'minimum(clip_score("{tmp_path}", device="cpu", dtype="bfloat16", batch_size=3), jpeg)')
    clip = made.parts["ClipScore"]
    assert clip.weights().model.dtype == torch.bfloat16 and clip.device == torch.device("cpu")
    worst = rewards.resolve("minimum(per_frame(jpeg, every=2), shapes_quality)")
    assert worst.__name__ == "minimum(per_frame(jpeg, every=2), shapes_quality)"


@pytest.mark.parametrize(
    "text",
    [
        "minimum(per_frame(jpeg, reduce=min), z_scored(shapes-clip, settle=4))",
        "clip_score(variant=hessel)",
        "constrained(maximise=jpeg, subject_to={shapes: much})",
        "weighted({video_reward(dimension=MQ): 1, jpeg: 1})",
    ],
)
def test_words_that_are_no_rewards_are_none_of_the_names_that_must_be_known(text):
    rewards.check_names(text)


@pytest.mark.parametrize("weights", ["shapes", ["shapes"], ("shapes", 1), 3, None, RED])
def test_weights_are_a_mapping(weights):
    with pytest.raises(ValueError, match=r"^weighted must be given rewards with their weights, as in .*, got "):
        rewards.weighted(weights)


# In a search


@pytest.mark.parametrize("make", SCALAR)
@pytest.mark.parametrize("algorithm", ["evosearch", "best_of_n"])
def test_each_prompt_has_statistics_of_its_own_and_what_is_given_stays_as_it_was(make, algorithm):
    reward = make(RED, GREEN)
    first, second = toy.found(reward=reward, algorithm=algorithm, prompt=["one", "two"])
    alone = toy.found(reward=reward, algorithm=algorithm, prompt="two")
    assert same(second, alone)[0] == same(second, alone)[1]
    assert [s.reward for s in first.kept] == [s.reward for s in second.kept]  # the toy heeds no prompt
    assert make is MADE["weighted"] or getattr(reward._rule, "_seen", []) == []


@pytest.mark.parametrize("make", SCALAR)
def test_samples_are_worth_what_their_parts_are_and_those_of_the_beginning_as_well(make):
    """The first are judged by few; what is kept of them is judged anew by all that the others are judged by."""
    result = toy.found(reward=make(RED, GREEN), algorithm="best_of_n", n=40, budget=200)
    pipe, reward = toy.sampler(), make(RED, GREEN)
    finished, _ = pipe.run(pipe.prior(40), 5)
    samples = (pipe.decode(finished) * 255).round() / 255
    reward(samples[:16], PROMPTS[:16])
    ids = finished.id.tolist()
    value = dict(zip(ids, reward(samples, PROMPTS[:40]).tolist(), strict=True))
    each = zip(RED(samples, []).tolist(), GREEN(samples, []).tolist(), strict=True)
    parts = {id: {"r": red, "g": green} for id, (red, green) in zip(ids, each, strict=True)}
    assert {scored.id for scored in result.kept} == {*sorted(value, key=lambda id: -value[id])[:16]}
    for scored in (*result.kept, result.plain):
        assert scored.reward == pytest.approx(value[scored.id], abs=1e-4, rel=1e-6)
        assert scored.parts == pytest.approx(parts[scored.id], rel=1e-5)
    best = max(value, key=lambda id: value[id])
    assert result.best.id == best
    assert result.curve[-1][2] == result.best.reward
    assert [reward for _, _, reward in result.curve] == sorted({reward for _, _, reward in result.curve})


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("make", [rewards.z_scored, rewards.rank_average])
def test_a_search_by_statistics_is_the_same_for_any_batch_size(make, batch_size):
    asked = {"reward": make(RED, GREEN), "budget": 150, "schedule": [0, 2], "sizes": [20, 6, 6]}
    one, other = (toy.found(pipe=toy.sampler(batch_size=size), **asked) for size in (4, batch_size))
    assert [(s.id, s.reward) for s in one.kept] == [(s.id, s.reward) for s in other.kept]


def test_the_best_within_bounds_is_within_them():
    result = toy.found(reward=rewards.constrained(RED, {BLUE: 0.56}), algorithm="best_of_n", budget="60x")
    reached = [scored for scored in result.kept if scored.parts["b"] >= 0.56]
    assert 0 < len(reached) < 16
    assert result.kept[: len(reached)] == reached
    assert result.best.reward == result.best.parts["r"] == max(scored.parts["r"] for scored in reached)


def test_settings_say_how_the_reward_was_made():
    assert toy.found(reward="minimum(jpeg, shapes-quality)").settings["reward"] == "minimum(jpeg, shapes-quality)"
    assert toy.found(reward=rewards.z_scored(RED, "jpeg")).settings["reward"] == "z_scored(r, jpeg)"
    assert isinstance(toy.found(reward=rewards.minimum("jpeg")).best, es.Scored)


def test_combinations_are_listed():
    from evosearch.catalogue_rewards import lines

    found = {name: said for name, *said in lines()}
    assert found["constrained"] == [
        "One reward, among samples for which others reach their thresholds.",
        "of other rewards: constrained(maximise=a, subject_to={b: 0.5})",
    ]
    for name in rewards.COMBINATIONS:
        spelled = found[name][1].removeprefix("of other rewards: ")
        spelled = re.sub(r"\b[ab]\b", lambda letter: {"a": "jpeg", "b": "shapes"}[letter[0]], spelled)
        assert rewards.resolve(spelled).__name__.startswith(name if name != "weighted" else "1 jpeg")
