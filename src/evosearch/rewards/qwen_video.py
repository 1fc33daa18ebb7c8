"""Videos as the Qwen-VL family is given them. Not a reward; several are made of it.

Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv:2502.13923. Frames are sampled evenly by time, resized to sides
of whole tokens within a budget of pixels, and cut into patches, two frames in one. It is done as by qwen-vl-utils, with
which the rewards were made; the processors of transformers choose other frames and sizes, and need torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.rewards.pixels import eight_bit
from evosearch.rewards.qwen_vl import QwenVL, sized

LEAST_PIXELS = 128 * 28**2  # of a frame
_PAIR = 2  # frames in a patch
_LEAST_FRAMES, _MOST_FRAMES = 4, 768


class QwenVideo(QwenVL):
    """A `QwenVL` whose messages have a video each: instead of pictures, the frames of one, an even number.

    Args:
        model: See `QwenVL`.
        tokenizer: The model's.
        device: Where it computes; None: the GPU if there is one.
        batch_size: Messages at a time.
        most: Pixels of a frame.
        whole: Pixels of all frames of a video together.
    """

    mark, kind = "<|video_pad|>", 2
    names = ("video_token_id", "pixel_values_videos", "video_grid_thw")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str | None,
        batch_size: int,
        most: float,
        whole: float = math.inf,
    ) -> None:
        super().__init__(model, tokenizer, device, batch_size, LEAST_PIXELS, most)
        self._whole = whole

    def _clips(self, pictures: Tensor) -> Tensor:
        count, length, _, height, width = pictures.shape
        most = min(self._most, self._whole / length)
        size = sized(height, width, self._patch * self._merge, self._least, most)
        frames = functional.interpolate(eight_bit(pictures.flatten(0, 1)), size, mode="bicubic", antialias=True)
        return eight_bit(frames).unflatten(0, (count, length))


def sampled(frames: int, rate: float, fps: float, whole: Callable[[float], int] = round) -> list[int]:
    """Which frames of a video are looked at: so many a second, an even number, at least 4 where there are.

    Args:
        frames: It has, at least 2.
        rate: At which it is shown, per second.
        fps: To look at, per second.
        whole: How half their number is rounded; qwen-vl-utils does it by ``math.floor`` since 2025.

    >>> sampled(81, 16, 2)
    [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]
    """
    most = min(_MOST_FRAMES, frames) // _PAIR * _PAIR
    count = whole(min(max(frames / rate * fps, _LEAST_FRAMES), most) / _PAIR) * _PAIR
    return torch.linspace(0, frames - 1, count).round().int().tolist()
