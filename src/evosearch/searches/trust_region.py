"""Trust-region search: boxes around the best noises, which grow with success and shrink with failure.

Schweiger, Cremers, Ram (2026), "Trust-Region Noise Search for Black-Box Alignment of Diffusion and Flow Models",
arXiv:2603.14504.

Differs from the paper:
- offsets are uniform, not Sobol: in thousands of dimensions a low-discrepancy sequence is hardly better;
- a region succeeds where one of its samples beats its own centre.

Differs from the released code:
- widths and their factor are the paper's (.8 and 1.5);
- candidates go round the regions, each batch from where the last one ended, so that none has more than its share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import share, whole_number
from evosearch.declaration import Wave, in_rounds, search
from evosearch.mutation import noise_of
from evosearch.scoring import roll_out
from evosearch.selection import finite, top
from evosearch.types import Population, Reward, Sampler, concat

_WIDTH, _NARROWEST, _WIDEST = 0.8, 0.05, 2.4  # in standard deviations of the noise
_FACTOR, _PATIENCE = 1.5, 3  # how much wider or narrower, after so many successes or failures in a row
_FEWEST, _MOST = 0.1, 0.9  # share of the coordinates that a candidate changes


def _waves(steps: int, *, n: int, regions: int = 15, batch: int = 20, warm_up: float = 0.2, **_: Any) -> list[Wave]:
    whole_number("n", n, 1)
    whole_number("regions", regions, 1)
    whole_number("batch", batch, 1)
    share("warm_up", warm_up)
    return in_rounds(steps, n, batch, first=max(1, round(warm_up * n)))


@search(waves=_waves, fit="n", space="noise")
def trust_region(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    regions: int = 15,
    batch: int = 20,
    warm_up: float = 0.2,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Try noises in boxes around the best ones.

    NFE: n · steps.
    Rewards: n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws boxes' coordinates and ids.
        n: Samples in all.
        regions: Boxes; the paper's k.
        batch: Candidates between two looks at the rewards; the paper's B.
        warm_up: Share of plain samples to begin with.
        eta: 0 = ODE, which the search needs: above, a noise has no reward of its own.

    Yields:
        The plain samples, then each round's.
    """
    first, *rounds = _waves(sampler.steps, n=n, regions=regions, batch=batch, warm_up=warm_up)
    p, centres, region, turn = sampler.prior(first.particles), None, torch.tensor([]), 0
    widths = torch.full((regions,), _WIDTH)
    streak = torch.zeros(regions, dtype=torch.int64)  # successes in a row, or failures where negative
    for wave in (*rounds, None):
        finished, _ = roll_out(p, sampler, reward, eta=eta)
        yield finished
        if wave is None:
            return
        tried = replace(p, reward=finished.reward)
        if centres is not None:
            streak, widths = _adapted(streak, widths, centres, tried, region)
        pool = tried if centres is None else concat(centres, tried)
        assert pool.reward is not None
        centres = pool[top(pool.reward, regions)]
        region = (turn + torch.arange(wave.particles)) % len(centres)
        turn += wave.particles
        parents, noise = centres[region], noise_of(centres.x, sampler)[region]
        width = widths[region].view(-1, *[1] * (noise.ndim - 1))
        share_of = torch.empty(width.shape).uniform_(_FEWEST, _MOST, generator=rng)
        chosen = torch.rand(noise.shape, generator=rng) < share_of
        offset = torch.rand(noise.shape, generator=rng) - 0.5
        p = parents.given(sampler.start(noise + torch.where(chosen, width * offset, 0.0)), rng)


def _adapted(
    streak: Tensor, widths: Tensor, centres: Population, tried: Population, region: Tensor
) -> tuple[Tensor, Tensor]:
    """Streaks and widths after a round: a region succeeds where one of its candidates beats its centre."""
    assert centres.reward is not None and tried.reward is not None
    better = finite(tried.reward) > finite(centres.reward)[region]
    visited, won = torch.zeros(2, len(widths), dtype=torch.bool).unbind()
    visited[region], won[region[better]] = True, True
    after = torch.where(won, streak.clamp(min=0) + 1, streak.clamp(max=0) - 1)
    streak = torch.where(visited, after, streak)
    widths = torch.where(streak == _PATIENCE, widths * _FACTOR, widths)
    widths = torch.where(streak == -_PATIENCE, widths / _FACTOR, widths).clamp(_NARROWEST, _WIDEST)
    return torch.where(streak.abs() == _PATIENCE, 0, streak), widths
