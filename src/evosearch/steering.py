"""Steering: a particle goes to its end by noises that are mixed of several by the rewards that they lead to.

Yeh, Lee, Chen (2024), "Training-free Diffusion Model Alignment with Sampling Demons", arXiv:2410.05760.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evosearch.scoring import preview, score
from evosearch.types import Population, Reward, Sampler

MIXES = ("tanh", "softmax")


def steered(
    p: Population,
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    noises: int,
    lookahead: int = 1,
    weights: str = "tanh",
    temperature: float = 0.1,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Step by noises that lean towards those of high rewards and away from those of low ones.

    The last step adds no noise and is not steered. That takes as many NFE as denoising alone, and those of `looks`.

    Args:
        p: One particle.
        sampler: The model with its prompt.
        reward: Judges previews, and the sample.
        rng: Draws the noises' ids.
        noises: Tried at each step.
        lookahead: Deterministic steps that judge a noise; 1 is x0 as predicted.
        weights: Of `MIXES`: ``tanh`` of the reward's distance to the mean, or ``softmax``.
        temperature: Of the softmax.
        eta: 1 = ancestral SDE; at 0 there is no noise to choose.

    Yields:
        The state after each step, then the finished one.
    """
    p = sampler.predict(p)
    while p.i < sampler.steps - 1:
        tried = p.branch(torch.zeros(noises, dtype=torch.int64), rng)  # its own noise is among them
        z = sampler.noise(tried.key, p.i, "step")
        tried = preview(sampler.step(tried, eta, z), sampler, reward, lookahead)
        assert tried.reward is not None
        share = _shares(tried.reward, weights, temperature).float().view(-1, *[1] * (z.ndim - 1))
        mixed = (share * z).sum(0, keepdim=True)
        length = mixed.norm()
        z = mixed / length * z[0].numel() ** 0.5 if length > 0 else z[:1]
        p = sampler.predict(sampler.step(p, eta, z))
        yield p
    p = sampler.step(p, eta)
    yield score(p.given(p.x, rng), sampler, reward)


def looks(steps: int, level: int, lookahead: int = 1) -> list[int]:
    """NFE that judge one noise, at each step that is steered on the way from a level."""
    return [min(lookahead, steps - i) for i in range(level + 1, steps)]


def affordable(nfe: int, steps: int, level: int, start: int) -> int:
    """How many noises a step so many NFE try for a particle at a level, which is steered from ``start`` on."""
    return (nfe - (steps - level)) // sum(looks(steps, start))


def _shares(reward: Tensor, kind: str, temperature: float) -> Tensor:
    """(N,), 0 where the reward is not finite, or where all are alike."""
    reward, valid = reward.double(), reward.isfinite()
    if not valid.any():
        return torch.zeros_like(reward)
    apart = torch.where(valid, reward - reward[valid].mean(), 0.0)
    if kind == "tanh":
        return torch.tanh(apart / apart[valid].std(correction=0).clamp(min=1e-12))
    return torch.softmax(torch.where(valid, apart / temperature, -torch.inf), 0)
