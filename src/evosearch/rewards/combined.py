"""Several rewards as one: by weights, in deviations, by rank, by the worst of them, within bounds, or as a front.

A search compares rewards across batches, and keeps what it has found with the reward that it had. So a combination is
one and the same function of a sample throughout. `weighted`, `minimum`, `constrained` and `pareto` are that by
themselves. `z_scored` and `rank_average` measure each part by the first samples of a search (``settle``), and by those
for good. While they gather, a sample is measured by those up to itself, which flatters none: of j, the last is at most
sqrt(j - 1) deviations above their mean, and at most the first of j by rank. What a run has kept is judged anew then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evosearch import rewards
from evosearch.checks import is_number, whole_number
from evosearch.rewards import TensorReward

Rule = Callable[[Tensor], Tensor]
"""Of parts (N, R) that are all finite their reward (N,), or (N, R) where they are to stay apart."""

_SETTLE = 16
_INFEASIBLE = -1e6  # below what rewards are; violations are a factor, so that float32 tells them apart there


class Combined:
    """One reward made of several, whose own scores are to be seen beside it.

    A sample for which one of them has nothing finite to say gets NaN.

    Args:
        name: How it is spelled.
        parts: Rewards by name; a combination among them is a part with parts.
        rule: Makes what brings them together; each search has one of its own, which may remember what it has seen.
        differentiable: Whether it has a gradient where all parts have one.

    Attributes:
        names: Of the R rewards that all is made of in the end.

    Raises:
        ValueError: Parts that stay apart (`pareto`) are to be a part.
    """

    def __init__(
        self, name: str, parts: Mapping[str, TensorReward], rule: Callable[[], Rule], differentiable: bool = True
    ) -> None:
        self.__name__, self.parts = name, dict(parts)
        self._make, self._rule, self._smooth = rule, rule(), differentiable
        each = self.parts.values()
        self.names = rewards.numbered(
            leaf for own, part in parts.items() for leaf in (part.names if isinstance(part, Combined) else [own])
        )
        self.differentiable = differentiable and all(getattr(part, "differentiable", False) for part in each)
        self.usd_per_call = sum(float(getattr(part, "usd_per_call", 0.0)) for part in each)
        self.allow_missing = min(map(rewards.allowed_missing, each))
        if any(isinstance(part, Combined) and part.apart for part in each):
            raise ValueError(f"pareto keeps rewards apart and cannot be a part of another, got {name}")

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples (N, [F,] 3, H, W); returns (N,), or one column a part where they stay apart."""
        return self.combine(self.each(samples, prompts))

    def each(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """What each says of samples (N, [F,] 3, H, W), (N, R)."""
        found = [
            part.each(samples, prompts)
            if isinstance(part, Combined)
            else rewards.scores(part, samples, prompts, name)[:, None]
            for name, part in self.parts.items()
        ]
        return torch.cat(found, dim=1)

    def combine(self, found: Tensor) -> Tensor:
        """Scores (N, R) of samples of the search brought together."""
        return self._brought_together(found, learn=True)

    def value(self, found: Tensor) -> Tensor:
        """The same by what has been seen so far, to which nothing is added."""
        return self._brought_together(found, learn=False)

    def _brought_together(self, found: Tensor, learn: bool) -> Tensor:
        columns, start = list[Tensor](), 0
        for part in self.parts.values():
            several = isinstance(part, Combined)
            own = found[:, start : start + (len(part.names) if several else 1)]
            columns.append(part._brought_together(own, learn) if several else own[:, 0])
            start += own.shape[1]
        table = torch.stack(columns, dim=1)
        valid = table.isfinite().all(dim=1)
        rule = self._rule if learn else getattr(self._rule, "value", self._rule)
        values = rule(table[valid])
        whole = values.new_full((len(found), *values.shape[1:]), torch.nan)
        whole[valid] = values
        return whole

    @property
    def apart(self) -> bool:
        """Whether its parts stay apart."""
        return self._rule is _apart

    @property
    def settled(self) -> bool:
        """Whether it stays the function that it is now."""
        parts = [part.settled for part in self.parts.values() if isinstance(part, Combined)]
        return all([getattr(self._rule, "settled", True), *parts])

    def over(self, change: Callable[[TensorReward], TensorReward]) -> Combined:
        """The same of other parts, with nothing seen yet."""
        parts = {name: change(part) for name, part in self.parts.items()}
        return Combined(self.__name__, parts, self._make, self._smooth)

    def fresh(self) -> Combined:
        """The same, with nothing seen yet."""
        return self.over(rewards.fresh)

    def at_frame_rate(self, rate: float) -> Combined:
        """See `evosearch.rewards.at_frame_rate`."""
        return self.over(lambda part: rewards.at_frame_rate(part, rate))

    def check(self, prompt: str, video: bool | None = None) -> None:
        """See `evosearch.rewards.check`."""
        for part in self.parts.values():
            rewards.check(part, prompt, video)


def weighted(weights: Mapping[Any, float]) -> Combined:
    """The sum of rewards, each times its weight.

    ``reward={"shapes": 1, "jpeg": .01}`` is the same.

    Args:
        weights: Of each reward, a name or a callable.

    Raises:
        ValueError: There is no reward, one is unknown, a weight is no number, or there are none.

    >>> weighted({"shapes": 1, "jpeg": 0.01}).__name__
    '1 shapes + 0.01 jpeg'
    """
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"weighted must be given rewards with their weights, as in weighted({{a: 1, b: 0.5}}), got {weights!r}"
        )
    if not weights:
        raise ValueError('reward must name at least one reward, got {}; for instance {"shapes": 1}')
    for part, weight in weights.items():
        if not is_number(weight):
            raise ValueError(f"reward {rewards.name_of(part)} must have a number as its weight, got {weight!r}")
    by = torch.tensor([float(weight) for weight in weights.values()])
    return Combined(rewards.name_of(weights), rewards.named(weights), lambda: lambda found: (found * by).sum(dim=1))


