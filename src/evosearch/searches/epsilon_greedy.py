"""Epsilon-greedy search: at every step, the noise that leads to the best preview, looked for near the best so far.

Ramesh, Mardani (2025), "Test-Time Scaling of Diffusion Models via Noise Trajectory Search", arXiv:2506.03164.

Differs from the paper:
- a pivot is given up for a better one alone, not for the best of each round whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import above_zero, share, whole_number
from evosearch.declaration import Wave, search
from evosearch.noise import normal
from evosearch.scoring import preview, score
from evosearch.selection import top
from evosearch.types import Population, Reward, Sampler, concat


def _waves(
    steps: int, *, rounds: int, candidates: int = 4, epsilon: float = 0.4, radius: float = 0.15, **_: Any
) -> list[Wave]:
    whole_number("rounds", rounds, 1)
    whole_number("candidates", candidates, 1)
    share("epsilon", epsilon)
    above_zero("radius", radius)
    return [Wave(1, 1, 0), *[Wave(candidates, 1)] * (rounds * (steps - 1)), Wave(1, 0)]


@search(waves=_waves, fit="rounds", space="trajectory", needs=("SDE", "previews"))
def epsilon_greedy(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    rounds: int,
    candidates: int = 4,
    epsilon: float = 0.4,
    radius: float = 0.15,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """At each step try noises for it in rounds, fresh ones or neighbours of the best, and go on with the best.

    NFE: 1 + rounds · candidates · (steps - 1).
    Rewards: rounds · candidates · (steps - 1) + 1.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws ids, and who is fresh.
        rounds: Rounds a step; the paper's K, 20.
        candidates: Noises a round; the paper's N.
        epsilon: Share of fresh ones.
        radius: How far neighbours are at the most, in units of a noise's own length; the paper's lambda.
        eta: 1 = ancestral SDE; at 0 there is no noise to choose.

    Yields:
        The state after each step, then the finished one.
    """
    _waves(sampler.steps, rounds=rounds, candidates=candidates, epsilon=epsilon, radius=radius)
    p = sampler.predict(sampler.prior(1))
    shape = p.x.shape[1:]
    while p.i < sampler.steps - 1:
        pivot, best = sampler.noise(p.key, p.i, "step"), None
        for _ in range(rounds):
            rows = torch.zeros(candidates, dtype=torch.int64)
            child = p.branch(rows, rng) if best is None else p[rows].born("branch", rng)
            z = sampler.noise(child.key, p.i, "step")
            near = torch.rand(candidates, generator=rng) >= epsilon
            near[0] &= best is not None  # the first pivot itself is among the candidates
            z = torch.where(near.view(-1, *[1] * len(shape)), _neighbours(pivot, child, rng, radius), z)
            tried = preview(sampler.step(child, eta, z), sampler, reward)
            tried = tried if best is None else concat(best, tried)
            z = z if best is None else torch.cat([pivot, z])
            assert tried.reward is not None
            first = top(tried.reward, 1)
            best, pivot = tried[first], z[first]
        assert best is not None
        p = best
        yield p
    p = sampler.step(p, eta)
    yield score(p.given(p.x, rng), sampler, reward)


def _neighbours(pivot: torch.Tensor, child: Population, rng: torch.Generator, radius: float) -> torch.Tensor:
    """Noises around the pivot, up to a distance in units of a noise's length, (N, *D)."""
    z = normal(rng.initial_seed(), child.id, child.i, "mutation", pivot.shape[1:])
    z = z / z.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1)) * pivot[0].numel() ** 0.5
    return pivot + radius * torch.rand(len(z), generator=rng).view(-1, *[1] * (z.ndim - 1)) * z
