"""Rewards for which the speed of what moves counts are told at which frame rate videos are shown."""

from types import SimpleNamespace

import pytest

import evosearch as es
from evosearch import rewards
from evosearch.session import _frame_rate


class Told:
    """A reward that keeps at which frame rates it was asked for."""

    def __init__(self, rates, rate=None):
        self.rates, self.rate = rates, rate

    def at_frame_rate(self, rate):
        return Told(self.rates, rate)

    def __call__(self, samples, prompts):
        self.rates.append(self.rate)
        return samples.flatten(1).mean(1)


@pytest.mark.parametrize("wrap", [lambda told: told, lambda told: {told: 0.5, "jpeg": 1}])
def test_rewards_are_told_the_frame_rate_at_which_videos_are_saved(wrap):
    steering, judging = [], []
    result = es.search(
        "shapes-video", "a red circle moves left", wrap(Told(steering)), "best_of_n", "1x", steps=1,
        held_out=wrap(Told(judging)), progress=False,
    )  # fmt: skip
    assert set(steering) == set(judging) == {result.settings["frame_rate"]} == {8}


def test_a_reward_that_asks_for_no_frame_rate_is_left_alone():
    def plain(samples, prompts):
        return samples.flatten(1).mean(1)

    assert rewards.at_frame_rate(plain, 8) is plain


def test_what_the_pipeline_was_told_counts_for_more_than_its_own_rate():
    pipe = es.load("shapes-video")
    assert _frame_rate(SimpleNamespace(pipe=pipe, kwargs={"frame_rate": 30})) == 30
    assert _frame_rate(SimpleNamespace(pipe=pipe, kwargs={"fps": 12})) == 12
    assert _frame_rate(SimpleNamespace(pipe=pipe, kwargs={})) == 8
    assert _frame_rate(SimpleNamespace()) == 16  # a sampler over no pipeline
