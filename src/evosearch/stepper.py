"""All of sampling that needs no model: priors, noise, steps, and what they cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from evosearch.noise import normal, seed_of
from evosearch.path import NoisePath
from evosearch.types import Gene, Population, concat


class Trajectory:
    """One micro-batch on its way: takes predictions level by level, moves the state, keeps what was asked for."""

    def __init__(
        self,
        sampler: Stepper,
        p: Population,
        levels: Sequence[int],
        keep: Sequence[int],
        eta: float,
        rows: int | None = None,
    ) -> None:
        self.sampler, self.particles, self.keep, self.eta = sampler, p, frozenset(keep), eta
        self.levels = list(levels)  # to visit after the one at hand
        self.rows = len(p) if rows is None else rows  # the others are padding
        self.x, self.i = p.x.to(sampler.device), p.i
        self.memory = None if p.memory is None else p.memory.to(sampler.device)
        self.kept: dict[int, Population] = {}

    def advance(self, x0: Tensor, eps: Tensor | None, noise: Tensor | None = None) -> Tensor:
        """Step from the level at hand by the model's prediction there; returns the new states, (N, *D)."""
        self.sampler.beat()
        path, to = self.sampler.path, self.levels.pop(0)
        if self.i in self.keep:
            self.kept[self.i] = self._population(x0=_cpu(x0), eps=_cpu(eps))
        if noise is None and path.tau(self.i, self.eta, to) > 0:
            noise = self.sampler.noise(self.particles.key, self.i, "step").to(self.x.device)
        self.x = path.step(self.x, x0, self.i, to=to, eta=self.eta, noise=noise, eps=eps, memory=self.memory)
        self.memory = x0 if path.order == 2 and to == self.i + 1 else None
        self.i = to
        return self.x

    def result(self) -> Population:
        """The particles where they stand now."""
        end = self.i == self.sampler.steps
        return self._population(memory=None) if end else self._population()

    def _population(self, **fields: Any) -> Population:
        return self.particles.moved(self.x.cpu(), self.i, **{"memory": _cpu(self.memory), **fields})


