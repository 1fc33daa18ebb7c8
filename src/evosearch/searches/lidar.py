"""LiDAR: guidance towards the good ones among a bank of quick samples, in closed form.

LiDAR (2026), arXiv:2602.03211.

Differs from the paper:
- quick samples are drawn through a few of the sampler's own levels;
- the guidance is written for x0: adding g to the score adds sigma² g / alpha to x0;
- ``strength`` is 1 by default, not 12.5, and ``temperature``, the reciprocal of the paper's lambda, .1, not 1 / 5,000:
  what suits depends on the reward's scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import above_zero, share, whole_number
from evosearch.declaration import Wave, search
from evosearch.path import NoisePath
from evosearch.scoring import foreseen, score
from evosearch.selection import finite
from evosearch.types import Population, Reward, Sampler


def _waves(
    steps: int,
    *,
    bank: int,
    n: int = 1,
    quick: int = 5,
    strength: float = 1.0,
    temperature: float = 0.1,
    until: float = 0.8,
    **_: Any,
) -> list[Wave]:
    for name, value in (("bank", bank), ("n", n), ("quick", quick)):
        whole_number(name, value, 1)
    above_zero("strength", strength)
    above_zero("temperature", temperature)
    share("until", until)
    return [Wave(bank, min(quick, steps)), Wave(n, steps)]


@search(waves=_waves, fit="bank", space="guidance")
def lidar(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    bank: int,
    n: int = 1,
    quick: int = 5,
    strength: float = 1.0,
    temperature: float = 0.1,
    until: float = 0.8,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Score a bank of samples of few steps, then let the good ones among them draw a trajectory of all steps.

    NFE: bank · min(quick, steps) + n · steps.
    Rewards: bank + n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the finished samples' ids.
        bank: Quick samples; the paper's n, 50.
        n: Samples drawn with guidance, each from a noise of its own.
        quick: Steps of a quick sample.
        strength: Of the guidance; the paper's s.
        temperature: How much better samples of the bank weigh: by exp(reward / temperature).
        until: Share of the trajectory that is guided.
        eta: 0 = ODE.

    Yields:
        The bank, where its samples are of all steps; the finished samples.
    """
    _waves(sampler.steps, bank=bank, n=n, quick=quick, strength=strength, temperature=temperature, until=until)
    p = sampler.prior(n)
    drawn = sampler.prior(bank)
    ends, _ = sampler.run(drawn, sampler.steps, eta=0.0, through=foreseen(0, sampler.steps, quick))
    if quick >= sampler.steps:
        scored = score(ends, sampler, reward)
        yield scored
    else:  # of fewer steps than the sampler's they are no answers, only previews
        scored = score(replace(drawn, x0=ends.x), sampler, reward)
    value = scored.reward
    assert value is not None
    while p.i < sampler.steps:
        p = sampler.predict(p)
        assert p.x0 is not None
        if p.i < until * sampler.steps:
            p = replace(p, x0=p.x0 + strength * _pull(p, ends.x, finite(value) / temperature, sampler.path), eps=None)
        p = sampler.step(p, eta)
    yield score(p.given(p.x, rng), sampler, reward)


def _pull(p: Population, bank: Tensor, log_w: Tensor, path: NoisePath) -> Tensor:
    """From where the bank says that p is going to where the good of the bank are, (N, *D)."""
    alpha, sigma = float(path.alpha[p.i]), float(path.sigma[p.i])
    far = (p.x[:, None] - alpha * bank).flatten(2).double().square().sum(2) / (2 * sigma**2)  # (N, bank)
    log_w = log_w - log_w.max() if log_w.isfinite().any() else torch.zeros_like(log_w)
    weight = torch.softmax(log_w - far, 1) - torch.softmax(-far, 1)
    return torch.einsum("nb,b...->n...", weight.float(), bank)
