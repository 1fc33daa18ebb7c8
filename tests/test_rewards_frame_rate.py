"""Rewards for which the speed of what moves counts are told at which frame rate videos are shown."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import toy

import evosearch as es
from evosearch import rewards
from evosearch.settings import rate_of


class Told:
    """A reward that keeps at which frame rates it was asked for."""

    def __init__(self, rates, rate=None, scored=None):
        self.rates, self.rate, self.scored = rates, rate, [] if scored is None else scored

    def at_frame_rate(self, rate):
        return Told(self.rates, rate, self.scored)

    def __call__(self, samples, prompts):
        self.rates.append(self.rate)
        self.scored += [(prompt, sample.numpy().tobytes()) for prompt, sample in zip(prompts, samples, strict=True)]
        return samples.flatten(1).mean(1)


@pytest.mark.parametrize("wrap", [lambda told: told, lambda told: {told: 0.5, "jpeg": 1}])
def test_rewards_are_told_the_frame_rate_at_which_videos_are_saved(wrap):
    steering, judging = [], []
    result = es.search(
        "shapes-video", "a red circle moves left", wrap(Told(steering)), "best_of_n", "1x", steps=1,
        held_out=wrap(Told(judging)), progress=False,
    )  # fmt: skip
    assert set(steering) == set(judging) == {result.settings["frame_rate"]} == {8}


@pytest.mark.parametrize("wrap", [lambda told: told, lambda told: {told: 0.5, "jpeg": 1}])
def test_a_sample_is_scored_once_whoever_asks_in_whichever_search(wrap):
    told = Told([])
    es.search(
        toy.sampler(frames=3), ["one", "one", "two"], wrap(told), "best_of_n", n=8, held_out=[told, wrap(told)],
        progress=False,
    )  # fmt: skip
    assert sorted(told.scored) == sorted({*told.scored}) and len(told.scored) == 2 * 8


def test_each_rate_is_another_reward_and_the_same_one_each_time():
    told = Told([])
    at_8, at_16 = (rewards.at_frame_rate(told, rate) for rate in (8, 16))
    assert (at_8.rate, at_16.rate) == (8, 16)
    assert rewards.at_frame_rate(told, 8) is at_8
    both = rewards.z_scored(told, "jpeg")
    made, again = (rewards.at_frame_rate(both, 8) for _ in range(2))
    assert made is not again and made.parts["Told"] is again.parts["Told"] is at_8
    gone = weakref.ref(told)
    del told, both, made, again
    gc.collect()
    assert gone() is None


def test_what_cannot_be_kept_is_made_anew():
    class Unhashable(Told):
        __hash__ = None

        def __eq__(self, other):
            return False

        def at_frame_rate(self, rate):
            return self

    told = Unhashable([])
    assert rewards.at_frame_rate(told, 8) is rewards.at_frame_rate(told, 8) is told


def test_a_reward_that_asks_for_no_frame_rate_is_left_alone():
    def plain(samples, prompts):
        return samples.flatten(1).mean(1)

    assert rewards.at_frame_rate(plain, 8) is plain


def test_what_the_pipeline_was_told_counts_for_more_than_its_own_rate():
    pipe = es.load("shapes-video")
    assert rate_of(SimpleNamespace(pipe=pipe, kwargs={"frame_rate": 30})) == 30
    assert rate_of(SimpleNamespace(pipe=pipe, kwargs={"fps": 12})) == 12
    assert rate_of(SimpleNamespace(pipe=pipe, kwargs={})) == 8
    assert rate_of(SimpleNamespace()) == 16  # a sampler over no pipeline
