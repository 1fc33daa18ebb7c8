"""Scoring: decode and judge a micro-batch at a time, so that decoded samples never pile up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from evosearch.types import Population, Reward, Sampler, concat_runs


def score(p: Population, sampler: Sampler, reward: Reward) -> Population:
    """The same particles with their rewards: of finished samples, or of x0 where predicted."""
    if len(p) <= sampler.batch_size:
        return replace(p, reward=reward(sampler.decode(p)).float())
    waiting = [_begun(batch, sampler, reward) for batch in p.split(sampler.batch_size)]
    return replace(p, reward=torch.cat([scores() for scores in waiting]).float())


def roll_out(
    p: Population, sampler: Sampler, reward: Reward, keep: Sequence[int] = (), eta: float | None = None
) -> tuple[Population, dict[int, Population]]:
    """Denoise to the end and score, see `rolled_out`.

    Args:
        p: Particles at a level below the last.
        sampler: Denoises and decodes.
        reward: Judges.
        keep: As for `Sampler.run`.
        eta: As for `Sampler.run`.

    Returns:
        The finished particles with their rewards, and a dictionary of those at the levels in ``keep``.
    """
    return concat_runs(list(rolled_out(p.split(sampler.batch_size), sampler, reward, keep, eta)))


def rolled_out(
    batches: Iterable[Population],
    sampler: Sampler,
    reward: Reward,
    keep: Sequence[int] = (),
    eta: float | None = None,
) -> Iterator[tuple[Population, dict[int, Population]]]:
    """Denoise micro-batches to the end and score them, one after the other, each as far as the budget pays for it.

    While one is scored elsewhere than by the model, the next is denoised.

    Args:
        batches: Particles, drawn as there is room for them.
        sampler: As for `roll_out`.
        reward: As for `roll_out`.
        keep: As for `roll_out`.
        eta: As for `roll_out`.

    Yields:
        What `roll_out` returns, of each.
    """
    if not hasattr(sampler, "runs"):
        for batch in batches:
            end, kept = sampler.run(batch, sampler.steps, keep, eta)
            yield score(end, sampler, reward), kept
        return
    with cast(Any, sampler).runs(batches, sampler.steps, keep, eta) as runs:
        for end, kept in runs:
            scores = _begun(end, sampler, reward)
            if getattr(reward, "overlaps", False):
                runs.begin()
            yield replace(end, reward=scores().float()), kept


def _begun(batch: Population, sampler: Sampler, reward: Any) -> Callable[[], Tensor]:
    """A micro-batch whose scoring has begun, or is done where the reward does nothing by the way."""
    samples = sampler.decode(batch)
    if hasattr(reward, "begin"):
        return reward.begin(samples)
    scores: Tensor = reward(samples)
    return lambda: scores


def preview(p: Population, sampler: Sampler, reward: Reward, lookahead: int = 1, twice: bool = False) -> Population:
    """The same particles with the rewards of what they are coming to; of finished ones, their own.

    Args:
        p: Particles at any level.
        sampler: Predicts and decodes.
        reward: Judges.
        lookahead: Deterministic steps to the end that a preview takes, evenly spread over the levels that are left; as
            many as there are at the most. 1 is x0 as predicted.
        twice: Take a preview even where the pipeline edits its states, and the way on pays for the prediction again.
    """
    if p.i == sampler.steps:
        return score(p, sampler, reward)
    p = sampler.predict(p)
    if sampler.edits and not twice:
        raise ValueError(
            "the pipeline edits its states between steps (a mask, say), so that a preview would be paid for twice; "
            "choose a search that needs none, such as best_of_n, or evosearch without look"
        )
    stops = foreseen(p.i, sampler.steps, lookahead)
    ahead = sampler.run(p, sampler.steps, eta=0.0, through=stops)[0].x if stops else p.x0
    return replace(p, reward=score(replace(p, x0=ahead), sampler, reward).reward)


def slope(value: Tensor, x: Tensor) -> Tensor:
    """The gradient of rewards (N,) in states (N, *D), 0 where it is not finite."""
    if not value.requires_grad:
        raise ValueError("reward says that it is differentiable, but its values have no gradient; compute it in torch")
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return gradient.nan_to_num(posinf=0.0, neginf=0.0)


def foreseen(i: int, steps: int, lookahead: int) -> list[int]:
    """Levels between i and the end that a preview of so many steps passes."""
    taken = min(lookahead, steps - i)
    return [i + round(k * (steps - i) / taken) for k in range(1, taken)]
