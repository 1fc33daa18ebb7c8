"""Particles: sequential Monte Carlo towards the samples that the reward prefers.

One skeleton has most of the field as settings, see `PRESETS`:

- FK-steering: Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath (2025), "A General Framework for Inference-time
  Scaling and Steering of Diffusion Models", arXiv:2501.06848.
- DAS: Kim, Kim, Park (2025), "Test-time Alignment of Diffusion Models without Reward Over-optimization",
  arXiv:2501.05803.
- BFS: Zhang, Lin, Ye, Zou, Ma, Liang, Du (2025), "Inference-time Scaling of Diffusion Models through Classical Search",
  arXiv:2505.23614.

Differs from the papers:
- resampling is looked at at a few levels, evenly spread, whatever the number of steps;
- what rises is the share 2^(i/steps) - 1 of the rewards' final weight, whatever the number of steps.

Differs from the released codes:
- weights that lead to no resampling accumulate (FK-steering's are dropped), and all is done in logarithms;
- whatever the potential, the last one makes up for the others, so that weighted particles follow the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from evosearch import resampling as schemes
from evosearch.checks import above_zero, at_least_zero, differentiable, one_of, share, whole_number, whole_numbers
from evosearch.declaration import Wave, search
from evosearch.scoring import preview, slope
from evosearch.selection import finite
from evosearch.types import Population, Reward, Sampler, concat

PRESETS: dict[str, dict[str, Any]] = {
    "fk": {"tempering": "constant", "potential": "max", "resampling": "multinomial", "ess": 1.0},
    "das": {"tempering": "rising", "potential": "difference", "resampling": "ssp", "ess": 0.5},
    "svdd": {"tempering": "infinite", "potential": "current", "resampling": "multinomial", "ess": 1.0},
    "bfs": {"tempering": "rising", "potential": "max", "resampling": "ssp", "ess": 1.0},
}
"""The papers' settings by name: FK-steering, DAS without its gradient, one in the manner of SVDD, and BFS."""

TEMPERING = ("constant", "rising", "infinite")
POTENTIALS = ("current", "difference", "max")
RESAMPLING = ("multinomial", "stratified", "systematic", "ssp")
_TIMES = 5  # resampled by default, the end included


def _levels(steps: int, levels: Sequence[int] | None) -> list[int]:
    if levels is None:
        return sorted({round(k * steps / _TIMES) for k in range(1, _TIMES)} - {0, steps})
    return whole_numbers("levels", levels)


def _design(
    preset: str, tempering: str | None, potential: str | None, resampling: str | None, ess: float | None
) -> tuple[str, str, str, float]:
    """The preset's settings, but for those that are given."""
    given = {"tempering": tempering, "potential": potential, "resampling": resampling, "ess": ess}
    design = PRESETS[one_of("preset", preset, tuple(PRESETS))] | {k: v for k, v in given.items() if v is not None}
    return (
        one_of("tempering", design["tempering"], TEMPERING),
        one_of("potential", design["potential"], POTENTIALS),
        one_of("resampling", design["resampling"], RESAMPLING),
        share("ess", design["ess"]),
    )


def _waves(
    steps: int,
    *,
    n: int,
    levels: Sequence[int] | None = None,
    temperature: float = 0.1,
    preset: str = "bfs",
    tempering: str | None = None,
    potential: str | None = None,
    resampling: str | None = None,
    ess: float | None = None,
    guidance: float = 0.0,
    eta: float | None = 1.0,
    **_: Any,
) -> list[Wave]:
    whole_number("n", n, 1)
    stops = [-1, *_levels(steps, levels), steps - 1]
    if any(later <= level for level, later in pairwise(stops[:-1])) or stops[-2] >= steps:
        raise ValueError(f"levels must be increasing levels from 0 to {steps - 1}, got {stops[1:-1]}")
    above_zero("temperature", temperature)
    _design(preset, tempering, potential, resampling, ess)
    if at_least_zero("guidance", guidance) > 0:
        if not eta:
            raise ValueError(f"eta must be above 0 for guidance, which leans the steps' noise; got {eta}")
        again = [Wave(n, 1)] * (len(stops) - 2)  # to weigh them at a level, without a gradient
        return [*[Wave(n, 1, passes=3)] * steps, *again, Wave(n, 0)]
    # A preview at a level is the first step from there.
    return [Wave(n, later - level) for level, later in pairwise(stops)]


