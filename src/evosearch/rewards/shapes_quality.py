"""How well drawn is the picture, whatever it shows? Sharp edges and clean colours, for the shapes world.

The aesthetic score of this world: it knows no prompt, and likes a wrong picture that is well drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evosearch.checks import samples_and_prompts
from evosearch.rewards.cache import identity
from evosearch.rewards.facts import Facts
from evosearch.shapes import COLOURS

FACTS = Facts("0 to 1", "Apache-2.0", "no prompt")

# The plane across the grey axis: lightness vanishes, so the ground does not count, whatever its grey.
_PLANE = torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.75**0.5, -(0.75**0.5)]])
_PALETTE = torch.tensor(list(COLOURS.values())) / 255 @ _PLANE.T  # (colours, 2)
_SHARPEST = 0.55  # of an edge drawn over a pixel and a half, as anti-aliased ones are
_ASTRAY = 0.25  # distance in colour at which nothing is left of its cleanness, nearly


def shapes_quality(samples: Tensor, prompts: list[str]) -> Tensor:
    """Sharpness and cleanness of pictures of the shapes world, the mean of both.

    Sharpness: an edge of height h spread over w pixels has gradients that sum to h and squares that sum to h²/w, so
    their ratio tells the width. Cleanness: how near coloured pixels are to a full colour, by their strength.
    Differentiable.

    Args:
        samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1]; a video has the mean of its frames.
        prompts: N of them; not looked at.

    Returns:
        (N,) float32 in [0, 1]; 0 for a picture without colour, NaN for one that holds NaN.

    Raises:
        ValueError: `samples` is not of that shape, or has another number of prompts.
    """
    samples_and_prompts(samples, prompts)
    frames = samples.flatten(0, -4)
    colour = torch.einsum("pc,nchw->nphw", _PLANE.to(frames), frames)
    quality = (_sharpness(colour) + _cleanness(colour)) / 2
    return quality.view(len(samples), -1).mean(1)


def _sharpness(colour: Tensor) -> Tensor:
    """(N, 2, H, W) to (N,): the mean gradient at edges, weighted by itself."""
    strength = colour.square().sum(1).add(1e-8).sqrt() / _PALETTE.norm(dim=1).mean().to(colour)
    across, down = strength[:, 1:, 1:] - strength[:, 1:, :-1], strength[:, 1:, 1:] - strength[:, :-1, 1:]
    slope = (across.square() + down.square()).add(1e-8).sqrt()
    weight = slope.sum((1, 2))
    ratio = slope.square().sum((1, 2)) / weight.clamp(min=1.0)
    return (ratio / _SHARPEST).clamp(max=1)


def _cleanness(colour: Tensor) -> Tensor:
    """(N, 2, H, W) to (N,): nearness of pixels to the palette, weighted by their strength."""
    palette = _PALETTE.to(colour)
    distance = (colour[:, None] - palette[None, :, :, None, None]).square().sum(2).amin(1)
    strength = colour.square().sum(1)
    near = (-distance / _ASTRAY**2).exp()
    return (near * strength).sum((1, 2)) / strength.sum((1, 2)).clamp(min=1.0)


shapes_quality.differentiable = True  # pyright: ignore[reportFunctionMemberAccess]
shapes_quality.cache_key = identity("shapes_quality")  # pyright: ignore[reportFunctionMemberAccess]
