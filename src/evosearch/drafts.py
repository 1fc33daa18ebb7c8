"""Drafts: explore in fewer steps, and finish the winners in all of them.

Flash-BoN (arXiv:2607.04461) and CachedSearch (arXiv:2607.23159) draft best-of-N and draw the winner again from its
noise. Here any search drafts, and a winner goes on from the state at which it was bred, which keeps more of what it was
chosen for.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from evosearch.noise import seed_of
from evosearch.scoring import score
from evosearch.types import Population, Reward, Sampler, concat


def levels_of(steps: int, draft_steps: int) -> list[int]:
    """Levels that a draft visits, (draft_steps + 1,), evenly spread."""
    return [round(k * steps / draft_steps) for k in range(draft_steps + 1)]


class Birth(NamedTuple):
    """Where a draft came to be: a population of one at the sampler's own level, and the eta it was run with."""

    p: Population
    eta: float | None
    reward: float = math.nan


class DraftSampler:
    """A sampler that visits few of another's levels, evenly spread, and counts them as its own.

    What it finishes is a draft: scored like a preview, so that a run's best sample is never one.

    Args:
        sampler: The sampler proper.
        steps: Denoising steps of a whole draft, at most those of the sampler.

    Attributes:
        levels: The sampler's own level at each of the draft's, (steps + 1,).
        births: Where each particle came to be, by its id, since they were last cleared.
    """

    def __init__(self, sampler: Sampler, steps: int) -> None:
        self._own, self.steps, self.batch_size = sampler, steps, sampler.batch_size
        self.levels = levels_of(sampler.steps, steps)
        self.path = sampler.path.at(self.levels)
        self.prior, self.start, self.noise = sampler.prior, sampler.start, sampler.noise
        self.to_grid, self.from_grid, self.grad = sampler.to_grid, sampler.from_grid, sampler.grad
        self.births: dict[int, Birth] = {}

    @property
    def edits(self) -> bool:
        """See `Sampler.edits`."""
        return self._own.edits

    def predict(self, p: Population) -> Population:
        """See `Sampler.predict`."""
        self._note(p, None)
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
        p = self._outward(p)
        return self._own.decode(replace(p, i=p.i - 1, x0=p.x) if p.i == self._own.steps else p)

    def _note(self, p: Population, eta: float | None) -> None:
        for row, id in enumerate(p.id.tolist()):
            if id not in self.births:
                self.births[id] = Birth(self._outward(p[[row]]), eta)

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

    Yields:
        The best draft, as the state that it was bred at, whenever the search yields; winners, once they are finished.
    """
    draft, pool, seen, due = DraftSampler(sampler, steps), list[Birth](), 0, _FIRST
    most = room // (sampler.steps - draft.levels[-2])
    early = room // 2 if room >= _SEVERAL * sampler.steps else 0
    ids = torch.Generator().manual_seed(seed_of(rng.initial_seed(), "winners", 0))
    for p in search(draft, reward, rng):
        if p.i < steps or p.reward is None:
            continue
        for id, value in zip(p.id.tolist(), p.reward.tolist(), strict=True):
            if id not in draft.births:
                continue
            insort(pool, draft.births[id]._replace(reward=value), key=_best_first)
            del pool[most:]
            seen += 1
            if seen >= due and (need := sampler.cost(pool[0].p, sampler.steps)) <= early:
                due, early, room = _TIMES * due, early - need, room - need
                yield from _finished([pool.pop(0)], sampler, reward, ids)
        draft.births.clear()  # what is still on its way is noted anew where it goes on
        if pool:
            yield replace(pool[0].p, reward=torch.tensor([pool[0].reward]))
    winners = list[Birth]()
    for birth in pool:
        if (need := sampler.cost(birth.p, sampler.steps)) <= room:
            winners.append(birth)
            room -= need
    yield from _finished(winners, sampler, reward, ids)


_FIRST, _TIMES = 16, 4
_SEVERAL = 4  # samples' worth


def _best_first(birth: Birth) -> float:
    return -birth.reward if math.isfinite(birth.reward) else math.inf


def _finished(births: Sequence[Birth], sampler: Sampler, reward: Reward, rng: torch.Generator) -> Iterator[Population]:
    """Those of one level at a time, as samples in all steps. What was bred on the way holds its state itself."""
    together: dict[tuple[int, float | None], list[Population]] = {}
    for p, eta, _ in births:
        bare = replace(p.moved(p.x), log_weight=None)
        together.setdefault((p.i, eta), []).append(bare)
    for (level, eta), parts in together.items():
        p = concat(*parts)
        if level > 0:
            noises = tuple(tuple(gene for gene in genome if gene.level == 0) for genome in p.genomes)
            p = replace(p, genomes=noises).given(p.x, rng, eta=eta)
        end, _ = sampler.run(p, sampler.steps, eta=eta)
        yield score(end, sampler, reward)
