"""Backtracking: one particle, taken back a few levels where its preview disappoints.

Zhang, Lin, Ye, Zou, Ma, Liang, Du (2025), "Inference-time Scaling of Diffusion Models through Classical Search",
arXiv:2505.23614: its depth-first search.

Differs from the paper:
- without a threshold, a preview disappoints where it is below the median of those seen at its level, and a sample that
  is finished is followed by a new one;
- it goes on until its budget is spent, or the threshold is reached at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from evosearch.checks import is_number, whole_number, whole_numbers
from evosearch.declaration import Wave, search
from evosearch.scoring import preview
from evosearch.selection import finite
from evosearch.types import Population, Reward, Sampler


def _levels(steps: int, levels: Sequence[int] | None) -> list[int]:
    if levels is None:
        return sorted({round(k * steps / 4) for k in (1, 2, 3)} - {0, steps})
    return whole_numbers("levels", levels)


def _waves(
    steps: int,
    *,
    nfe: int,
    levels: Sequence[int] | None = None,
    back: float = 0.25,
    threshold: float | None = None,
    **_: Any,
) -> list[Wave]:
    if whole_number("nfe", nfe, 1) < steps:
        raise ValueError(f"nfe must be at least {steps}, one sample of {steps} steps, got {nfe}")
    stops = [0, *_levels(steps, levels), steps]
    if any(later <= level for level, later in pairwise(stops)):
        raise ValueError(f"levels must be increasing levels from 1 to {steps - 1}, got {stops[1:-1]}")
    if not is_number(back) or not 0 < back <= 1:
        raise ValueError(f"back must be a share of the trajectory in (0, 1], got {back!r}")
    if threshold is not None and not is_number(threshold):
        raise ValueError(f"threshold must be a reward, or None, got {threshold!r}")
    again, looks = nfe - steps, len(stops) - 1
    return [Wave(1, steps, looks), *([Wave(1, again, -(-looks * again // steps))] if again else [])]


def _least(steps: int, **knobs: Any) -> list[Wave]:
    least: dict[str, Any] = {**knobs, "nfe": steps}
    return _waves(steps, **least)


def _fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
    if budget < steps:
        raise ValueError(f"budget must be at least {steps} NFE for backtrack in {steps} steps; got {budget}")
    return {} if "nfe" in given else {"nfe": budget}


@search(waves=_waves, least=_least, fit=_fit, space="trajectory", needs=("previews",), anytime=True)
def backtrack(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    nfe: int,
    levels: Sequence[int] | None = None,
    back: float = 0.25,
    threshold: float | None = None,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Denoise one particle, look at it at a few levels, and go back by fresh noise where it is not good enough.

    NFE: steps to nfe.
    Rewards: at most one for each level looked at and each sample.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws ids.
        nfe: The most to spend. It goes back only where what is left brings the particle to the end.
        levels: Where to look; 3 by default, evenly spread.
        back: How far to go back, as a share of the trajectory.
        threshold: Reward of a preview that will do, and of a sample that ends the search; by default the running median
            of the previews at a level, and no end before nfe is spent.
        eta: 0 = ODE: the noise on the way back makes the difference.

    Yields:
        Each finished sample.
    """
    _waves(sampler.steps, nfe=nfe, levels=levels, back=back, threshold=threshold)
    steps, stops = sampler.steps, [*_levels(sampler.steps, levels), sampler.steps]
    seen: dict[int, list[float]] = {level: [] for level in stops}
    p, left = sampler.prior(1), nfe
    while True:
        level = next(stop for stop in stops if stop > p.i)
        cost = sampler.cost(p, level)
        p = preview(sampler.run(p, level, eta=eta)[0], sampler, reward)
        left -= cost + (level < steps)
        assert p.reward is not None
        now = float(finite(p.reward))
        seen[level].append(now)
        bar = median(seen[level]) if threshold is None else threshold
        low = max(0, level - max(1, round(back * steps)))
        if level == steps:
            yield p
            if threshold is not None and now >= threshold:
                return
            if threshold is None and left >= steps:
                p = sampler.prior(1)
                continue
        if (level == steps or now < bar) and left >= steps - low:
            p = sampler.renoise(p.born("branch", rng), low)
        elif level == steps:
            return
