"""Zero-order search: neighbours of the best noise so far.

Ma, Tong, Jia, Hu, Su, Zhang, Yang, Li, Jaakkola, Jia, Xie (2025), "Inference-Time Scaling for Diffusion Models beyond
Scaling Denoising Steps", arXiv:2501.09732.

Differs from the paper:
- neighbours are drawn by our mutation, so that they are as likely as noise is; the paper's lie at one distance from
  their pivot. Its similarity .95 is a rate of .31.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from evosearch.checks import share, whole_number
from evosearch.declaration import Wave, in_rounds, search
from evosearch.mutation import mutate
from evosearch.scoring import roll_out
from evosearch.selection import top
from evosearch.types import Population, Reward, Sampler, concat


def _waves(steps: int, *, n: int, neighbours: int = 4, rate: float = 0.31, **_: Any) -> list[Wave]:
    whole_number("n", n, 1)
    whole_number("neighbours", neighbours, 1)
    share("rate", rate)
    return in_rounds(steps, n, neighbours)


@search(waves=_waves, fit="n", space="noise", anytime=True)
def zero_order(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    neighbours: int = 4,
    rate: float = 0.31,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Climb from noise to better noise nearby.

    NFE: n · steps.
    Rewards: n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the neighbours' ids.
        n: Samples in all.
        neighbours: Noises tried around a pivot; the best of them and it is the next one.
        rate: Share of fresh noise in a neighbour.
        eta: 0 = ODE; above, a neighbour's reward tells less of its noise.

    Yields:
        The first sample, then each round's.
    """
    pivot, noise = None, sampler.prior(1)
    for wave in _waves(sampler.steps, n=n, neighbours=neighbours, rate=rate):
        if pivot is not None:
            noise = mutate(pivot.repeat(wave.particles), sampler, rng, rate=rate)
        finished, _ = roll_out(noise, sampler, reward, eta=eta)
        yield finished
        tried = replace(noise, reward=finished.reward)
        tried = tried if pivot is None else concat(pivot, tried)
        assert tried.reward is not None
        pivot = tried[top(tried.reward, 1)]