def z_scored(*parts: Any, settle: int = _SETTLE) -> Combined:
    """The mean of rewards in deviations from their means, so that each counts the same whatever its range.

    A reward that does not vary among the first samples counts as it is, less their mean.

    Args:
        parts: Rewards: names, callables, combinations.
        settle: The first so many samples of a search say what the mean and the deviation are.
    """
    whole_number("settle", settle, 2)
    return _of("z_scored", parts, lambda: Measured(deviations, settle), settle=settle)


def rank_average(*parts: Any, settle: int = _SETTLE) -> Combined:
    """The mean of rewards' ranks, 0 to 1, so that neither ranges nor outliers weigh.

    It has no gradient. Ranks are those among the first samples of a search, by straight lines in between. Beyond the
    best and the worst of them it goes on, by 1 for as much as lies between these two, so that there is always something
    better to find.

    Args:
        parts: Rewards: names, callables, combinations.
        settle: How many samples ranks are taken among.
    """
    whole_number("settle", settle, 2)
    return _of("rank_average", parts, lambda: Measured(ranks, settle), differentiable=False, settle=settle)


def minimum(*parts: Any) -> Combined:
    """The least of rewards: a sample is as good as its weakest side.

    Their ranges should be alike; `z_scored` of each makes them so.

    Args:
        parts: Rewards: names, callables, combinations.

    >>> minimum("shapes", z_scored("jpeg")).__name__
    'minimum(shapes, z_scored(jpeg))'
    """
    return _of("minimum", parts, lambda: lambda found: found.amin(dim=1))


