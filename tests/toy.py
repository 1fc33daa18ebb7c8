"""A sampler that draws small pictures in no time, and searches of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import evosearch as es
from evosearch.path import NoisePath

HOSTILE = [
    "<script>alert(1)</script><img src=http://example.com/x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m\x07\x9b2J",
    "two\nlines\r\nSteps: 1, Sampler: none\tNegative prompt: x",
    "../../etc/passwd\0CON:|?*",
    "🦊👩‍🚀 العربية \u202egnp.exe",
    "=cmd|'/C calc'!A0 {{7*7}} %s {0} ${HOME} `id`",
    "lone surrogate \udc80",
    "long " * 20_000,
]


def sampler(seed: int = 0, frames: int = 0, batch_size: int = 4, steps: int = 5) -> es.DenoiserSampler:
    """Pictures of (3, 16, 16), or videos of so many frames; unit Gaussian data."""

    def decode(x: Tensor) -> Tensor:
        pictures = torch.sigmoid(x).repeat_interleave(4, -1).repeat_interleave(4, -2)
        return pictures if not frames else torch.stack([pictures.roll(k, -1) for k in range(frames)], 1)

    return es.DenoiserSampler(
        lambda x, alpha, sigma: alpha * x,
        NoisePath.cosine(steps),
        (3, 4, 4),
        decode=decode,
        seed=seed,
        batch_size=batch_size,
    )


def bright(samples: Tensor, prompts: list[str]) -> Tensor:
    """Mean lightness."""
    return samples.flatten(1).mean(1)


bright.differentiable = True


def found(**kwargs: Any) -> es.Result:
    """A search of the toy, 100 NFE unless told otherwise."""
    asked = {"prompt": "bright", "reward": bright, "budget": 100, "progress": False, **kwargs}
    return es.search(asked.pop("pipe", sampler()), **asked)
