"""Drafts: explore in fewer steps, or with features reused, and finish the winners in all of them.

Flash-BoN (arXiv:2607.04461) and CachedSearch (arXiv:2607.23159) draft best-of-N and draw the winner again from its
noise. Here any search drafts, and a winner goes on from the state at which it was bred, which keeps more of what it was
chosen for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evosearch.noise import seed_of
from evosearch.scoring import roll_out, score
from evosearch.selection import order
from evosearch.steering import affordable, steered
from evosearch.types import Population, Reward, Sampler, concat


def levels_of(steps: int, draft_steps: int) -> list[int]:
    """Levels that a draft visits, (draft_steps + 1,), evenly spread."""
    return [round(k * steps / draft_steps) for k in range(draft_steps + 1)]


class Birth(NamedTuple):
    """Where a draft came to be: a population of one at the sampler's own level, and the eta it was run with."""

    p: Population
    eta: float | None
    reward: float | list[float] = math.nan


class Spent(Exception):
    """The next call would cost more than there is room for exploring."""


class DraftSampler:
    """A sampler that visits few of another's levels, evenly spread, and counts them as its own.

    What it finishes is a draft: scored like a preview, so that a run's best sample is never one.

    Args:
        sampler: The sampler proper, or its `cached` form.
        steps: Denoising steps of a whole draft, at most those of the sampler.
        room: NFE for exploring, where it cannot be foreseen what that takes; `Spent` is raised before it is overrun.

    Attributes:
        levels: The sampler's own level at each of the draft's, (steps + 1,).
        births: Where each particle came to be, by its id, since they were last cleared.
    """

    def __init__(self, sampler: Sampler, steps: int, room: int | None = None) -> None:
        self._own, self.steps, self.batch_size = sampler, steps, sampler.batch_size
        self._room, self._before = room, sampler.computed if room is not None else 0
        self.levels = levels_of(sampler.steps, steps)
        self.path = sampler.path.at(self.levels)
        self.prior, self.start, self.noise = sampler.prior, sampler.start, sampler.noise
        self.to_grid, self.from_grid, self.grad = sampler.to_grid, sampler.from_grid, sampler.grad
        self.births: dict[int, Birth] = {}

    @property
    def edits(self) -> bool:
        """See `Sampler.edits`."""
        return self._own.edits

    @property
    def computed(self) -> int:
        """See `Sampler.computed`."""
        return self._own.computed

    @property
    def left(self) -> int:
        """NFE of the room for exploring that nothing was spent of."""
        return 0 if self._room is None else self._room - self.computed + self._before

    def prices(self, levels: Sequence[int]) -> list[float]:
        """See `Sampler.prices`."""
        return self._own.prices([self.levels[k] for k in levels])

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> DraftSampler:
        """See `Sampler.cached`."""
        return DraftSampler(self._own.cached(cache, prices), self.steps)

    def predict(self, p: Population) -> Population:
        """See `Sampler.predict`."""
        self._note(p, None)
        self._afford(len(p) if p.x0 is None else 0)
        return replace(self._own.predict(self._outward(p)), i=p.i)

    def step(
        self, p: Population, eta: float | None = None, noise: Tensor | None = None, to: int | None = None
    ) -> Population:
        """See `Sampler.step`."""
        to = p.i + 1 if to is None else to
        return replace(self._own.step(self._outward(p), eta, noise, self.levels[to]), i=to)

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """See `Sampler.run`."""
        self._note(p, eta)
        self._afford(self.cost(p, until, through))
        kept, visited = [self.levels[k] for k in keep], self._through(p, until, through)
        end, states = self._own.run(self._outward(p), self.levels[until], kept, eta, visited)
        return replace(end, i=until), {k: replace(states[self.levels[k]], i=k) for k in keep}

    def cost(self, p: Population, until: int, through: Sequence[int] | None = None) -> int:
        """See `Sampler.cost`."""
        return self._own.cost(self._outward(p), self.levels[until], self._through(p, until, through))

    def renoise(self, p: Population, level: int) -> Population:
        """See `Sampler.renoise`."""
        return replace(self._own.renoise(self._outward(p), self.levels[level]), i=level)

    def decode(self, p: Population) -> Tensor:
        """See `Sampler.decode`."""
        return self._own.decode(_as_preview(self._outward(p), self._own))

    def _note(self, p: Population, eta: float | None) -> None:
        for row, id in enumerate(p.id.tolist()):
            if id not in self.births:
                self.births[id] = Birth(self._outward(p[[row]]), eta)

    def _afford(self, nfe: int) -> None:
        if self._room is not None and nfe > self.left:
            raise Spent

    def _outward(self, p: Population) -> Population:
        return replace(p, i=self.levels[p.i])

    def _through(self, p: Population, until: int, through: Sequence[int] | None) -> list[int]:
        return [self.levels[k] for k in (range(p.i + 1, until) if through is None else through)]


