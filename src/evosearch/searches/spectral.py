"""Spectral search: the coarse part of the noise, by the cross-entropy method.

Spectral Evolution Search (2026), arXiv:2602.03208.

Differs from the paper:
- the coarse part of a noise is its means over square blocks, which is the approximation of a Haar wavelet;
- the fine part stays that of one noise.

Differs from the released code:
- the spread has a floor, so that the search does not collapse on five elites;
- the noise that it begins with is scored, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from evosearch.bands import block_of, coarse, with_coarse
from evosearch.checks import at_least_zero, whole_number
from evosearch.declaration import Wave, in_rounds, search
from evosearch.mutation import noise_of
from evosearch.scoring import roll_out
from evosearch.selection import top
from evosearch.types import Population, Reward, Sampler, concat


def _waves(
    steps: int, *, n: int, cells: int = 4, batch: int = 10, elites: int = 5, floor: float = 0.2, **_: Any
) -> list[Wave]:
    for name, value in (("n", n), ("cells", cells), ("batch", batch), ("elites", elites)):
        whole_number(name, value, 1)
    at_least_zero("floor", floor)
    return in_rounds(steps, n, batch)


@search(waves=_waves, fit="n", space="noise", needs=("grid",))
def spectral(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    cells: int = 4,
    batch: int = 10,
    elites: int = 5,
    floor: float = 0.2,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Narrow down a Gaussian over the coarse part of the noise to where the best samples came from.

    NFE: n · steps.
    Rewards: n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws coarse parts and ids.
        n: Samples in all.
        cells: Blocks along the shorter side, about: 4 by 4 numbers a channel are searched.
        batch: Samples between two looks at the rewards.
        elites: The best ever that the Gaussian is fitted to.
        floor: Least standard deviation.
        eta: 0 = ODE; above, a sample tells less of its noise.

    Yields:
        The plain sample, then each batch.
    """
    _, *rounds = _waves(sampler.steps, n=n, cells=cells, batch=batch, elites=elites, floor=floor)
    base = noise = sampler.prior(1)
    grid = sampler.to_grid(noise_of(base.x, sampler))
    block = block_of(grid, cells)
    mean, deviation = torch.zeros_like(coarse(grid, block)), torch.ones_like(coarse(grid, block))
    best: Population | None = None
    for wave in (*rounds, None):
        finished, _ = roll_out(noise, sampler, reward, eta=eta)
        yield finished
        if wave is None:
            return
        tried = replace(noise, reward=finished.reward)
        tried = tried if best is None else concat(best, tried)
        assert tried.reward is not None
        best = tried[top(tried.reward, elites)]
        if len(best) == elites:
            parts = coarse(sampler.to_grid(noise_of(best.x, sampler)), block)
            mean, deviation = parts.mean(0, keepdim=True), parts.std(0, correction=0, keepdim=True).clamp(min=floor)
        drawn = mean + deviation * torch.randn(wave.particles, *mean.shape[1:], generator=rng)
        x = sampler.start(sampler.from_grid(with_coarse(grid, drawn)))
        noise = base.repeat(wave.particles).given(x, rng)
