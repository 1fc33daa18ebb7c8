"""What models of pictures are given: pictures resized, cropped or padded as their authors' code does it.

That code works on one PIL image at a time, whose resize goes along one side after the other and rounds to 8 bits after
each. Here it is done in torch, by batch, and with a gradient that passes through the rounding as if there were none:
more than 98 in 100 values are PIL's own, the others next to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that OpenAI trained CLIP on; taken over by every model here."""

Crop = Literal["torchvision", "transformers"]


def by_batch(function: Callable[[Tensor], Tensor], rows: Tensor, batch_size: int) -> Tensor:
    """A function of rows, applied to so many of them at a time."""
    return torch.cat([function(part) for part in rows.split(batch_size)])


def finite(samples: Tensor) -> Tensor:
    """Which samples hold neither NaN nor infinity, (N,)."""
    return samples.detach().flatten(1).sum(1, dtype=torch.float32).isfinite()  # 25 times as fast as to ask each value


def eight_bit(pixels: Tensor) -> Tensor:
    """Values in [0, 1] rounded to 256 levels, halves up as PIL does; the gradient does not see the rounding."""
    inside = pixels.clamp(0, 1)
    rounded = (inside.detach() * 255).add_(0.5).floor_().div_(255)
    return inside + (rounded - inside).detach() if inside.requires_grad else rounded


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """PIL's bicubic resize of 8-bit pictures (N, 3, H, W) in [0, 1]."""
    across = eight_bit(_bicubic(pixels, pixels.shape[-2], width))
    return eight_bit(_bicubic(across, height, width))


def cropped(frames: Tensor, side: int, crop: Crop) -> Tensor:
    """The short side resized to ``side``, and the square in the middle.

    Args:
        frames: (N, 3, H, W) in [0, 1], rounded to 8 bits first.
        side: Of the square, in pixels.
        crop: Whose square it is: they differ by one pixel where what is cut off is odd.
    """
    *_, height, width = frames.shape
    short = min(height, width)
    height, width = int(side * height / short), int(side * width / short)
    top, left = (
        round((length - side) / 2) if crop == "torchvision" else (length - side) // 2 for length in (height, width)
    )
    return resized(eight_bit(frames), height, width)[..., top : top + side, left : left + side]


def normalised(pixels: Tensor) -> Tensor:
    """As CLIP is given pixels (N, 3, H, W) in [0, 1]."""
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def _bicubic(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    return functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
