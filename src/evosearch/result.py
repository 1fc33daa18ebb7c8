"""What comes out of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evosearch.budget import Cost
from evosearch.hacking import Alarm, Stage
from evosearch.negatives import Negative
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
        faults: Why held-out rewards have nothing to say of some, a sentence each.
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
    faults: list[str] = field(default_factory=list[str])

    @property
    def best(self) -> Scored:
        """The best of all; of several rewards unweighted, by the first."""
        return self.kept[0]

    def top(self, k: int) -> list[Scored]:
        """The k best, best first; at most as many as were kept."""
        return self.kept[:k]


class Finished(NamedTuple):
    """A finished particle as the gallery keeps it.

    Attributes:
        negative: Its sample, or what that is decoded from.
        reward: Its guidance reward; of several, the first.
        rank: What it is ranked by: its reward, (), or several, (R,).
        nfe: NFE spent when it was found.
        seconds: Seconds by then.
        parts: Where its reward is made of several, what each of them says, by name.
    """

    negative: Negative
    reward: float
    rank: Tensor
    nfe: int
    seconds: float
    parts: dict[str, float]

    @property
    def scored(self) -> Scored:
        """What a result has of it; its negative must be developed."""
        negative = self.negative
        sample, genome = pictures(negative.sample), negative.p.genomes[0]
        return Scored(sample, self.reward, negative.id, genome, self.nfe, parts=self.parts)


class Gallery:
    """Keeps the best finished samples as they come, and thumbnails of all.

    Of several rewards unweighted it keeps the whole front, up to four times its size, then those farthest apart.

    Args:
        size: How many to keep.
    """

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self.thumbnails: dict[int, bytes] = {}
        self.glimpses: dict[int, Glimpse] = {}
        self.first: Finished | None = None
        self.curve: list[tuple[int, float, float]] = []
        self.kept: list[Finished] = []
        self.front = 0
        """How many of those kept, from the best on, no other beats; 0 where there is one reward."""

    def offer(
        self,
        negatives: Sequence[Negative],
        rewards: Tensor,
        cost: Cost,
        parts: Sequence[dict[str, float]] = (),
        thumbnails: Sequence[bytes] = (),
    ) -> None:
        """Show it scored samples.

        Args:
            negatives: N of them.
            rewards: (N,), or (N, R) of several; NaN where invalid.
            cost: Spent by now.
            parts: Of each, what its reward is made of.
            thumbnails: Of each, where wanted.
        """
        known = {entry.negative.id for entry in self.kept}
        for k, reward in enumerate(leading(rewards).tolist()):
            said = parts[k] if parts else {}
            entry = Finished(negatives[k], reward, rewards[k], cost.nfe, cost.seconds, said)
            self.first = self.first or entry
            if reward == reward and entry.negative.id not in known:
                self.kept.append(entry)
                known.add(entry.negative.id)
        self.thumbnails |= {negative.id: small for negative, small in zip(negatives, thumbnails, strict=False)}
        self._rank()
        best = self.best
        if best is not None and (not self.curve or best.reward > self.curve[-1][2]):
            self.curve.append((cost.nfe, cost.seconds, best.reward))

    def judge_anew(self, value: Callable[[Tensor], Tensor]) -> None:
        """Take rewards to be others than they were when samples were shown: of parts (N, R), these, (N,) or (N, R)."""
        if self.first is not None:
            first, *kept = _judged_anew([self.first, *self.kept], value)
            self.first, self.kept = first, kept
            self._rank()
            self.curve = _curve(self.kept)

    def _rank(self) -> None:
        """Sort what there is, best first, and keep as many as there is room for."""
        if not self.kept:
            return
        rewards = torch.stack([entry.rank for entry in self.kept])
        rows = order(rewards)
        if rewards.ndim == 2:
            front = fronts(rewards)
            self.front = min(int((front == 0).sum()), _FRONT * self.size)
            rows = rows[: max(self.size, self.front)]  # of a front that is too large, those farthest apart
            rows = rows[torch.argsort(rewards[rows, 0], descending=True, stable=True)]
            rows = rows[torch.argsort(front[rows], stable=True)]
        self.kept = [self.kept[row] for row in rows[: max(self.size, self.front)].tolist()]

    def glimpse(self, p: Population, rewards: Tensor, thumbnails: Sequence[bytes]) -> None:
        """Show it drafts or previews (N,), which are never the best, with their rewards and thumbnails, if wanted."""
        for k, small in enumerate(thumbnails):
            level = p.genomes[k][-1].level if p.genomes[k] else 0
            self.glimpses[int(p.id[k])] = Glimpse(int(p.parent[k]), level, float(rewards[k]), small)

    @property
    def best(self) -> Finished | None:
        """The best so far; None before any reward was valid."""
        return self.kept[0] if self.kept else None


def _judged_anew(entries: Sequence[Finished], value: Callable[[Tensor], Tensor]) -> list[Finished]:
    ranks = value(torch.tensor([[*entry.parts.values()] for entry in entries]))
    return [
        entry._replace(reward=reward, rank=rank)
        for entry, reward, rank in zip(entries, leading(ranks).tolist(), ranks, strict=True)
    ]


def _curve(entries: Sequence[Finished]) -> list[tuple[int, float, float]]:
    points, best = list[tuple[int, float, float]](), -math.inf
    for entry in sorted(entries, key=lambda entry: (entry.nfe, -entry.reward)):
        if entry.reward > best:
            best = entry.reward
            points.append((entry.nfe, entry.seconds, best))
    return points


def thumbnail(sample: Sample, side: int = THUMBNAIL) -> bytes:
    """A small WebP picture; of a video, its frame in the middle."""
    picture = (sample[len(sample) // 2] if isinstance(sample, list) else sample).copy()
    picture.thumbnail((side, side))
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return stream.getvalue()
