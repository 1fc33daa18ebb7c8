"""What comes out of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evosearch.budget import Cost
from evosearch.hacking import Alarm, Stage
from evosearch.selection import fronts, leading, order
from evosearch.types import Genome, Population, Sample, pictures

THUMBNAIL = 128
"""Longer side of thumbnails in a report, in pixels."""

_FRONT = 4  # times what is kept otherwise


@dataclass(frozen=True)
class Scored:
    """One finished particle.

    Attributes:
        sample: PIL image, or list of PIL frames.
        reward: Its guidance reward.
        id: Who it is.
        genome: How to make it again.
        nfe: NFE spent when it was found.
        held_out: Rewards that judged it without steering, by name.
        parts: Where its reward is made of several, what each of them says, by name.
    """

    sample: Sample
    reward: float
    id: int
    genome: Genome = ()
    nfe: int = 0
    held_out: dict[str, float] = field(default_factory=dict[str, float])
    parts: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Generation:
    """One finished population as a search yielded it.

    Attributes:
        ids: Particles, in order.
        parents: Their parents' ids, -1 where there is none.
        rewards: Their rewards; NaN where invalid.
        nfe: NFE spent by then.
        seconds: Seconds by then.
    """

    ids: list[int]
    parents: list[int]
    rewards: list[float]
    nfe: int
    seconds: float


class Glimpse(NamedTuple):
    """A draft or a preview, as it was seen.

    Attributes:
        parent: Its parent's id, -1 where there is none.
        level: At which it came to be.
        reward: Of what was seen.
        thumbnail: A small WebP picture.
    """

    parent: int
    level: int
    reward: float
    thumbnail: bytes


@dataclass
class Result:
    """Outcome of `evosearch.search`.

    Attributes:
        kept: The best particles, best first.
        plain: The first plain sample of the same seed, for comparison.
        stock: What the pipeline's own solver makes of that sample's noise, where its steps are not ours and a run
            folder was asked for.
        generations: Every finished population.
        curve: (nfe, seconds, best reward so far), rising.
        cost: What was spent.
        invalid: Rewards that were not finite.
        settings: Prompt, model, reward, algorithm, knobs, budget, seed: all that the run depends on.
        thumbnails: Small WebP pictures by particle id, where a run folder was asked for.
        glimpses: Drafts and previews by particle id, where a run folder was asked for.
        front: Where several rewards were to be maximised unweighted, those kept that no other beats: none is at least
            as good in all and better in one. The best is its first, and it goes down in the first reward.
        stages: With held-out rewards, what they say of the best samples as the search went on, the end last.
        alarms: Held-out rewards that fell meanwhile, which speaks for reward hacking; ``str`` of one is a sentence.
    """

    kept: list[Scored]
    plain: Scored
    generations: list[Generation]
    curve: list[tuple[int, float, float]]
    cost: Cost
    invalid: int
    settings: dict[str, Any]
    stock: Scored | None = None
    thumbnails: dict[int, bytes] = field(default_factory=dict[int, bytes], repr=False)
    glimpses: dict[int, Glimpse] = field(default_factory=dict[int, Glimpse], repr=False)
    front: list[Scored] = field(default_factory=list[Scored])
    stages: list[Stage] = field(default_factory=list[Stage], repr=False)
    alarms: list[Alarm] = field(default_factory=list[Alarm])

    @property
    def best(self) -> Scored:
        """The best of all; of several rewards unweighted, by the first."""
        return self.kept[0]

    def top(self, k: int) -> list[Scored]:
        """The k best, best first; at most as many as were kept."""
        return self.kept[:k]


class _Entry(NamedTuple):
    scored: Scored
    sample: Tensor
    rank: Tensor  # what it is ranked by: its reward, (), or several, (R,)
    seconds: float


class Gallery:
    """Keeps the best finished samples as they come, and a thumbnail of each where wanted.

    Of several rewards unweighted it keeps the whole front, up to four times its size, then those farthest apart.

    Args:
        size: How many to keep.
        thumbnails: Side of the thumbnails in pixels; none at 0.
    """

    def __init__(self, size: int = 16, thumbnails: int = 0) -> None:
        self.size, self.side = size, thumbnails
        self.thumbnails: dict[int, bytes] = {}
        self.glimpses: dict[int, Glimpse] = {}
        self.first: Scored | None = None
        self.curve: list[tuple[int, float, float]] = []
        self._kept: list[_Entry] = []
        self._front = 0

    def offer(
        self, p: Population, samples: Tensor, rewards: Tensor, cost: Cost, parts: Sequence[dict[str, float]] = ()
    ) -> None:
        """Show it scored samples.

        Args:
            p: The particles.
            samples: (N, [F,] 3, H, W) uint8.
            rewards: (N,), or (N, R) of several; NaN where invalid.
            cost: Spent by now.
            parts: Of each, what its reward is made of.
        """
        for k, reward in enumerate(leading(rewards).tolist()):
            id = int(p.id[k])
            scored = Scored(pictures(samples[k]), reward, id, p.genomes[k], cost.nfe, parts=parts[k] if parts else {})
            self.first = self.first or scored
            if self.side:
                self.thumbnails[id] = thumbnail(scored.sample, self.side)
            known = any(entry.scored.id == id for entry in self._kept)
            if reward == reward and not known:
                self._kept.append(_Entry(scored, samples[k], rewards[k], cost.seconds))
        self._rank()
        best = self.best
        if best is not None and (not self.curve or best.reward > self.curve[-1][2]):
            self.curve.append((cost.nfe, cost.seconds, best.reward))

    def judge_anew(self, value: Callable[[Tensor], Tensor]) -> None:
        """Take rewards to be others than they were when samples were shown: of parts (N, R), these, (N,) or (N, R)."""
        if self.first is not None:
            parts = torch.tensor([[*scored.parts.values()] for scored in (self.first, *(e.scored for e in self._kept))])
            ranks = value(parts)
            first, *rewards = leading(ranks).tolist()
            self.first = replace(self.first, reward=first)
            self._kept = [
                entry._replace(scored=replace(entry.scored, reward=reward), rank=rank)
                for entry, reward, rank in zip(self._kept, rewards, ranks[1:], strict=True)
            ]
            self._rank()
            self.curve = _curve(self._kept)

    def _rank(self) -> None:
        """Sort what there is, best first, and keep as many as there is room for."""
        if not self._kept:
            return
        rewards = torch.stack([entry.rank for entry in self._kept])
        rows = order(rewards)
        if rewards.ndim == 2:
            front = fronts(rewards)
            self._front = min(int((front == 0).sum()), _FRONT * self.size)
            rows = rows[: max(self.size, self._front)]  # of a front that is too large, those farthest apart
            rows = rows[torch.argsort(rewards[rows, 0], descending=True, stable=True)]
            rows = rows[torch.argsort(front[rows], stable=True)]
        self._kept = [self._kept[row] for row in rows[: max(self.size, self._front)].tolist()]

    def glimpse(self, p: Population, samples: Tensor, rewards: Tensor) -> None:
        """Show it drafts or previews, which are never the best: as for `offer`."""
        if not self.side:
            return
        for k, reward in enumerate(rewards.tolist()):
            level = p.genomes[k][-1].level if p.genomes[k] else 0
            seen = thumbnail(pictures(samples[k]), self.side)
            self.glimpses[int(p.id[k])] = Glimpse(int(p.parent[k]), level, reward, seen)

    @property
    def best(self) -> Scored | None:
        """The best so far; None before any reward was valid."""
        return self._kept[0].scored if self._kept else None

    @property
    def kept(self) -> list[tuple[Scored, Tensor]]:
        """The best, best first, each with its ([F,] 3, H, W) uint8 sample."""
        return [(entry.scored, entry.sample) for entry in self._kept]

    @property
    def front(self) -> int:
        """How many of those, from the best on, no other beats; 0 where there is one reward."""
        return self._front


def _curve(entries: Sequence[_Entry]) -> list[tuple[int, float, float]]:
    points, best = list[tuple[int, float, float]](), -math.inf
    for entry in sorted(entries, key=lambda entry: (entry.scored.nfe, -entry.scored.reward)):
        if entry.scored.reward > best:
            best = entry.scored.reward
            points.append((entry.scored.nfe, entry.seconds, best))
    return points


def thumbnail(sample: Sample, side: int = THUMBNAIL) -> bytes:
    """A small WebP picture; of a video, its frame in the middle."""
    picture = (sample[len(sample) // 2] if isinstance(sample, list) else sample).copy()
    picture.thumbnail((side, side))
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return stream.getvalue()
