"""Demon: at every step, a noise mixed of several by the rewards that they lead to.

Yeh, Lee, Chen (2024), "Training-free Diffusion Model Alignment with Sampling Demons", arXiv:2410.05760.

Differs from the paper:
- a noise is judged by a few deterministic steps to the end, not by all of them;
- every step is searched but the last, which adds no noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import above_zero, one_of, whole_number
from evosearch.declaration import Wave, search
from evosearch.scoring import preview, score
from evosearch.types import Population, Reward, Sampler


def _waves(
    steps: int, *, noises: int, lookahead: int = 2, weights: str = "tanh", temperature: float = 0.1, **_: Any
) -> list[Wave]:
    whole_number("noises", noises, 1)
    whole_number("lookahead", lookahead, 1)
    one_of("weights", weights, ("tanh", "softmax"))
    above_zero("temperature", temperature)
    tried = [[Wave(noises, min(lookahead, steps - i)), Wave(1, 1, 0)] for i in range(1, steps)]
    return [Wave(1, 1, 0), *(wave for step in tried for wave in step), Wave(1, 0)]


@search(waves=_waves, fit="noises", space="trajectory", needs=("SDE", "previews"))
def demon(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    noises: int,
    lookahead: int = 2,
    weights: str = "tanh",
    temperature: float = 0.1,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Step by a noise that leans towards those of high rewards and away from those of low ones.

    NFE: 1 + Σ_{i ≥ 1} (noises · min(lookahead, steps - i) + 1).
    Rewards: noises · (steps - 1) + 1.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the noises' ids.
        noises: Tried at each step; the paper's K, 16.
        lookahead: Deterministic steps that judge a noise; 1 is x0 as predicted.
        weights: ``tanh`` of the reward's distance to the mean, or ``softmax``.
        temperature: Of the softmax.
        eta: 1 = ancestral SDE; at 0 there is no noise to choose.

    Yields:
        The state after each step, then the finished one.
    """
    _waves(sampler.steps, noises=noises, lookahead=lookahead, weights=weights, temperature=temperature)
    p = sampler.predict(sampler.prior(1))
    while p.i < sampler.steps - 1:
        tried = p.branch(torch.zeros(noises, dtype=torch.int64), rng)  # its own noise is among them
        z = sampler.noise(tried.key, p.i, "step")
        tried = preview(sampler.step(tried, eta, z), sampler, reward, lookahead)
        assert tried.reward is not None
        share = _weights(tried.reward, weights, temperature).float().view(-1, *[1] * (z.ndim - 1))
        mixed = (share * z).sum(0, keepdim=True)
        length = mixed.norm()
        z = mixed / length * z[0].numel() ** 0.5 if length > 0 else z[:1]
        p = sampler.predict(sampler.step(p, eta, z))
        yield p
    p = sampler.step(p, eta)
    yield score(p.given(p.x, rng), sampler, reward)


def _weights(reward: Tensor, kind: str, temperature: float) -> Tensor:
    """(N,), 0 where the reward is not finite, or where all are alike."""
    reward, valid = reward.double(), reward.isfinite()
    if not valid.any():
        return torch.zeros_like(reward)
    apart = torch.where(valid, reward - reward[valid].mean(), 0.0)
    if kind == "tanh":
        return torch.tanh(apart / apart[valid].std(correction=0).clamp(min=1e-12))
    return torch.softmax(torch.where(valid, apart / temperature, -torch.inf), 0)