def constrained(maximise: Any, subject_to: Mapping[Any, float]) -> Combined:
    """One reward, among samples for which others reach their thresholds.

    The rule of Deb (2000), "An efficient constraint handling method for genetic algorithms": what reaches all of them
    is worth its reward, which must be above -1e6; what does not is worth less than any of these, and the less the more
    it lacks, as a share of the threshold (of 1 where that is 0), summed.

    Args:
        maximise: The reward: a name, a callable, a combination.
        subject_to: Thresholds of others.

    Raises:
        ValueError: There is no threshold, or one is no number.
    """
    if not subject_to or not isinstance(subject_to, Mapping):
        raise ValueError(f"subject_to must have a threshold of at least one reward, got {subject_to!r}")
    for part, least in subject_to.items():
        if not is_number(least):
            raise ValueError(f"subject_to: {rewards.name_of(part)} must have a number as its threshold, got {least!r}")
    least = torch.tensor([float(value) for value in subject_to.values()])
    share = torch.where(least == 0, 1.0, least.abs())

    def rule(found: Tensor) -> Tensor:
        lacks = ((least - found[:, 1:]).clamp(min=0) / share).sum(dim=1)
        return torch.where(lacks > 0, _INFEASIBLE * (1 + lacks), found[:, 0])

    bounds = ", ".join(f"{rewards.name_of(part)}: {value:g}" for part, value in subject_to.items())
    name = f"constrained(maximise={rewards.name_of(maximise)}, subject_to={{{bounds}}})"
    return Combined(name, rewards.named([maximise, *subject_to]), lambda: rule)


def pareto(*parts: Any) -> Combined:
    """Rewards that stay apart, for a search that keeps a front of them.

    It selects by which are not beaten in all, see `evosearch.selection.order`. ``reward=["shapes", "shapes_clip"]`` is
    the same. Where one number is needed, as for the best, the curve and ``stop_at``, it is the first one's.

    Args:
        parts: Rewards, at least two: names, callables, combinations.
    """
    if len(parts) < 2:
        raise ValueError(f"pareto takes at least two rewards, got {len(parts)}")
    return _of("pareto", parts, lambda: _apart)


def _apart(found: Tensor) -> Tensor:
    return found


class Measured:
    """The mean of parts, each measured by the first samples seen.

    Args:
        measure: Of parts (N, R) and those of the first samples (J, R), what stands for each, (N, R).
        settle: How many the first are.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor], settle: int) -> None:
        self._measure, self._settle = measure, settle
        self._seen: list[Tensor] = []

    @property
    def settled(self) -> bool:
        """Whether all of the first samples have been seen."""
        return len(self._seen) >= self._settle

    def __call__(self, found: Tensor) -> Tensor:
        """Bring parts (N, R) together, row by row, whatever the batch; returns (N,)."""
        rows = list[Tensor]()
        while not self.settled and len(rows) < len(found):
            row = found[len(rows)]
            self._seen.append(row.detach())
            rows.append(self.value(row[None])[0])
        rest = found[len(rows) :]
        return torch.cat([torch.stack(rows), self.value(rest)]) if rows else self.value(rest)

    def value(self, found: Tensor) -> Tensor:
        """The same by what has been seen, with nothing added to it."""
        if not self._seen:
            return found.mean(dim=1)
        return self._measure(found, torch.stack(self._seen)).mean(dim=1).float()


def deviations(found: Tensor, seen: Tensor) -> Tensor:
    """Parts (N, R) in deviations of those seen (J, R) from their mean; 1 where they are all the same."""
    seen = seen.double()
    varied = seen.amax(dim=0) > seen.amin(dim=0)
    return (found - seen.mean(dim=0)) / torch.where(varied, seen.std(dim=0, correction=0), 1.0)


def ranks(found: Tensor, seen: Tensor) -> Tensor:
    """Ranks of parts (N, R) among those seen (J, R), see `rank_average`; of equals, the one in the middle."""
    return torch.stack([_rank(*both) for both in zip(found.unbind(dim=1), seen.unbind(dim=1), strict=True)], dim=1)


def _rank(found: Tensor, seen: Tensor) -> Tensor:
    values, counts = np.unique(seen.double().numpy(), return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / len(seen)
    x, low, high = found.double().numpy(), values[0], values[-1]
    beyond = (x - np.clip(x, low, high)) / (high - low or 1.0)
    return torch.from_numpy(np.interp(x, values, middles) + beyond)


def _of(
    name: str, parts: tuple[Any, ...], rule: Callable[[], Rule], differentiable: bool = True, **knobs: int
) -> Combined:
    if not parts:
        raise ValueError(f"{name} takes at least one reward, got none")
    said = [f"{knob}={value}" for knob, value in knobs.items() if value != _SETTLE]
    words = ", ".join([*map(rewards.name_of, parts), *said])
    return Combined(f"{name}({words})", rewards.named(parts), rule, differentiable)
