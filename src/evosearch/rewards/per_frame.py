"""Any reward of pictures as one of videos: frames judged alone, all in one batch, and their scores brought together."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from evosearch import rewards
from evosearch.checks import one_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity, lasting
from evosearch.rewards.facts import Facts
from evosearch.rewards.weights import Weights

_ITS = "of the reward that it is given"
FACTS = Facts(_ITS, _ITS, "a reward of pictures", fetched=_ITS, given="a reward")
REDUCTIONS = {"mean": torch.mean, "min": torch.amin}


class PerFrame:
    """What a reward of pictures says of the frames of a video, each by itself.

    The rewards of pictures give a video the mean of all its frames anyway; here fewer of them are judged, or the worst
    one counts. A reward that would look at frames together (``shapes`` at motion, your own function at a list of them)
    is given pictures, and judges stills. Frames of all samples go to the reward at once; a picture is a video of one
    frame. Differentiable where the reward is.

    Args:
        reward: A name, a callable or ``{name: weight}``, as ``reward=`` of a search takes it.
        every: Judge frames 0, k, 2k and so on.
        reduce: ``mean`` of the frames, or ``min``: as good as the worst of them.

    Raises:
        ValueError: The reward cannot be had, or has a price for each picture.

    Example:
        >>> worst = PerFrame("jpeg", every=8, reduce="min")
        >>> worst(torch.zeros(2, 17, 3, 64, 64), ["", ""])
        tensor([-0.6910, -0.6910])
    """

    def __init__(self, reward: Any = None, every: int = 1, reduce: str = "mean") -> None:
        if reward is None:
            raise ValueError("per_frame needs a reward of pictures; give its name, as in per_frame:clip_score")
        self._every = whole_number("every", every, least=1)
        self._reduce = one_of("reduce", reduce, [*REDUCTIONS])
        self._reward = rewards.resolve(reward)
        self.weights = Weights(lambda: rewards.prepare(self._reward))
        name = rewards.name_of(reward)
        if getattr(self._reward, "usd_per_call", 0):
            raise ValueError(
                f"per_frame takes no reward that costs money for each picture, as {name} does: how many frames there "
                "are to pay for is not known beforehand; a judge takes a video as it is, and so many of its frames="
            )
        self.differentiable: bool = getattr(self._reward, "differentiable", False)
        self.device: torch.device | None = getattr(self._reward, "device", None)
        self.remote: bool = getattr(self._reward, "remote", False)
        self.allow_missing = rewards.allowed_missing(self._reward)
        options = [f"every={every}"] * (every > 1) + [f"reduce={reduce}"] * (reduce != "mean")
        self.__name__ = f"per_frame({', '.join([name, *options])})"
        if not lasting(self._reward):
            self.cache_key = None

    @cached_property
    def cache_key(self) -> str | None:
        """See `evosearch.rewards.cache`; none where the reward has none."""
        return identity("per_frame", reward=cast(Any, self._reward).cache_key, every=self._every, reduce=self._reduce)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples against their prompts.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1].
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample of which a frame is.

        Raises:
            ValueError: `samples` is not of that shape, has no frames, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        frames = samples[:, None] if samples.ndim == 4 else samples[:, :: self._every]
        count = frames.shape[1]
        if not count:
            raise ValueError(f"samples: expected at least one frame, got {tuple(samples.shape)}")
        each = [prompt for prompt in prompts for _ in range(count)]
        scores = rewards.scores(self._reward, frames.flatten(0, 1), each, self.__name__)
        return REDUCTIONS[self._reduce](scores.view(-1, count), dim=1)

    def cancel(self) -> None:
        """End the call that another thread waits for, where the reward can."""
        getattr(self._reward, "cancel", lambda: None)()

    def check(self, prompt: str, video: bool | None = None) -> None:
        """ValueError where the reward cannot judge a picture of this prompt."""
        del video
        rewards.check(self._reward, prompt, video=False)