def drafted(
    search: Callable[[Sampler, Reward, torch.Generator], Iterator[Population]],
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    steps: int,
    room: int,
    explores: int | None = None,
    steering: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
) -> Iterator[Population]:
    """Let a search explore by drafts, and finish the best of them.

    Where there is room for several, the best of the first 16, 64, 256, ... is finished at once, so that there is always
    something to show; that takes half of it at the most.

    Args:
        search: What explores.
        sampler: Finishes.
        reward: Judges both.
        rng: The search's own.
        steps: Of a draft.
        room: NFE for finishing. What was bred late costs few, so that more of them are finished.
        explores: NFE for exploring with a cache, which ends before it takes more: what drafts take is then known once
            they are made. What they leave finishes winners.
        steering: NFE for steering one more winner, see `evosearch.steering`, the best of those that were bred where
            that begins, or before; with what finishing leaves.
        steered_from: Level of a draft at which it begins.
        rungs: Of successive halving: each takes an equal part of the room and more steps than the one before, the last
            one all of them.
        draft_cache: Feature cache of drafts, see `Sampler.cached`.
        draft_prices: NFE of the first, second, ... step of such a draft.

    Yields:
        The best draft, as the state that it was bred at, whenever the search yields; winners, once they are finished.
    """
    draft, pool, seen, due = DraftSampler(sampler, steps), list[Birth](), 0, _FIRST
    start, roots = draft.levels[steered_from], list[Birth]()
    if draft_cache is not None:
        draft = DraftSampler(sampler.cached(draft_cache, draft_prices or ()), steps, explores)
    most = (room + steering) // min(latest(sampler.steps, steps, rungs))
    early = room // 2 if room >= _SEVERAL * sampler.steps else 0
    ids = torch.Generator().manual_seed(seed_of(rng.initial_seed(), "winners", 0))
    for p in _until_spent(search(draft, reward, rng)):
        if p.i < steps or p.reward is None:
            continue
        for id, value in zip(p.id.tolist(), p.reward.tolist(), strict=True):
            if id not in draft.births:
                continue
            birth = draft.births[id]._replace(reward=value)
            pool.append(birth)
            roots += [birth] if birth.p.i <= start else []
            seen += 1
            if seen < due or not early:
                continue
            pool = _best_first(pool)[:most]
            if (need := sampler.cost(pool[0].p, sampler.steps)) <= early:
                due, early, room = _TIMES * due, early - need, room - need
                yield from _finished([pool.pop(0)], sampler, reward, ids)
        pool, roots = _best_first(pool)[:most], _best_first(roots)[:1]
        draft.births.clear()  # what is still on its way is noted anew where it goes on
        if pool:
            yield replace(pool[0].p, reward=torch.tensor([pool[0].reward]))
    room += draft.left
    several = bool(roots) and isinstance(roots[0].reward, list)
    if several or sampler.edits:  # there is no one way to go, or no step without the pipeline
        room, steering = room + steering, 0
    for rung, finer in enumerate(rungs_of(sampler.steps, steps, rungs)[:-1]):
        part = room // (rungs - rung)
        tried = _affordable(pool, sampler, finer, part)
        room -= sum(_cost(birth, sampler, finer) for birth in tried)
        pool = _best_first(list(_redrafted(tried, sampler, reward, finer)))
    winners = _affordable(pool, sampler, sampler.steps, room)
    yield from _finished(winners, sampler, reward, ids)
    if steering and roots:
        steering += room - sum(_cost(birth, sampler, sampler.steps) for birth in winners)
        yield from _steered(roots[0], sampler, reward, ids, start, steering)


