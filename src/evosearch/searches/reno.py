"""ReNO: noise that climbs the reward's gradient through the whole sampler.

Eyring, Karthik, Roth, Dosovitskiy, Akata (2024), "ReNO: Enhancing One-step Text-to-Image Models through Reward-based
Noise Optimization", arXiv:2406.04312.

Differs from the paper:
- the sampler may take several steps: the gradient goes through all of them, in memory that grows with their number;
- several noises may climb side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import above_zero, at_least_zero, differentiable, share, whole_number
from evosearch.declaration import Wave, search
from evosearch.mutation import noise_of
from evosearch.scoring import score, slope
from evosearch.types import Population, Reward, Sampler, concat


def _waves(
    steps: int,
    *,
    rounds: int,
    n: int = 1,
    learning_rate: float = 5.0,
    clip: float = 0.1,
    momentum: float = 0.9,
    regularise: float = 0.01,
    **_: Any,
) -> list[Wave]:
    whole_number("rounds", rounds, 1)
    whole_number("n", n, 1)
    above_zero("learning_rate", learning_rate)
    above_zero("clip", clip)
    share("momentum", momentum)
    at_least_zero("regularise", regularise)
    return [*[Wave(n, steps, passes=3)] * (rounds - 1), Wave(n, steps)]


@search(waves=_waves, fit="rounds", space="gradient", needs=("gradient",), anytime=True)
def reno(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    rounds: int,
    n: int = 1,
    learning_rate: float = 5.0,
    clip: float = 0.1,
    momentum: float = 0.9,
    regularise: float = 0.01,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Ascend the reward of finished samples in their noises, which are held to a noise's length.

    NFE: rounds · n · steps; three passes of the model each, for the way back, but for the last round's.
    Rewards: rounds · n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise; differentiable.
        rng: Draws ids.
        rounds: Steps of the ascent, the plain samples' included; the paper's 50.
        n: Noises, each on its own.
        learning_rate: With Nesterov's momentum.
        clip: Longest gradient of a noise.
        momentum: Share of the last step that goes on.
        regularise: Weight of the logarithm of how likely a noise's length is.
        eta: 0 = ODE.

    Yields:
        The samples of each round, finished.
    """
    _waves(
        sampler.steps,
        rounds=rounds,
        n=n,
        learning_rate=learning_rate,
        clip=clip,
        momentum=momentum,
        regularise=regularise,
    )
    differentiable("reno", reward)
    p = sampler.prior(n)
    noise, speed = noise_of(p.x, sampler), torch.zeros_like(p.x)
    for _ in range(rounds - 1):
        batches = zip(p.split(sampler.batch_size), noise.split(sampler.batch_size), strict=True)
        climbed = [_climbed(batch, z, sampler, reward, regularise, eta) for batch, z in batches]
        yield concat(*(finished for finished, _ in climbed))
        up = torch.cat([gradient for _, gradient in climbed])
        up = up * (clip / _length(up)).clamp(max=1)
        speed = momentum * speed + up
        noise = noise + learning_rate * (up + momentum * speed)
        p = p.given(sampler.start(noise), rng)
    yield score(sampler.run(p, sampler.steps, eta=eta)[0], sampler, reward)


def _climbed(
    p: Population, noise: Tensor, sampler: Sampler, reward: Reward, regularise: float, eta: float | None
) -> tuple[Population, Tensor]:
    """A micro-batch finished and scored, and the gradient of what is to be maximised in its noises (N, *D)."""
    with sampler.grad():
        z = noise.clone().requires_grad_()
        finished, _ = sampler.run(replace(p, x=sampler.start(z)), sampler.steps, eta=eta)
        value = reward(sampler.decode(finished))
        length = _length(z).flatten()
        likely = (z[0].numel() - 1) * length.log() - length.square() / 2
        up = slope(value, z) + slope(regularise * likely, z)
    return finished.moved(finished.x.detach(), reward=value.detach().float()), up


def _length(x: Tensor) -> Tensor:
    """Of each row, (N, 1, ...)."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (x.ndim - 1))
