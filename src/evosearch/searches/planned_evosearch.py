"""EvoSearch whose schedule plans itself: each generation goes where it promises the most for its NFE.

Ours; what it evolves is that of He et al. (2025), arXiv:2505.17618. Differs from the paper:
- there is no schedule: every generation is new noise, or children of one level and rate, whichever is expected to raise
  the best reward most for an NFE, by one draw of what has been learnt (Thompson, 1933);
- what is learnt is how a child's reward goes with its parent's: a line with noise around it for each level and rate,
  from a prior by docs/heritability.md, where the correlation falls as exp(-4.6 rate · share of the steps left);
- else as `evosearch`: roll-outs by the ODE, the best few states of a level breed, drafts may explore.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from evosearch.checks import share, whole_number, whole_numbers
from evosearch.declaration import Wave, search
from evosearch.drafts import drafted
from evosearch.mutation import mutate
from evosearch.noise import seed_of
from evosearch.scoring import roll_out
from evosearch.searches.schedules import drafts_and_finals, finishing
from evosearch.selection import survivors, top
from evosearch.types import Population, Reward, Sampler, concat

_SHARES = (0.2, 0.4, 0.6, 0.8)
_FIRST = 2  # broods of new noise, which tell the reward's mean and spread
_DRAWS = 64
_OBSERVED = 4.0  # children that the prior counts for


class Arm:
    """One way to make particles: what has been learnt of reward = a + b · parent's reward + noise, in standard units.

    A normal-inverse-gamma posterior of (a, b) and the noise's variance.

    Args:
        level: Where particles are bred; None for new noise.
        rate: Share of fresh noise in a child.
        slope: b to begin with.
    """

    def __init__(self, level: int | None, rate: float, slope: float) -> None:
        self.level, self.rate = level, rate
        self._precision = _OBSERVED * np.eye(2)
        self._weighted = self._precision @ np.array([0.0, slope])
        self._shape, self._prior = _OBSERVED / 2, _OBSERVED / 2 * (1 - slope**2) + slope * self._weighted[1] / 2
        self._squares = 0.0

    def learn(self, parents: np.ndarray, children: np.ndarray) -> None:
        """Take in rewards of parents and their children, (n,) each; of new noise parents are 0."""
        x = np.stack([np.ones_like(parents), parents], axis=1)
        self._precision = self._precision + x.T @ x
        self._weighted = self._weighted + x.T @ children
        self._shape += len(children) / 2
        self._squares += float(children @ children) / 2

    def promise(self, parents: np.ndarray, n: int, best: float, rng: np.random.Generator) -> float:
        """By how much n particles of these parents in turn raise the best, expected under one draw of the posterior."""
        mean = np.linalg.solve(self._precision, self._weighted)
        scale = self._prior + self._squares - float(mean @ self._weighted) / 2
        noise = math.sqrt(max(scale, 1e-12) / rng.gamma(self._shape))
        a, b = mean + noise * np.linalg.cholesky(np.linalg.inv(self._precision)) @ rng.normal(size=2)
        rewards = a + b * parents[np.arange(n) % len(parents)] + noise * rng.normal(size=(_DRAWS, n))
        return float(np.maximum(rewards.max(axis=1) - best, 0.0).mean())


def _levels(steps: int, levels: Sequence[int] | None) -> list[int]:
    if levels is None:
        return sorted({round(part * steps) for part in _SHARES} - {steps})
    found = whole_numbers("levels", levels)
    if not found or min(found) < 0 or max(found) >= steps:
        raise ValueError(f"levels must lie in 0..{steps - 1}, since sampling takes {steps} steps; got {found}")
    return sorted(set(found))


def _waves(
    steps: int,
    *,
    nfe: int,
    levels: Sequence[int] | None = None,
    rates: Sequence[float] = (0.15, 0.3, 0.6),
    brood: int = 8,
    parents: int = 4,
    draft_steps: int | None = None,
    finals: int = 0,
    **_: Any,
) -> list[Wave]:
    finished, explores = finishing(steps, draft_steps, finals), draft_steps or steps
    if whole_number("nfe", nfe, 1) < explores:
        raise ValueError(f"nfe must be at least {explores}, one sample of {explores} steps, got {nfe}")
    for rate in rates:
        share("rates", rate)
    whole_number("brood", brood, 1)
    whole_number("parents", parents, 1)
    last = explores - _levels(explores, levels)[-1]
    first = min(_FIRST * brood, nfe // explores)
    rest = nfe - first * explores
    return [Wave(first, explores), *([Wave(1, rest, -(-rest // last))] if rest else []), *finished]


def _least(steps: int, **knobs: Any) -> list[Wave]:
    """What is left at the end may be too little for one particle more."""
    return [_waves(steps, **knobs)[0]]


def _fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
    if budget < steps:
        raise ValueError(f"budget must be at least {steps} NFE for planned_evosearch in {steps} steps; got {budget}")
    drafts, finals = drafts_and_finals(steps, budget, given)
    if drafts is None or budget - finals * steps < 2 * drafts:
        drafts, finals = None, 0
    knobs = {"nfe": budget - finals * steps, "draft_steps": drafts, "finals": finals}
    return {name: value for name, value in knobs.items() if name not in given}


@search(waves=_waves, least=_least, fit=_fit, space="trajectory")
def planned_evosearch(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    nfe: int,
    levels: Sequence[int] | None = None,
    rates: Sequence[float] = (0.15, 0.3, 0.6),
    brood: int = 8,
    parents: int = 4,
    draft_steps: int | None = None,
    finals: int = 0,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Evolve, each generation where it promises most: new noise, or children of one level and rate.

    NFE: at most nfe, and finals · steps.
    Rewards: one a particle, and one for each draft that is finished.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        nfe: To explore with.
        levels: At which children may be bred; .2, .4, .6 and .8 of the steps by default. With drafts, levels of these.
        rates: Shares of fresh noise that a child may have.
        brood: Particles of a generation; the first has twice as many, all new noise.
        parents: So many of the best of a level breed in turn.
        draft_steps: Explore by drafts of so many steps; by whole samples by default.
        finals: With drafts, how many whole samples' NFE finish the best of them.
        eta: 0 = ODE, 1 = ancestral SDE.

    Yields:
        Each generation, finished. With drafts: the best draft so far, and winners once they are finished.
    """
    knobs: dict[str, Any] = {"nfe": nfe, "levels": levels, "rates": rates, "brood": brood, "parents": parents}
    _waves(sampler.steps, draft_steps=draft_steps, finals=finals, **knobs)
    if draft_steps is not None:
        explore, room = partial(planned_evosearch, eta=eta, **knobs), finals * sampler.steps
        yield from drafted(explore, sampler, reward, rng, steps=draft_steps, room=room)
        return
    steps, stops = sampler.steps, _levels(sampler.steps, levels)
    arms = [Arm(None, 0.0, 0.0)]
    arms += [Arm(t, rate, math.exp(-4.6 * rate * (1 - t / steps))) for t in stops for rate in rates]
    planner = Planner(arms, steps, brood, np.random.default_rng(seed_of(rng.initial_seed(), "planner", 0)))
    pools: dict[int, Population] = {}
    arm, p, bred_of = arms[0], sampler.prior(min(_FIRST * brood, nfe // steps)), None
    while True:
        nfe -= sampler.cost(p, steps)
        finished, states = roll_out(p, sampler, reward, [t for t in stops if t >= p.i], eta)
        yield finished
        planner.learn(arm, bred_of, _rewards(finished))
        for t, state in states.items():
            pool = replace(state, reward=finished.reward)
            pool = concat(pools[t], pool) if t in pools else pool
            pools[t] = pool[top(_rewards(pool), parents)]
        choice = planner.choose({t: _rewards(pool) for t, pool in pools.items()}, nfe)
        if choice is None:
            return
        arm, n = choice
        if arm.level is None:
            p, bred_of = sampler.prior(n), None
        else:
            pool = pools[arm.level]
            bred = pool[survivors(_rewards(pool), n)]
            p, bred_of = mutate(bred, sampler, rng, rate=arm.rate), _rewards(bred)


class Planner:
    """Chooses the next generation; keeps what has been learnt in units of the first one's rewards."""

    def __init__(self, arms: list[Arm], steps: int, brood: int, rng: np.random.Generator) -> None:
        self._arms, self._steps, self._brood, self._rng = arms, steps, brood, rng
        self._units: tuple[float, float] | None = None
        self._best = -math.inf

    def learn(self, arm: Arm, parents: torch.Tensor | None, children: torch.Tensor) -> None:
        """Take in a generation's rewards, (n,), and its parents'; None of new noise."""
        valid = children.isfinite().numpy()
        found = children.double().numpy()[valid]
        if self._units is None and len(found):
            self._units = float(found.mean()), float(found.std()) or 1.0
        if self._units is None:
            return
        found = self._standard(found)
        arm.learn(np.zeros_like(found) if parents is None else self._standard(parents.double().numpy())[valid], found)
        self._best = max([self._best, *found])

    def choose(self, pools: dict[int, torch.Tensor], nfe: int) -> tuple[Arm, int] | None:
        """The arm that promises most for an NFE, and how many particles; None where nothing can be paid for.

        Args:
            pools: Rewards of those that may breed, by level.
            nfe: What is left.
        """
        choices: list[tuple[float, Arm, int]] = []
        for arm in self._arms:
            cost = self._steps - (arm.level or 0)
            if n := min(self._brood, nfe // cost):
                parents = np.zeros(1) if arm.level is None else self._standard(pools[arm.level].double().numpy())
                promise = 0.0 if self._units is None else arm.promise(parents, n, self._best, self._rng)
                choices.append((promise / (n * cost), arm, n))
        return max(choices, key=lambda choice: choice[0])[1:] if choices else None

    def _standard(self, rewards: np.ndarray) -> np.ndarray:
        """In units of the first generation; what is invalid counts as its mean."""
        mean, spread = self._units or (0.0, 1.0)
        return np.where(np.isfinite(rewards), (rewards - mean) / spread, 0.0)


def _rewards(p: Population) -> torch.Tensor:
    assert p.reward is not None
    return p.reward
