"""Blockwise sampling: every few steps, the best of several ways to go on.

Singh, Mukherjee, Beirami, Jamali-Rad (2025), "CoDe: Blockwise Control for Denoising Diffusion Models",
arXiv:2502.00968.

Differs from the paper:
- with ``n`` above 1, as many streams run side by side, each on its own;
- it begins with pure noise, never with a reference that is partly noised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import at_least_zero, whole_number
from evosearch.declaration import Wave, fill, search
from evosearch.scoring import preview
from evosearch.selection import winners
from evosearch.types import Population, Reward, Sampler

_CHILDREN = 20  # the paper's, and SVDD's


def waves_of(steps: int, *, n: int, children: int, block: int = 5, temperature: float = 0.0, **_: Any) -> list[Wave]:
    """What streams of so many children ask for, block by block."""
    whole_number("n", n, 1)
    whole_number("children", children, 1)
    whole_number("block", block, 1)
    at_least_zero("temperature", temperature)
    levels = [*range(0, steps, block)]
    rows = n * children
    last = steps - levels[-1] - 1
    # The children of a state share its prediction, which is theirs to step by; a preview is the first step of the next.
    return [Wave(n, 1, 0), *[Wave(rows, block)] * (len(levels) - 1), Wave(rows if last else n, last)]


def streams(name: str, waves: Any) -> Any:
    """A ``fit`` that has the papers' 20 children and as many streams as the budget allows, or one of fewer."""

    def fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
        if {"n", "children"}.isdisjoint(given):
            try:
                n = fill(name, waves, "n", children=_CHILDREN)(steps, budget, **given)["n"]
            except ValueError:
                n = 1
            return fill(name, waves, "children", n=n)(steps, budget, **given)
        return fill(name, waves, "children" if "n" in given else "n")(steps, budget, **given)

    return fit


@search(waves=waves_of, fit=streams("blockwise", waves_of), space="trajectory", needs=("SDE", "previews"))
def blockwise(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    children: int,
    block: int = 5,
    temperature: float = 0.0,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Go on from each state in several ways for a block of steps, and keep the way of the best preview.

    NFE: n + n · children · (steps - 1); a last block of one step, which adds no noise, is taken once.
    Rewards: n · children a block.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        n: Streams, each with a noise of its own.
        children: Ways to go on from a state.
        block: Steps between two choices.
        temperature: 0 takes the best; above, one in proportion to exp(reward / temperature).
        eta: 1 = ancestral SDE; at 0, children would be alike.

    Yields:
        The states chosen after each block, then all the finished ones.
    """
    waves_of(sampler.steps, n=n, children=children, block=block, temperature=temperature)
    p = sampler.predict(sampler.prior(n))
    while p.i < sampler.steps:
        until = min(p.i + block, sampler.steps)
        alone = p.i == sampler.steps - 1
        rows = torch.arange(n).repeat_interleave(1 if alone else children)
        p, _ = sampler.run(p.branch(rows, rng), until, eta=eta)
        p = preview(p, sampler, reward)
        assert p.reward is not None
        if until < sampler.steps:
            p = p[winners(p.reward, children, rng, temperature)]
        yield p
