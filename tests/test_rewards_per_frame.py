"""Rewards of pictures on the frames of a video."""

import math

import pytest
import torch

from evosearch import rewards
from evosearch.judging import elsewhere
from evosearch.rewards.cache import ScoreCache
from evosearch.rewards.jpeg import jpeg
from evosearch.rewards.judge import Judge
from evosearch.rewards.per_frame import PerFrame


def videos(frames=9, count=3, seed=0):
    return torch.rand(count, frames, 3, 24, 32, generator=torch.Generator().manual_seed(seed)), ["a", "b", "c"][:count]


def brightness(samples, prompts):
    return samples.flatten(1).mean(1)


@pytest.mark.parametrize(
    ("every", "chosen"), [(1, range(9)), (2, [0, 2, 4, 6, 8]), (4, [0, 4, 8]), (5, [0, 5]), (9, [0]), (100, [0])]
)
@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_it_is_the_reward_of_every_kth_frame(every, chosen, reduce):
    samples, prompts = videos()
    alone = torch.stack([jpeg(samples[:, k], prompts) for k in chosen], dim=1)
    assert every > 4 or alone.std(1).min() > 1e-3  # else any frame would do
    expected = {"mean": alone.mean(1), "min": alone.min(1).values}[reduce]
    assert torch.allclose(PerFrame("jpeg", every, reduce)(samples, prompts), expected)


def test_the_frames_of_all_samples_go_to_the_reward_at_once_each_with_its_prompt():
    calls = []

    def noted(samples, prompts):
        calls.append((samples, prompts))
        return brightness(samples, prompts)

    samples, prompts = videos()
    PerFrame(noted, every=4)(samples, prompts)
    ((frames, texts),) = calls
    assert torch.equal(frames, samples[:, ::4].flatten(0, 1))
    assert texts == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_all_frames_have_the_mean_that_the_reward_of_a_video_is():
    samples, prompts = videos()
    assert torch.allclose(PerFrame("jpeg")(samples, prompts), jpeg(samples, prompts))


def test_a_picture_is_a_video_of_one_frame():
    samples, prompts = videos()
    assert torch.equal(PerFrame("jpeg", every=3, reduce="min")(samples[:, 0], prompts), jpeg(samples[:, 0], prompts))


def test_a_function_of_one_picture_sees_frames_not_videos():
    samples, prompts = videos(count=2)
    found = PerFrame(lambda picture: picture.getpixel((0, 0))[0], reduce="min")(samples, prompts)
    assert torch.equal(found, (samples[:, :, 0, 0, 0] * 255).round().min(1).values)


def test_weighted_rewards_are_taken_too():
    samples, prompts = videos()
    found = PerFrame({"jpeg": 1, brightness: 10}, every=8)(samples, prompts)
    ends = samples[:, ::8].flatten(0, 1)
    expected = (jpeg(ends, prompts * 2) + 10 * brightness(ends, prompts)).view(3, 2).mean(1)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_a_frame_that_cannot_be_judged_leaves_its_sample_without_a_score(reduce):
    samples, prompts = videos()
    samples[1, 4, 0, 0, 0] = math.nan
    assert PerFrame("jpeg", every=2, reduce=reduce)(samples, prompts).isnan().tolist() == [False, True, False]
    assert PerFrame("jpeg", every=3, reduce=reduce)(samples, prompts).isfinite().all()  # of which it is none


def test_it_has_the_gradient_of_the_reward():
    samples, prompts = videos()
    score = PerFrame("shapes_quality", every=4)
    assert score.differentiable and not PerFrame("jpeg").differentiable
    samples.requires_grad_()
    (gradient,) = torch.autograd.grad(score(samples, prompts).sum(), samples)
    touched = gradient.flatten(2).abs().sum(2) > 0
    assert touched.tolist() == [[k % 4 == 0 for k in range(9)]] * 3


def test_an_empty_batch_has_no_scores_and_a_video_without_frames_is_refused():
    assert PerFrame("jpeg")(torch.zeros(0, 5, 3, 8, 8), []).shape == (0,)
    with pytest.raises(ValueError, match=r"^samples: expected at least one frame, got \(1, 0, 3, 8, 8\)$"):
        PerFrame("jpeg")(torch.zeros(1, 0, 3, 8, 8), ["a"])