@search(waves=_waves, fit="n", space="trajectory", needs=("SDE", "previews"))
def particles(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    levels: Sequence[int] | None = None,
    temperature: float = 0.1,
    preset: str = "bfs",
    tempering: str | None = None,
    potential: str | None = None,
    resampling: str | None = None,
    ess: float | None = None,
    guidance: float = 0.0,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Denoise n particles together, and now and then replace those of little promise by copies of the others.

    NFE: n · steps; with guidance n · (steps + levels), three passes of the model each.
    Rewards: n · (levels + 1); with guidance n · steps more.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws survivors and their copies' ids.
        n: Particles.
        levels: Levels at which they are resampled; 4 by default, evenly spread.
        temperature: The target is the model's distribution times exp(reward / temperature).
        preset: Whose settings hold where the next four are not given: ``fk``, ``das``, ``svdd`` or ``bfs``.
        tempering: How the rewards' weight comes to that: ``constant``, ``rising`` or, greedily, ``infinite``, where the
            best alone survives.
        potential: What weighs a particle: its ``current`` preview's reward, the ``difference`` to the last one, or the
            ``max`` so far.
        resampling: ``multinomial``, ``stratified``, ``systematic`` or ``ssp``.
        ess: Resample where the effective sample size is at most this share of n; weights accumulate until then.
        guidance: How far steps lean up the gradient of their preview's reward, which must have one; DAS's is 1.
        eta: 1 = ancestral SDE; at 0, copies would stay copies.

    Yields:
        The particles at each level, then finished, with ``log_weight``.
    """
    tempering, potential, resampling, ess = _design(preset, tempering, potential, resampling, ess)
    _waves(sampler.steps, n=n, levels=levels, temperature=temperature, guidance=guidance, eta=eta)
    if guidance:
        differentiable("particles with guidance", reward)

    def weight(level: int) -> float:
        return 1.0 if tempering == "constant" else 2 ** (level / sampler.steps) - 1

    p = sampler.prior(n)
    log_w, spent, best = torch.zeros(3, n, dtype=torch.float64).unbind()
    best = best - torch.inf
    for level in (*_levels(sampler.steps, levels), sampler.steps):
        while guidance and p.i < level:
            led = [
                _led(batch, sampler, reward, guidance * weight(p.i) / temperature, eta)
                for batch in p.split(sampler.batch_size)
            ]
            p, log_w = concat(*(q for q, _ in led)), log_w + torch.cat([ratio for _, ratio in led])
        if p.i < level:
            p, _ = sampler.run(p, level, eta=eta)
        if guidance and level == sampler.steps:
            p = p.given(p.x, rng)
        p = preview(p, sampler, reward)
        assert p.reward is not None
        now, last = finite(p.reward), level == sampler.steps
        best = torch.maximum(best, now)
        value = best if potential == "max" and not last else now
        if tempering == "infinite":
            # All that survive are alike, and so is what they differ from.
            log_w = torch.where(value == value.max(), 0.0, -torch.inf)
        else:
            # Telescoping: what all potentials come to is exp(reward / temperature).
            due = value * weight(level) / temperature
            gain = due - spent if potential == "difference" or last else due
            if not last:
                gain = torch.where(value.isfinite(), gain, 0.0)  # an invalid preview says nothing
            log_w, spent = log_w + gain, spent + gain
        if not last and schemes.ess(log_w) <= ess * n:
            rows = getattr(schemes, resampling)(log_w, n, rng)
            p, spent, best = p.branch(rows, rng), spent[rows], best[rows]
            log_w = torch.zeros_like(log_w)
        yield replace(p, log_weight=log_w)


def _led(
    p: Population, sampler: Sampler, reward: Reward, weight: float, eta: float | None
) -> tuple[Population, Tensor]:
    """A step that leans up the reward's gradient, and the logarithm of how much less likely it was without, (N,)."""
    assert eta is not None
    with sampler.grad():
        x = p.x.clone().requires_grad_()
        q = sampler.predict(p.moved(x))
        up = slope(reward(sampler.decode(q)), x)
    assert q.x0 is not None
    push = sampler.path.tau(p.i, eta) * weight * up
    z = sampler.noise(p.key, p.i, "step")
    ratio = -(push * z + push.square() / 2).flatten(1).sum(1)
    eps = None if q.eps is None else q.eps.detach()
    return sampler.step(p.moved(p.x, x0=q.x0.detach(), eps=eps, memory=p.memory), eta, z + push), ratio.double()
