"""Reward hacking: what held-out rewards say of the best samples as a search goes on, and when that is a fall.

Pushed hard, a search finds what its guidance is wrong about: guidance goes on rising, and what it stands for falls.
Gao, Schulman, Hilton (2023), "Scaling Laws for Reward Model Overoptimization", arXiv:2210.10760.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from evosearch.negatives import Negative

LEVEL = 0.05
"""Chance of an alarm where guidance and a held-out reward have nothing to do with each other, at the most."""

_FIRST, _TIMES = 8, 4
_FAMILIES = 8  # there are 12,870 ways to mix two eights, and 256 to swap eight pairs


class Seen(NamedTuple):
    """A sample of a stage.

    Attributes:
        family: Which noise it began with.
        negative: The sample, or what it is decoded from.
        reward: Its guidance reward.
        parts: Where that is made of several, what each of them says, by name.
    """

    family: int
    negative: Negative
    reward: float
    parts: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Stage:
    """The best by guidance of the first so many samples, no two of which began with the same noise.

    Attributes:
        samples: How many had been scored.
        families: Which noise each of the best began with, best first.
        ids: Of the best.
        guidance: Their rewards.
        held_out: What each held-out reward says of them, by name.
    """

    samples: int
    families: list[int]
    ids: list[int]
    guidance: list[float]
    held_out: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


@dataclass(frozen=True)
class Alarm:
    """A held-out reward that fell while guidance rose.

    Attributes:
        reward: Name of the held-out reward.
        before: The stage that it fell from.
        after: The end of the search.
        p: Chance of such a fall if the two had nothing to do with each other.
    """

    reward: str
    before: Stage
    after: Stage
    p: float

    def __str__(self) -> str:
        was, now = (middle(stage.held_out[self.reward]) for stage in (self.before, self.after))
        low, high = (middle(stage.guidance) for stage in (self.before, self.after))
        few, many = f"{self.before.samples:,}", f"{self.after.samples:,}"
        return (
            f"reward hacking is likely: held-out {self.reward} fell from {was:.3g} to {now:.3g} while the reward rose "
            f"from {low:.3g} to {high:.3g} (medians of the best {len(self.before.ids)} of {few} samples and of {many}, "
            f"p = {self.p:.2g}); search less, or let {self.reward} steer, too"
        )


class Watch:
    """Keeps the best samples of the first 8, 32, 128, ... as they come, for held-out rewards to see at the end.

    Samples that began with the same noise are a family; only the best of each counts, since kin are alike whatever the
    reward thinks of them. Drafts are not compared with samples in all steps: of those two kinds, the one is watched of
    which there are more.

    Args:
        steps: Denoising steps of the sampler.
    """

    def __init__(self, steps: int) -> None:
        self._kinds = {level: _Kind() for level in (steps, steps - 1)}  # drafts are scored on the last level but one

    def offer(self, negatives: Sequence[Negative], rewards: Tensor, parts: Sequence[Mapping[str, float]] = ()) -> None:
        """Show it scored samples.

        Args:
            negatives: N of them.
            rewards: (N,), NaN where invalid.
            parts: Of each, what its reward is made of.
        """
        for k, (negative, reward) in enumerate(zip(negatives, rewards.tolist(), strict=True)):
            genome = negative.p.genomes[0]
            if math.isfinite(reward) and negative.p.i in self._kinds:
                family = genome[0].id if genome else negative.id
                self._kinds[negative.p.i].offer(Seen(family, negative, reward, parts[k] if parts else {}))

    def judge_anew(self, value: Callable[[Tensor], Tensor]) -> None:
        """Take rewards to be others than they were when samples were shown: of parts (N, R), these (N,)."""
        for kind in self._kinds.values():
            kind.judge_anew(value)

    @property
    def stages(self) -> list[tuple[int, list[Seen]]]:
        """Samples scored and the best of them, by and by; those at the end last."""
        return max((kind.stages for kind in self._kinds.values()), key=lambda stages: stages[-1][0])


class _Kind:
    """The best of each family, of the best few families."""

    def __init__(self) -> None:
        self._best: dict[int, Seen] = {}
        self._past: list[tuple[int, list[Seen]]] = []
        self._count, self._due = 0, _FIRST

    def offer(self, seen: Seen) -> None:
        self._count += 1
        if seen.family not in self._best or seen.reward > self._best[seen.family].reward:
            self._best[seen.family] = seen
            if len(self._best) > _FAMILIES:
                del self._best[min(self._best, key=lambda family: self._best[family].reward)]
        if self._count == self._due:
            self._past.append(self.stages[-1])
            self._due *= _TIMES

    def judge_anew(self, value: Callable[[Tensor], Tensor]) -> None:
        best = _judged_anew([*self._best.values()], value)
        self._best = {seen.family: seen for seen in best}
        self._past = [(count, _best_first(_judged_anew(some, value))) for count, some in self._past]

    @property
    def stages(self) -> list[tuple[int, list[Seen]]]:
        now = (self._count, _best_first(self._best.values()))
        return [*(stage for stage in self._past if stage[0] < self._count), now]


def _best_first(seen: Iterable[Seen]) -> list[Seen]:
    return sorted(seen, key=lambda seen: -seen.reward)


def _judged_anew(seen: Sequence[Seen], value: Callable[[Tensor], Tensor]) -> list[Seen]:
    if not seen:
        return []
    parts = torch.tensor([[*each.parts.values()] for each in seen])
    return [each._replace(reward=reward) for each, reward in zip(seen, value(parts).tolist(), strict=True)]


def judged(stages: Sequence[tuple[int, list[Seen]]], held_out: Mapping[str, Mapping[int, float]]) -> list[Stage]:
    """Stages with what held-out rewards say, of each by id, NaN where they were not asked."""
    return [
        Stage(
            count,
            [seen.family for seen in best],
            [seen.negative.id for seen in best],
            [seen.reward for seen in best],
            {name: [values.get(seen.negative.id, math.nan) for seen in best] for name, values in held_out.items()},
        )
        for count, best in stages
    ]


def alarms(stages: Sequence[Stage]) -> list[Alarm]:
    """Held-out rewards that are lower at the end than at some earlier stage, by more than chance would have it.

    Of each, every earlier stage is compared with the end by `fell`, whose level is divided by the number of stages
    (Bonferroni); what is told is the stage of the smallest p.
    """
    if not stages:
        return []
    *past, end = stages
    found = list[Alarm]()
    for name in end.held_out:
        last = _by_family(end, name)
        tried = [Alarm(name, stage, end, fell(_by_family(stage, name), last) * len(past)) for stage in past]
        worst = min(tried, key=lambda alarm: alarm.p, default=None)
        if worst is not None and worst.p <= LEVEL:
            found.append(worst)
    return found


def fell(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """The chance that values after are as low as they are if they are no others than before: p, one-sided and exact.

    Where guidance is blind to a reward, a family's best before and its best after are exchangeable, and so are those of
    families of which only one is there, for families are independent. A permutation test goes through all exchanges;
    its statistic is the sum of the ranks that values after have among all.

    Args:
        before: Values by family.
        after: Likewise.
    """
    both = [family for family in before if family in after]
    old, new = ([v for family, v in values.items() if family not in both] for values in (before, after))
    values = [*(before[family] for family in both), *(after[family] for family in both), *old, *new]
    ranks = rankdata(values) if values else np.zeros(0)
    pairs, loose = ranks[: 2 * len(both)].reshape(2, -1), ranks[2 * len(both) :]
    swapped = np.array([sum(sides) for sides in product(*pairs.T)])
    mixed = np.array([sum(some) for some in combinations(loose, len(new))])
    seen = pairs[1].sum() + loose[len(old) :].sum()
    return float((swapped[:, None] + mixed <= seen + 1e-9).mean())


def middle(values: Sequence[float]) -> float:
    """The median of those that are finite; NaN where none is."""
    return median([value for value in values if math.isfinite(value)] or [math.nan])


def _by_family(stage: Stage, name: str) -> dict[int, float]:
    values = zip(stage.families, stage.held_out[name], strict=True)
    return {family: value for family, value in values if not math.isnan(value)}