def test_it_is_known_by_name_and_says_of_what():
    samples, prompts = videos()
    assert torch.equal(rewards.load("per_frame:jpeg")(samples, prompts), PerFrame(jpeg)(samples, prompts))
    assert rewards.name_of(PerFrame("jpeg")) == "per_frame(jpeg)"
    assert rewards.name_of(PerFrame("jpeg", every=4, reduce="min")) == "per_frame(jpeg, every=4, reduce=min)"


def test_the_reward_is_asked_whether_it_can_judge_a_picture():
    PerFrame("shapes").check("a red circle", video=True)
    with pytest.raises(ValueError, match="prompt"):
        PerFrame("shapes").check("a dog", video=True)


# Scores that are known


def test_it_is_known_by_its_reward_and_its_own_settings():
    made = [PerFrame("jpeg"), PerFrame("shapes"), PerFrame("jpeg", every=2), PerFrame("jpeg", reduce="min")]
    keys = [reward.cache_key for reward in made]
    assert len({*keys, jpeg.cache_key}) == 5 and keys[0] == PerFrame("jpeg").cache_key
    assert {key.split()[0] for key in keys} == {"per_frame"}


@pytest.mark.parametrize("wrap", [lambda reward: reward, lambda reward: {reward: 2, "jpeg": 1}])
@pytest.mark.parametrize(("key", "times"), [("mine", 1), ("", 2), (None, 4)])
def test_what_its_reward_says_of_itself_decides_what_is_kept(tmp_path, wrap, key, times):
    calls = []

    def own(samples, prompts):
        calls.append(len(samples))
        return brightness(samples, prompts)

    if key != "":  # a plain function says nothing
        own.cache_key = key
    samples, prompts = videos()
    for _ in range(2):  # runs
        cache, reward = ScoreCache(tmp_path), PerFrame(wrap(own), every=3)
        with cache.used():
            found = [rewards.scores(reward, samples, prompts) for _ in range(2)]
        cache.close()
        assert torch.equal(*found)
    assert calls == [9] * times


def test_it_computes_where_its_reward_does():
    own = Judge("http://localhost:1/v1", "model")
    assert PerFrame(own).remote and not PerFrame("jpeg").remote
    assert elsewhere(PerFrame(own), torch.device("cpu"))
    PerFrame(own).cancel()
    assert own._stop.is_set()
    PerFrame("jpeg").cancel()

    def there(samples, prompts):
        return brightness(samples, prompts)

    there.device = torch.device("cuda:1")
    assert PerFrame(there).device == there.device
    assert elsewhere(PerFrame(there), torch.device("cuda:0")) and not elsewhere(PerFrame("jpeg"), torch.device("cpu"))


def test_it_judges_stills_whatever_the_frame_rate():
    class OfVideos:
        def at_frame_rate(self, rate):
            raise AssertionError("a still has no frame rate")

        def check(self, prompt, video=None):
            if video is False:
                raise ValueError("it judges videos")

        __call__ = staticmethod(brightness)

    reward = PerFrame(OfVideos())
    assert rewards.at_frame_rate(reward, 24) is reward
    with pytest.raises(ValueError, match="it judges videos"):
        rewards.check(reward, "a cat", video=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "^per_frame needs a reward of pictures; give its name, as in per_frame:clip_score$"),
        ({"reward": "jpg"}, r"^reward must be one of .*, got 'jpg'; did you mean 'jpeg'\?$"),
        ({"reward": "jpeg", "every": 0}, "^every must be at least 1, got 0$"),
        ({"reward": "jpeg", "reduce": "sum"}, "^reduce must be one of mean, min, got 'sum'$"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PerFrame(**arguments)


def test_what_costs_money_for_each_picture_is_refused():
    free = Judge("http://localhost:1/v1", "model", allow_missing=0.5)
    assert PerFrame(free).allow_missing == 0.5
    with pytest.raises(ValueError, match=r"^per_frame takes no reward that costs money"):
        PerFrame(Judge("http://localhost:1/v1", "model", usd_per_call=0.01))


# What may stand after a reward's name


def test_what_stands_after_a_colon_is_a_rewards_first_argument(tmp_path):
    with pytest.raises(ValueError, match=rf"^model '{tmp_path}' cannot be had|^folder {tmp_path}"):
        rewards.load(f"clip-score:{tmp_path}")


@pytest.mark.parametrize("name", ["jpeg:", "jpeg:5", "shapes:5", "clip_score:"])
def test_a_name_that_takes_nothing_after_it_says_so(name):
    own = name.partition(":")[0]
    with pytest.raises(ValueError, match=f"^reward must be '{own}' with nothing after it, got {name}$"):
        rewards.load(name)
