"""SVDD: at every step, the best of several next states.

Li, Zhao, Wang, Scalia, Eraslan, Nair, Biancalani, Ji, Regev, Levine, Uehara (2024), "Derivative-Free Guidance in
Continuous and Discrete Diffusion Models with Soft Value-Based Decoding", arXiv:2408.08252.

Differs from the paper:
- the value of a state is the reward of its x0 as predicted (SVDD-PM); no network is trained for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.declaration import Wave, search
from evosearch.searches.blockwise import blockwise, streams, waves_of
from evosearch.types import Population, Reward, Sampler


def _waves(steps: int, *, n: int, children: int, temperature: float = 0.0, **_: Any) -> list[Wave]:
    return waves_of(steps, n=n, children=children, block=1, temperature=temperature)


@search(waves=_waves, fit=streams("svdd", _waves), space="trajectory", needs=("SDE", "previews"))
def svdd(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    children: int,
    temperature: float = 0.0,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Draw several next states of each particle at every step, and keep the one of the best preview.

    NFE: n + n · children · (steps - 1).
    Rewards: n · children · (steps - 1) + n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        n: Particles, each on its own.
        children: Next states of each; the paper's M, 20.
        temperature: 0 takes the best; above, one in proportion to exp(reward / temperature): the paper's alpha.
        eta: 1 = ancestral SDE; at 0, next states would be alike.

    Yields:
        The states chosen after each step, then the finished ones.
    """
    yield from blockwise(sampler, reward, rng, n=n, children=children, block=1, temperature=temperature, eta=eta)
