"""Scoring a batch costs what the bare model and its preprocessing cost, and hardly more."""

import time
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from tiny_clip import PROMPTS
from tiny_rewards import MADE
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from evosearch import rewards

PREPARES = ("cropped", "contained", "normalised")


class Bare:
    """Processor time of this thread in models and in what prepares pictures for them, whichever is outermost."""

    def __init__(self):
        self.depth, self.seconds = 0, 0.0

    def enter(self, *_):
        self.depth += 1
        if self.depth == 1:
            self.start = time.thread_time()

    def leave(self, *_):
        self.depth -= 1
        if self.depth == 0:
            self.seconds += time.thread_time() - self.start

    def wrapped(self, work):
        def timed(*args):
            self.enter()
            try:
                return work(*args)
            finally:
                self.leave()

        return timed


@contextmanager
def watched(name, monkeypatch):
    bare, module = Bare(), import_module(f"evosearch.rewards.{name}")
    hooks = [register_module_forward_pre_hook(bare.enter), register_module_forward_hook(bare.leave)]
    for part in PREPARES:
        if hasattr(module, part):
            monkeypatch.setattr(module, part, bare.wrapped(getattr(module, part)))
    yield bare
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", [*MADE, "shapes_clip"])
def test_a_batch_of_32_takes_a_tenth_more_than_the_bare_model_at_the_most(name, tmp_path, monkeypatch):
    """The models are tiny, which is the hardest case: with real ones, all that is not theirs is a smaller share."""
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))
    made = rewards.load(name) if name == "shapes_clip" else MADE[name](tmp_path)
    side = 64 if name == "shapes_clip" else 256
    samples = torch.randint(0, 256, (32, 3, side, side), generator=torch.Generator().manual_seed(0)).float() / 255
    prompts = ["two red circles"] * 32 if name == "shapes_clip" else [*PROMPTS] * 8
    made(samples[:1], prompts[:1])
    ratios = []
    with watched(name, monkeypatch) as bare:
        for _ in range(3):
            bare.seconds, start = 0.0, time.thread_time()
            made(samples, prompts)
            ratios.append((time.thread_time() - start) / bare.seconds)
    print(f"{name}: {min(ratios):.3f} times the bare model, {max(ratios):.3f} at the most")
    assert min(ratios) <= 1.1