def rungs_of(steps: int, draft_steps: int, rungs: int) -> list[int]:
    """Steps on each rung, (rungs,), growing by equal factors from those of a draft to all."""
    return [round(draft_steps * (steps / draft_steps) ** ((rung + 1) / rungs)) for rung in range(rungs)]


def latest(steps: int, draft_steps: int, rungs: int) -> list[int]:
    """NFE, on each rung, of what was bred last: the fewest that a winner takes."""
    birth = levels_of(steps, draft_steps)[-2]
    return [sum(level > birth for level in levels_of(steps, finer)) for finer in rungs_of(steps, draft_steps, rungs)]


def _until_spent(found: Iterator[Population]) -> Iterator[Population]:
    with suppress(Spent):
        yield from found


def _finer(birth: Birth, sampler: Sampler, steps: int) -> list[int]:
    """Levels that a draft of so many steps passes on its way from where it was bred."""
    return [level for level in levels_of(sampler.steps, steps)[:-1] if level > birth.p.i]


def _cost(birth: Birth, sampler: Sampler, steps: int) -> int:
    return sampler.cost(birth.p, sampler.steps, _finer(birth, sampler, steps))


def _affordable(pool: Sequence[Birth], sampler: Sampler, steps: int, room: int) -> list[Birth]:
    """The best, as many as there is room for in so many steps."""
    chosen = list[Birth]()
    for birth in pool:
        if (need := _cost(birth, sampler, steps)) <= room:
            chosen.append(birth)
            room -= need
    return chosen


def _redrafted(births: Sequence[Birth], sampler: Sampler, reward: Reward, steps: int) -> Iterator[Birth]:
    """The same, judged by drafts in more steps."""
    for group in _alike(births):
        p = concat(*(birth.p for birth in group))
        end, _ = sampler.run(p, sampler.steps, eta=group[0].eta, through=_finer(group[0], sampler, steps))
        judged = score(_as_preview(end, sampler), sampler, reward).reward
        assert judged is not None
        yield from (birth._replace(reward=value) for birth, value in zip(group, judged.tolist(), strict=True))


def _alike(births: Sequence[Birth]) -> list[list[Birth]]:
    """Those of one level and eta together, which can be run in one call."""
    together: dict[tuple[int, float | None], list[Birth]] = {}
    for birth in births:
        together.setdefault((birth.p.i, birth.eta), []).append(birth)
    return list(together.values())


def _as_preview(p: Population, sampler: Sampler) -> Population:
    """What a draft has come to is scored like a preview."""
    return replace(p, i=p.i - 1, x0=p.x) if p.i == sampler.steps else p


_FIRST, _TIMES = 16, 4
_SEVERAL = 4  # samples' worth


def _best_first(births: Sequence[Birth]) -> list[Birth]:
    return [births[row] for row in order(torch.tensor([birth.reward for birth in births])).tolist()]


def _finished(births: Sequence[Birth], sampler: Sampler, reward: Reward, rng: torch.Generator) -> Iterator[Population]:
    """Those of one level at a time, as samples in all steps."""
    for group in _alike(births):
        yield roll_out(_resumed(group, rng), sampler, reward, eta=group[0].eta)[0]


def _steered(
    birth: Birth, sampler: Sampler, reward: Reward, rng: torch.Generator, start: int, room: int
) -> Iterator[Population]:
    """One as a sample in all steps, steered from a level on by as many noises as there is room for."""
    p, noises = _resumed([birth], rng), affordable(room, sampler.steps, birth.p.i, start)
    if noises < 2:
        return
    if p.i < start:
        p, _ = sampler.run(p, start, eta=birth.eta)
    yield from steered(p, sampler, reward, rng, noises=noises)


def _resumed(births: Sequence[Birth], rng: torch.Generator) -> Population:
    """Those of one level and eta, to go on in all steps. What was bred on the way holds its state itself."""
    p = concat(*(replace(birth.p.moved(birth.p.x), log_weight=None) for birth in births))
    if p.i == 0:
        return p
    noises = tuple(tuple(gene for gene in genome if gene.level == 0) for genome in p.genomes)
    return replace(p, genomes=noises).given(p.x, rng, eta=births[0].eta)
