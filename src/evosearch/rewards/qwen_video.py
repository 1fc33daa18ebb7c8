"""Videos and questions as the Qwen-VL family is given them. Not a reward; several are made of it.

Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv:2502.13923. Frames are sampled evenly by time, resized to sides
of whole tokens within a budget of pixels, and cut into patches, two frames in one. It is done as by qwen-vl-utils, with
which the rewards were made; the processors of transformers choose other frames and sizes, and need torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.rewards.pixels import eight_bit, normalised

TOKEN = 28  # pixels along a side
LEAST_PIXELS = 128 * TOKEN**2  # of a frame
TOKENIZER = ("tokenizer_config.json", "tokenizer.json|vocab.json", "tokenizer.json|merges.txt")
VIDEO = "<|video_pad|>"
_PATCH, _PAIR = 14, 2
_LEAST_FRAMES, _MOST_FRAMES = 4, 768


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


def sized(height: int, width: int, most: float) -> tuple[int, int]:
    """The size of a frame in whole tokens, of as nearly its shape and of `LEAST_PIXELS` to ``most`` pixels.

    >>> sized(480, 832, 448 * 448)
    (336, 588)
    """
    sides = [max(TOKEN, round(side / TOKEN) * TOKEN) for side in (height, width)]
    if math.prod(sides) > most:
        shrink = math.sqrt(height * width / most)
        sides = [math.floor(side / shrink / TOKEN) * TOKEN for side in (height, width)]
    elif math.prod(sides) < LEAST_PIXELS:
        grow = math.sqrt(LEAST_PIXELS / (height * width))
        sides = [math.ceil(side * grow / TOKEN) * TOKEN for side in (height, width)]
    return sides[0], sides[1]


def patches(videos: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Videos as the model sees them.

    Args:
        videos: (N, F, 3, H, W) in [0, 1], F even; rounded to 8 bits before and after the resize, which is bicubic.
        most: Pixels of a frame.

    Returns:
        Patches (N * P, 1176), those of a token together, and their grid (N, 3) in time, height and width.
    """
    height, width = videos.shape[-2:]
    size = sized(height, width, most)
    frames = functional.interpolate(eight_bit(videos.flatten(0, 1)), size, mode="bicubic", antialias=True)
    count, length = videos.shape[:2]
    grid = (length // _PAIR, size[0] // _PATCH, size[1] // _PATCH)
    pixels = normalised(eight_bit(frames)).view(
        count, grid[0], _PAIR, 3, *(part for side in grid[1:] for part in (side // 2, 2, _PATCH))
    )
    found = pixels.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(count * math.prod(grid), -1)
    return found, torch.tensor([grid] * count, device=videos.device)


def asked(question: str, tokens: int) -> str:
    """A question about a video of so many tokens, in the words of the chat."""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{VIDEO * tokens}<|vision_end|>{question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def tokens_of(grid: Tensor) -> int:
    """Tokens of each video of a grid (N, 3)."""
    return int(grid[0].prod()) // (TOKEN // _PATCH) ** 2
