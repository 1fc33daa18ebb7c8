"""Best-of-N: plain samples, the best of which is kept. The baseline of every search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import whole_number
from evosearch.declaration import Wave, search
from evosearch.scoring import rolled_out
from evosearch.types import Population, Reward, Sampler


def _waves(steps: int, *, n: int, **_: Any) -> list[Wave]:
    return [Wave(whole_number("n", n, 1), steps)]


@search(waves=_waves, fit="n", space="noise", anytime=True, pareto=True)
def best_of_n(
    sampler: Sampler, reward: Reward, rng: torch.Generator, *, n: int, eta: float | None = None
) -> Iterator[Population]:
    """Draw n samples and keep the best.

    NFE: n · steps.
    Rewards: n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Not used: a sample depends on its number alone, so a larger n begins with the same samples.
        n: Samples.
        eta: The sampler's own by default.

    Yields:
        Finished populations, a micro-batch at a time.
    """
    del rng
    size = sampler.batch_size
    batches = (sampler.prior(min(size, n - start)) for start in range(0, n, size))
    for finished, _ in rolled_out(batches, sampler, reward, eta=eta):
        yield finished
