"""What rewards that rate videos in several parts have in common: which part is asked for, frame rates, refusals."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from evosearch.checks import above_zero, one_of, samples_and_prompts, whole_number
from evosearch.rewards.clip import device_of
from evosearch.rewards.pixels import finite
from evosearch.rewards.qwen_video import QwenVideo

_RATE = 16.0  # frames per second of a video of which nothing else is known; Wan's
_LEAST_FRAMES = 2
_LONGEST = 200  # times the other side


class VideoRating:
    """A reward of videos that is the sum or mean of several ratings, or one of them.

    A subclass has `name`, `ratings` and `weights`, a `QwenVideo` among them, and says which frames it looks at, how it
    rates them, and what the whole is.

    Args:
        dimension: One of the ratings, or ``Overall``.
        frame_rate: Of the videos, per second; None: of the pipeline in a run, else 16.
        device: Where it computes; None: the GPU if there is one.
        batch_size: Videos at a time.
    """

    name: str
    ratings: Sequence[str]

    def __init__(
        self, dimension: str, frame_rate: float | None, device: torch.device | str | None, batch_size: int
    ) -> None:
        self.dimension = one_of("dimension", dimension, ("Overall", *self.ratings))
        self.frame_rate = None if frame_rate is None else above_zero("frame_rate", frame_rate)
        self._batch_size = whole_number("batch_size", batch_size, least=1)
        self.device = device_of(device)

    @property
    def __name__(self) -> str:
        return self.name if self.dimension == "Overall" else f"{self.name} {self.dimension}"

    def only(self, dimension: str) -> Self:
        """The same reward of another dimension; the weights are shared."""
        other = copy.copy(self)
        other.dimension = one_of("dimension", dimension, ("Overall", *self.ratings))
        return other

    def at_frame_rate(self, rate: float) -> Self:
        """The same reward for videos of so many frames per second, unless it was told another rate."""
        other = copy.copy(self)
        other.frame_rate = self.frame_rate or rate
        return other

    def check(self, prompt: str, video: bool | None = None) -> None:
        """ValueError where images are to be generated."""
        del prompt
        if video is False:
            raise ValueError(f"{self.name} judges videos, and images are to be generated; take a reward of images")

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score videos against their prompts.

        Args:
            samples: (N, F, 3, H, W) in [0, 1], rounded to 8 bits; F at least 2, one side at most 200 times the other.
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity, or is not rated.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        rated = self.rated(samples, prompts)
        return self._whole(rated) if self.dimension == "Overall" else rated[:, [*self.ratings].index(self.dimension)]

    def rated(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """All ratings of videos, (N, ratings) float32; else as a call."""
        self._refuse(samples, prompts)
        scores = samples.new_full((len(samples), len(self.ratings)), torch.nan, dtype=torch.float32)
        seen = samples[:, self._chosen(samples.shape[1])]
        for rows in finite(samples).nonzero()[:, 0].split(self._batch_size):
            if len(rows):
                scores[rows] = self._rate(seen[rows], [prompts[row] for row in rows]).to(scores)
        return scores

    def _refuse(self, samples: Tensor, prompts: list[str]) -> None:
        samples_and_prompts(samples, prompts)
        frames = samples.shape[1] if samples.ndim == 5 else 1
        if frames < _LEAST_FRAMES:
            raise ValueError(f"samples: {self.name} judges videos, expected at least 2 frames of each, got {frames}")
        height, width = samples.shape[-2:]
        if max(height, width) > _LONGEST * min(height, width):
            raise ValueError(
                f"samples: {self.name} takes videos of which one side is at most {_LONGEST} times the other, "
                f"got {height} x {width}; generate others"
            )

    def _identity(self, *others: nn.Module, **settings: Any) -> str:
        """For its ``cache_key``: what scores depend on, with those settings that all such rewards have."""
        asked = {"dimension": self.dimension, "frame_rate": self._shown_at}
        return self._qwen.identity(self.name, *others, **asked, **settings)

    @property
    def _shown_at(self) -> float:
        """Frames of its videos per second."""
        return float(self.frame_rate or _RATE)

    @property
    def _qwen(self) -> QwenVideo:
        """The model, loaded if need be."""
        raise NotImplementedError

    def _chosen(self, frames: int) -> list[int]:
        """Which frames of a video of so many are looked at."""
        raise NotImplementedError

    def _rate(self, videos: Tensor, prompts: list[str]) -> Tensor:
        """Ratings of finite videos, of which these are the chosen frames, n at most the batch size, (n, ratings)."""
        raise NotImplementedError

    def _whole(self, rated: Tensor) -> Tensor:
        """The score of all ratings together, (N, ratings) to (N,)."""
        raise NotImplementedError