class Stepper:
    """Particles on a noise path, their noise and their steps.

    Args:
        path: The noise path.
        shape: Shape of one particle, D.
        eta: Default of `step`; 0 = ODE, 1 = ancestral SDE.
        seed: Run seed.
        batch_size: Particles in one pass of the model.
        device: Where steps are computed. States between calls lie on the CPU.
    """

    # Set where the pipeline edits states between steps: then a step cannot be taken without the pipeline.
    edits = False
    clean: Tensor | None = None
    """What level 0 begins with beside noise, (1, *D), where a pipeline starts from an image."""
    step_prices: tuple[float, ...] = ()
    """NFE of the first, second, ... step of a run, as measured, and of those after the last; 1 without."""
    beat: Callable[[], None] = staticmethod(lambda: None)
    """Called with every step, for those who wait for them."""
    strict = False
    """Whether micro-batches keep their shape, by which a particle's bits go, though memory does not suffice."""

    def __init__(
        self, path: NoisePath, shape: Sequence[int], *, eta: float, seed: int, batch_size: int, device: torch.device
    ) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 (ODE) to 1 (ancestral SDE), got {eta}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.path, self.shape, self.eta, self.seed = path, tuple(shape), eta, seed
        self.batch_size, self.device = batch_size, device
        self._born = 0

    @property
    def steps(self) -> int:
        """Denoising steps of a whole trajectory."""
        return self.path.steps

    def prior(self, n: int) -> Population:
        """Make n fresh particles at level 0: unit Gaussian x, (n, *D). Each call gives new ones.

        Where a pipeline starts from an image, x is that image at the first noise level.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        keys = torch.tensor([seed_of(self.seed, "particle", self._born + k) for k in range(n)])
        self._born += n
        genomes = tuple((Gene("prior", 0, int(k), int(k), self.seed),) for k in keys)
        return Population(self.start(self.noise(keys, 0, "prior")), 0, keys, genomes=genomes)

    def rewound(self) -> Self:
        """The same sampler, whose `prior` begins anew with its first particle."""
        anew = copy.copy(self)
        anew._born = 0
        return anew

    def step(
        self, p: Population, eta: float | None = None, noise: Tensor | None = None, to: int | None = None
    ) -> Population:
        """Take predicted particles one level on, or further, without the model.

        Args:
            p: Particles with x0.
            eta: The sampler's own by default.
            noise: The fresh noise to use instead of the particles' own, (N, *D).
            to: Level to reach; the next one by default.
        """
        if p.x0 is None:
            raise ValueError(f"p must have x0 to be stepped from level {p.i}; call predict(p) first")
        if self.edits:
            raise ValueError(
                "the pipeline edits its states between steps (a mask, say), so that none can be taken without it; "
                "choose a search that takes none by itself, such as best_of_n or evosearch"
            )
        eta, to = self.eta if eta is None else eta, p.i + 1 if to is None else to
        self.check_level(p, to)
        moved: list[Population] = []
        for batch in p.split(self.batch_size):
            trajectory = Trajectory(self, batch, (to,), (), eta)
            eps = None if batch.eps is None else batch.eps.to(self.device)
            z = None if noise is None else noise[len(moved) * self.batch_size :][: len(batch)].to(self.device)
            assert batch.x0 is not None
            trajectory.advance(batch.x0.to(self.device), eps, z)
            moved.append(trajectory.result())
        return concat(*moved)

    def cost(self, p: Population, until: int, through: Sequence[int] | None = None) -> int:
        """NFE that `run` to this level will take; with features reused, what it is likely to be."""
        steps = len(levels_between(p.i, until, through)) - (p.x0 is not None and not self.edits)
        known = (*self.step_prices, *[self.step_prices[-1] if self.step_prices else 1.0] * steps)
        return math.ceil(len(p) * sum(known[:steps]))

    def renoise(self, p: Population, level: int) -> Population:
        """Take particles back to a noisier level by the forward process; they get new noise from there on.

        Copies of one particle go to one and the same state: `Population.branch` them first.
        """
        key = torch.tensor([seed_of(int(k), p.i, level, "renoise") for k in p.key])
        genomes = tuple(
            (*g, Gene("renoise", level, int(k), int(k), self.seed, source=p.i))
            for g, k in zip(p.genomes, key, strict=True)
        )
        x = self.path.renoise(p.x, p.i, level, self.noise(key, level, "renoise"))
        return p.moved(x, level, key=key, id=key, parent=p.id, genomes=genomes)

    def to_grid(self, x: Tensor) -> Tensor:
        """States as (N, C, [F,] H, W), for what works in space.

        Raises:
            ValueError: They have no such form.
        """
        if x.ndim not in (4, 5):
            raise ValueError(f"states of shape (N, {', '.join(map(str, x.shape[1:]))}) have no (C, [F,] H, W) grid")
        return x

    def from_grid(self, x: Tensor) -> Tensor:
        """The inverse of `to_grid`."""
        return x

    def noise(self, keys: Tensor, level: int, purpose: str) -> Tensor:
        """Keyed unit Gaussian noise on the CPU, (N, *D); see `evosearch.noise.normal`."""
        return normal(self.seed, keys, level, purpose, self.shape)

    def check_level(self, p: Population, until: int) -> None:
        """ValueError where particles cannot be run to a level."""
        if not p.i < until <= self.steps:
            raise ValueError(f"until must be above the population's level {p.i} and at most {self.steps}, got {until}")

    def start(self, noise: Tensor) -> Tensor:
        """States at level 0 of unit Gaussian noise; of the image at that level, where a pipeline starts from one."""
        if self.clean is None:
            return noise
        return float(self.path.alpha[0]) * self.clean + float(self.path.sigma[0]) * noise


def levels_between(start: int, until: int, through: Sequence[int] | None) -> list[int]:
    """Levels that a run visits after its first."""
    if through is None:
        return list(range(start + 1, until + 1))
    levels = [start, *through, until]
    if any(later <= level for level, later in pairwise(levels)):
        raise ValueError(f"through must name increasing levels between {start} and {until}, got {list(through)}")
    return levels[1:]


def _cpu(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.cpu()
