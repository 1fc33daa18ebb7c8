"""Rollover: a quota of tries at every step, what a lucky step does not use going to the next.

Kim, Yoon, Hwang, Sung (2025), "Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget
Forcing", arXiv:2503.19385.

Differs from the paper:
- the answer is a finished sample, not the prediction of x0 at the end of the budget;
- a flow needs no conversion to the variance-preserving path, since a step does not depend on the path's scale; but the
  levels are the sampler's own, and the noise of a step that of ancestral sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import whole_number
from evosearch.declaration import Wave, search
from evosearch.scoring import preview, score
from evosearch.selection import finite, top
from evosearch.types import Population, Reward, Sampler, concat


def _waves(steps: int, *, quota: int, n: int = 25, batch: int = 2, **_: Any) -> list[Wave]:
    whole_number("n", n, 1)
    whole_number("quota", quota, 1)
    whole_number("batch", batch, 1)
    return [Wave(n, 1), *[Wave(quota, 1)] * (steps - 1), Wave(1, 0)]


def _least(steps: int, *, quota: int, n: int = 25, batch: int = 2, **_: Any) -> list[Wave]:
    return _waves(steps, quota=min(batch, quota), n=n)


def _fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
    """The paper's 25 noises to begin with, fewer where they would take more than a step's quota."""
    quota = given.get("quota", max(1, budget // steps))
    n = given.get("n", max(1, min(25, budget - quota * (steps - 1) if "quota" in given else budget // steps)))
    if "quota" not in given and steps > 1:
        quota = max(1, (budget - n) // (steps - 1))
    need = n + quota * (steps - 1)
    if need > budget:
        raise ValueError(f"budget must be at least {need} NFE for rollover in {steps} steps; got {budget}")
    return {name: value for name, value in {"quota": quota, "n": n}.items() if name not in given}


@search(waves=_waves, least=_least, fit=_fit, space="trajectory", needs=("SDE", "previews"))
def rollover(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    quota: int,
    n: int = 25,
    batch: int = 2,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Take the first next state whose preview beats all before it, and save what is left of the step's tries.

    NFE: n + min(batch, quota) · (steps - 1) to n + quota · (steps - 1).
    Rewards: as many, and one.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        quota: Tries a step.
        n: Noises to choose the first state from.
        batch: Tries at a time.
        eta: 1 = ancestral SDE; at 0, next states would be alike.

    Yields:
        The state after each step, then the finished one.
    """
    _waves(sampler.steps, quota=quota, n=n, batch=batch)
    p = _best(preview(sampler.prior(n), sampler, reward))
    bar, spare = _reward(p), 0
    while p.i < sampler.steps - 1:
        left, best = quota + spare, None
        while left > 0 and (best is None or _reward(best) <= bar):
            rows = torch.zeros(min(batch, left), dtype=torch.int64)
            child = p.branch(rows, rng) if best is None else p[rows].born("branch", rng)
            left -= len(child)
            tried = preview(sampler.run(child, p.i + 1, eta=eta)[0], sampler, reward)
            best = _best(tried if best is None else concat(best, tried))
        assert best is not None
        p, spare, bar = best, left, max(bar, _reward(best))
        yield p
    yield score(sampler.run(p, sampler.steps, eta=eta)[0], sampler, reward)


def _best(p: Population) -> Population:
    assert p.reward is not None
    return p[top(p.reward, 1)]


def _reward(p: Population) -> float:
    assert p.reward is not None
    return float(finite(p.reward))
