"""Weights are loaded when they are needed, once, and after all that is cheap has been looked at."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import pytest
import tiny_rewards
import tiny_videos
import torch
import toy
from test_rewards_identity import hps_v3, unified_reward, vqa_score

import evosearch as es
from evosearch import rewards
from evosearch.path import NoisePath
from evosearch.rewards.image_reward import ImageReward
from evosearch.rewards.per_frame import PerFrame
from evosearch.rewards.weights import Weights

QWENS = {"hps_v3": hps_v3, "unified_reward": unified_reward, "vqa_score": vqa_score}
MADE = {**tiny_rewards.MADE, **tiny_videos.MADE, **QWENS}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))


class Heavy:
    """A reward that notes when its weights are loaded."""

    differentiable = True

    def __init__(self, events=None):
        self.events = [] if events is None else events
        self.weights = Weights(lambda: self.events.append("loaded"))

    def __call__(self, samples, prompts):
        self.weights()
        self.events.append("scored")
        return samples.flatten(1).mean(1)


@pytest.mark.parametrize("name", MADE)
def test_a_reward_that_is_made_has_read_no_weights(name, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    made = MADE[name](folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="there"):
        made.weights()


def test_weights_are_loaded_once_whichever_thread_or_copy_asks():
    loads = []

    def load():
        loads.append(1)
        time.sleep(0.05)
        return object()

    weights = Weights(load)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda asked: asked(), [weights, copy(weights)] * 4)]
    assert len({*map(id, found)}) == len(loads) == 1


def test_what_failed_to_load_is_tried_again():
    tries = iter([ValueError("the network is down"), None])

    def load():
        if error := next(tries):
            raise error
        return "here"

    weights = Weights(load)
    with pytest.raises(ValueError, match="network"):
        weights()
    assert weights() == "here"


def test_weights_that_inference_mode_asked_for_have_a_gradient_later():
    weights = Weights(lambda: torch.nn.Linear(2, 1))
    with torch.inference_mode():
        weights()
    given = torch.ones(1, 2, requires_grad=True)
    weights()(given).sum().backward()
    assert given.grad is not None


def test_all_that_a_reward_is_made_of_is_prepared():
    a, b, c = Heavy(), Heavy(), Heavy()
    rewards.prepare(rewards.z_scored(a, rewards.minimum(PerFrame(b), "jpeg"), PerFrame({c: 1, "jpeg": 2})))
    assert [each.events for each in (a, b, c)] == [["loaded"]] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithm": "evosearhc"}, "algorithm must be one of"),
        ({"elite": 1}, "evosearch has no knob 'elite'"),
        ({"budget": "many"}, "budget must be a Budget"),
        ({"stop_at": "high"}, "stop_at must be a number"),
        ({"held_out": "jpge"}, "did you mean 'jpeg'"),
        ({"held_out": ["shapes", {"jpge": 1}]}, "did you mean 'jpeg'"),
        ({"held_out": "minimum(shapes, z_scored(jpge))"}, "did you mean 'jpeg'"),
        ({"held_out": "minimun(shapes, jpeg)"}, "did you mean 'minimum'"),
        ({"reward": ["image_reward", "jpge"]}, "did you mean 'jpeg'"),
        ({"reward": "weighted({image_reward: 1, jpge: 1})"}, "did you mean 'jpeg'"),
        ({"run_dir": "taken"}, "run folder must be new or empty"),
        ({"score_cache": "file"}, "score cache .* cannot be opened"),
        ({"warm_start": "taken"}, "warm_start must be the folder of one earlier run"),
    ],
)
def test_what_is_misspelled_is_told_before_a_reward_is_made(wrong, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr(ImageReward, "__init__", lambda *_: pytest.fail("a reward was made"))
    monkeypatch.setattr(es.models, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        es.search("shapes-diffusion", "a red circle", **{"reward": "image_reward", **wrong})


@pytest.mark.parametrize("wrong", [{"algorithm": "best_of_n", "n": 2.5}, {"budget": 4}, {"rate": "x"}, {"steps": 7}])
def test_knobs_and_budgets_that_make_no_sense_are_told_before_weights_are_loaded(wrong):
    guidance, judge = Heavy(), Heavy()
    with pytest.raises(ValueError):
        toy.found(reward=guidance, held_out=judge, **wrong)
    assert guidance.events == judge.events == []


@pytest.mark.parametrize("budget", [40, "0.2s"])
def test_a_search_loads_all_weights_before_its_first_step(budget):
    events = []

    def denoiser(x, alpha, sigma):
        events.append("step")
        return alpha * x

    sampler = es.DenoiserSampler(denoiser, NoisePath.cosine(5), (3, 4, 4), decode=torch.sigmoid, batch_size=4)
    toy.found(pipe=sampler, reward=Heavy(events), held_out=Heavy(events), budget=budget, algorithm="best_of_n")
    assert events.count("loaded") == 2
    if budget == 40:
        assert events[:3] == ["loaded", "loaded", "step"]
    else:  # the pace is measured first, of which loading is no part
        assert events[:2] == ["loaded", "step"]
        assert events[events.index("scored") + 1] == "loaded"
