"""Models of 3-vectors that act on each number alone, so that their bits depend on no batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evosearch.path import NoisePath
from evosearch.sampler import DenoiserSampler

CORNER = torch.tensor([1.0, -1.0, 0.5])


def curved(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """A nonlinear denoiser out of additions, products and quotients, which round alike everywhere."""
    return 2 * x / (1 + x * x) + (0.3 * alpha - 0.2 * sigma)


def gaussian(variance: float):
    """The exact denoiser of data drawn from N(0, variance)."""
    return lambda x, alpha, sigma: alpha * variance / (alpha**2 * variance + sigma**2) * x


def nearness(samples: Tensor) -> Tensor:
    """Reward of 3-vectors, or of 2x2 pictures' mean colours: minus the squared distance to a corner, in 256ths."""
    if samples.ndim > 2:
        samples = (samples[..., 0, 0] + samples[..., 0, 1] + samples[..., 1, 0] + samples[..., 1, 1]) / 4
    a, b, c = (samples - CORNER).square().unbind(1)
    return (-256 * (a + b + c)).round() / 256


def sampler(steps: int = 10, denoise: Any = curved, **kwargs: Any) -> DenoiserSampler:
    """A sampler of 3-vectors."""
    return DenoiserSampler(denoise, **{"path": NoisePath.cosine(steps), "shape": (3,), **kwargs})


def fields(p: Any) -> dict[str, Any]:
    """A population's tensors as lists, for comparison bit by bit."""
    return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in vars(p).items()}
