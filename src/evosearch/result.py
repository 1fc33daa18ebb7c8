"""What comes out of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

from torch import Tensor

from evosearch.budget import Cost
from evosearch.types import Genome, Population, Sample, pictures


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
    """

    sample: Sample
    reward: float
    id: int
    genome: Genome = ()
    nfe: int = 0
    held_out: dict[str, float] = field(default_factory=dict[str, float])


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

    @property
    def best(self) -> Scored:
        """The best of all."""
        return self.kept[0]

    def top(self, k: int) -> list[Scored]:
        """The k best, best first; at most as many as were kept."""
        return self.kept[:k]


class Gallery:
    """Keeps the best finished samples as they come, and a thumbnail of each where wanted.

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
        self._kept: list[tuple[Scored, Tensor]] = []

    def offer(self, p: Population, samples: Tensor, rewards: Tensor, cost: Cost) -> None:
        """Show it scored samples: (N, [F,] 3, H, W) uint8 and (N,) rewards, NaN where invalid."""
        for k, reward in enumerate(rewards.tolist()):
            id = int(p.id[k])
            entry = (Scored(pictures(samples[k]), reward, id, p.genomes[k], cost.nfe), samples[k])
            self.first = self.first or entry[0]
            if self.side:
                self.thumbnails[id] = _thumbnail(entry[0].sample, self.side)
            known = any(kept.id == id for kept, _ in self._kept)
            if reward == reward and not known:
                self._kept.append(entry)
        self._kept.sort(key=lambda entry: -entry[0].reward)  # stable: of equals, the first stays ahead
        del self._kept[self.size :]
        best = self.best
        if best is not None and (not self.curve or best.reward > self.curve[-1][2]):
            self.curve.append((cost.nfe, cost.seconds, best.reward))

    def glimpse(self, p: Population, samples: Tensor, rewards: Tensor) -> None:
        """Show it drafts or previews, which are never the best: as for `offer`."""
        if not self.side:
            return
        for k, reward in enumerate(rewards.tolist()):
            level = p.genomes[k][-1].level if p.genomes[k] else 0
            seen = _thumbnail(pictures(samples[k]), self.side)
            self.glimpses[int(p.id[k])] = Glimpse(int(p.parent[k]), level, reward, seen)

    @property
    def best(self) -> Scored | None:
        """The best so far; None before any reward was valid."""
        return self._kept[0][0] if self._kept else None

    @property
    def kept(self) -> list[tuple[Scored, Tensor]]:
        """The best, best first, each with its ([F,] 3, H, W) uint8 sample."""
        return list(self._kept)


def _thumbnail(sample: Sample, side: int) -> bytes:
    picture = (sample[len(sample) // 2] if isinstance(sample, list) else sample).copy()
    picture.thumbnail((side, side))
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return stream.getvalue()
