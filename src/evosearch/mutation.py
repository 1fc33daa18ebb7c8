"""Mutation: new particles near old ones, at the same level.

At pure noise every operator is one and the same: x' = sqrt(1 - rate²) x + rate z, which keeps the Gaussian. In
between they differ in what they keep.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from evosearch.noise import normal
from evosearch.path import NoisePath
from evosearch.types import Population, Sampler


def level_preserving(p: Population, z: Tensor, path: NoisePath, rate: float) -> Tensor:
    """Mix fresh noise into the noise alone: eps' = sqrt(1 - rate²) eps + rate z, at the same alpha and sigma.

    With true (x0, eps) the marginal at the level is kept exactly. With predicted ones variance shrinks a little,
    since a prediction is smoother than the data.

    Args:
        p: Parents, with x0 unless at level 0.
        z: Unit Gaussian noise, (N, *D).
        path: The noise path.
        rate: Share of fresh noise, in [0, 1].

    Returns:
        The children's states, (N, *D), at the parents' level.
    """
    keep = math.sqrt(1 - rate * rate)
    if p.i == 0:
        return keep * p.x + rate * z
    if p.x0 is None:
        raise ValueError(f"p must have x0 to be mutated at level {p.i}; keep it by run(..., keep=({p.i},))")
    eps = p.eps if p.eps is not None else path.eps(p.x, p.x0, p.i)
    # alpha x0 + sigma eps', written as a change of x: at rate 0 the child is its parent, bit by bit
    return p.x + float(path.sigma[p.i]) * ((keep - 1) * eps + rate * z)


def additive(p: Population, z: Tensor, path: NoisePath, rate: float) -> Tensor:
    """The EvoSearch paper's: at noise as above (equation 7), in between x' = x + tau z (equation 8).

    tau is the spread that ancestral sampling adds in its next step. A child then holds more noise than its level
    says, and ``rate`` plays no part.
    """
    return level_preserving(p, z, path, rate) if p.i == 0 else p.x + path.tau(p.i, 1.0) * z


OPERATORS = {"level_preserving": level_preserving, "additive": additive}


def mutate(
    p: Population,
    sampler: Sampler,
    rng: torch.Generator,
    *,
    rate: float,
    operator: str = "level_preserving",
    inherit_noise: bool = False,
    eta: float | None = None,
) -> Population:
    """Make one child of each row.

    Args:
        p: Parents, (N, *D); with x0 where the operator needs it.
        sampler: Gives the path.
        rng: Draws the children's ids; its seed and those key the fresh noise.
        rate: Share of fresh noise, in [0, 1].
        operator: A name in `OPERATORS`.
        inherit_noise: Let children meet their parents' later noise, so that they differ by the mutation alone.
        eta: That children are run with, where it is not their parents'.
    """
    child = p.born(operator, rng, inherit_noise=inherit_noise, rate=rate, eta=eta)
    z = normal(rng.initial_seed(), child.id, p.i, "mutation", p.x.shape[1:])
    return child.moved(mutated(p, z, sampler, operator, rate))


def mutated(p: Population, z: Tensor, sampler: Sampler, operator: str, rate: float) -> Tensor:
    """The children's states, (N, *D), given the fresh noise z, (N, *D)."""
    change = OPERATORS[operator]
    if p.i > 0:
        return change(p, z, sampler.path, rate)
    return sampler.start(change(replace(p, x=noise_of(p.x, sampler)), z, sampler.path, rate))


def noise_of(x: Tensor, sampler: Sampler) -> Tensor:
    """The unit Gaussian noise in states at level 0: themselves, unless the pipeline starts from an image."""
    image = sampler.start(torch.zeros_like(x))
    return (x - image) / (sampler.start(torch.ones_like(x)) - image)
