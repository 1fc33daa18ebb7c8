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

from evosearch.checks import above_zero, one_of, whole_number
from evosearch.declaration import Wave, search
from evosearch.steering import MIXES, looks, steered
from evosearch.types import Population, Reward, Sampler


def _waves(
    steps: int, *, noises: int, lookahead: int = 2, weights: str = "tanh", temperature: float = 0.1, **_: Any
) -> list[Wave]:
    whole_number("noises", noises, 1)
    whole_number("lookahead", lookahead, 1)
    one_of("weights", weights, MIXES)
    above_zero("temperature", temperature)
    tried = [[Wave(noises, nfe), Wave(1, 1, 0)] for nfe in looks(steps, 0, lookahead)]
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
    how: dict[str, Any] = {"lookahead": lookahead, "weights": weights, "temperature": temperature, "eta": eta}
    yield from steered(sampler.prior(1), sampler, reward, rng, noises=noises, **how)
