"""Scoring 32 samples costs what preparing them and passing them through the bare model once cost, and hardly more."""

import sys
import time
from contextlib import contextmanager
from importlib import import_module
from statistics import median

import pytest
import test_rewards_aesthetic_v2_5 as look
import test_rewards_unified_reward as talking
import tiny_qwen_vl
import tiny_videos
import torch
from test_rewards_hps_v3 import WORDS, save, weights
from tiny_clip import PROMPTS
from tiny_rewards import MADE
from torch import nn

from evosearch import rewards
from evosearch.rewards.aesthetic_v2_5 import AestheticV25
from evosearch.rewards.hps_v3 import HpsV3
from evosearch.rewards.qwen_vl import QwenVL
from evosearch.rewards.unified_reward import UnifiedReward
from evosearch.rewards.vqa_score import VqaScore

PREPARES = ("cropped", "contained", "resized", "eight_bit", "normalised")
COUNT = 32
MOST = 1.1  # times the bare model
WHOLE = {"dtype": torch.float32, "device": "cpu", "batch_size": COUNT}


def vqa_score(folder):
    return VqaScore(tiny_qwen_vl.folder(folder, tiny_qwen_vl.qwen2_5(WORDS), WORDS), **WHOLE)


def unified_reward(folder):
    return UnifiedReward(tiny_qwen_vl.folder(folder, *talking.talker(talking.LINES.values())), **WHOLE)


def hps_v3(folder):
    return HpsV3(save(folder, weights()), folder, **WHOLE)


QWENS = {"vqa_score": vqa_score, "unified_reward": unified_reward, "hps_v3": hps_v3}
VIDEOS = {name: lambda folder, make=make: make(folder, batch_size=COUNT) for name, make in tiny_videos.MADE.items()}


class Bare:
    """What a call of a reward has models and what prepares pictures for them do, outermost calls alone, by order.

    Attributes:
        calls: Each with all that it was given.
    """

    def __init__(self):
        self.depth, self.calls = 0, []

    def watched(self, work):
        def noting(*args, **kwargs):
            if not self.depth:
                self.calls.append((work, args, kwargs))
            self.depth += 1
            try:
                return work(*args, **kwargs)
            finally:
                self.depth -= 1

        return noting

    def at_once(self):
        """The same, done once for all samples, however many calls there were."""
        of = {}
        for work, args, kwargs in self.calls:
            what = (work, args[0] if isinstance(args[0], nn.Module | QwenVL) else None)
            of.setdefault(what, []).append((args, kwargs))
        return [
            (work, joined([args for args, _ in each]), joined([kwargs for _, kwargs in each]))
            for (work, _), each in of.items()
        ]


def joined(parts):
    """Arguments of several calls as those of one: tensors and lists one behind the other, others as in the first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(parts) if first.ndim else first
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(joined([*each]) for each in zip(*parts, strict=True))
    return [item for part in parts for item in part] if isinstance(first, list) else first


@contextmanager
def watching(name):
    bare, module = Bare(), import_module(f"evosearch.rewards.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__call__", bare.watched(nn.Module.__call__))
        for part in ("inputs", "written"):  # of a model that writes, all passes of an answer are what is bare
            patch.setattr(QwenVL, part, bare.watched(getattr(QwenVL, part)))
        for part in PREPARES:
            if hasattr(module, part):
                patch.setattr(module, part, bare.watched(getattr(module, part)))
        yield bare


def samples_of(name):
    generator = torch.Generator().manual_seed(0)
    size = {"shapes_clip": (3, 64, 64), **dict.fromkeys(VIDEOS, (2, 3, 112, 112))}.get(name, (3, 256, 256))
    prompts = ["two red circles"] if name in ("shapes_clip", *QWENS) else [*PROMPTS]  # as in a search, all the same
    drawn = torch.randint(0, 256, (COUNT, *size), generator=generator).float() / 255
    return drawn, (prompts * COUNT)[:COUNT]


def seconds(work):
    """Of this thread's processor."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def calls(name, made):
    """What a call of a reward asks of models and of what prepares pictures for them."""
    samples, prompts = samples_of(name)
    made(samples, prompts)  # what is read of prompts is known from here on
    with watching(name) as bare:
        made(samples, prompts)
    return bare


def times_the_bare_model(name, made):
    samples, prompts = samples_of(name)
    bare = calls(name, made)
    at_once = bare.at_once()

    def bare_model():
        with torch.no_grad():
            for work, args, kwargs in at_once:
                work(*args, **kwargs)

    bare_model()
    pairs = max(3, round(0.3 / seconds(bare_model)))
    ratio = float("inf")
    for _ in range(5):  # what else goes on here may slow down one of a pair, hardly most of all in each try
        tries = [seconds(lambda: made(samples, prompts)) / seconds(bare_model) for _ in range(pairs)]
        ratio = min(ratio, median(tries))
        if ratio <= MOST:
            break
    print(f"{name}: {ratio:.3f} times the bare model, in {len(bare.calls)} calls")
    return ratio


def aesthetic_v2_5(folder):
    return AestheticV25(look.saved(folder), folder, device="cpu")


EACH = {
    "shapes_clip": lambda folder: rewards.load("shapes_clip"), **MADE, "aesthetic_v2_5": aesthetic_v2_5, **QWENS,
    **VIDEOS,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))
    if not look.INSTALLED:
        look.stand_in(tmp_path, monkeypatch)
    yield tmp_path
    if not look.INSTALLED:
        sys.modules.pop(look.PACKAGE, None)


@pytest.mark.parametrize("name", EACH)
def test_a_batch_of_32_takes_a_tenth_more_than_the_bare_model_at_the_most(name, folder):
    """The models are tiny, which is the hardest case: with real ones, all that is not theirs is a smaller share."""
    made = EACH[name](folder)
    assert times_the_bare_model(name, made) <= MOST
    bare = calls(name, made)
    assert len(bare.calls) == len(bare.at_once())  # one pass of each model, whatever the clock says


@pytest.mark.parametrize("name", MADE)
def test_one_at_a_time_would_be_told(name, folder):
    made = MADE[name](folder, batch_size=1)
    bare = calls(name, made)
    assert len(bare.calls) >= COUNT * (len(bare.at_once()) - 1) > 0  # the head of `aesthetic` sees all at once anyway
    if name == "image_reward":  # of which the most is added each time
        assert times_the_bare_model(name, made) > MOST
