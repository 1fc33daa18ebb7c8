"""The sampler that every model shares, and its simplest form, over any callable denoiser."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from evosearch.memory import OutOfMemory, half, within
from evosearch.noise import normal, seed_of
from evosearch.path import NoisePath
from evosearch.types import Gene, Population, concat


class Trajectory:
    """One micro-batch on its way: takes predictions level by level, moves the state, keeps what was asked for."""

    def __init__(
        self,
        sampler: BaseSampler,
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


class BaseSampler(ABC):
    """Everything about sampling but the model: noise, micro-batches, steps. Nothing here is to be overridden.

    Micro-batches have one shape, the last padded, so that a particle's bits depend neither on its companions nor on
    its place.

    Args:
        path: The noise path.
        shape: Shape of one particle, D.
        eta: Default of `step` and `run`; 0 = ODE, 1 = ancestral SDE.
        seed: Run seed.
        batch_size: Particles in one pass of the model.
        device: Where the model computes. States between calls lie on the CPU.
    """

    _graph = False  # whether to keep what a gradient needs
    # Set where the pipeline edits states between steps: then a step cannot be taken without the pipeline.
    edits = False
    computed = 0
    """NFE computed so far, by every call together."""
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

    def predict(self, p: Population) -> Population:
        """Fill x0, (N, *D). One NFE a particle; nothing where x0 is set. Finished particles have none."""
        if p.x0 is not None:
            return p
        self._check_level(p, p.i + 1)
        return self._run(p, (p.i + 1,), (p.i,), 0.0)[1][p.i]

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
        self._check_level(p, to)
        moved: list[Population] = []
        for batch in p.split(self.batch_size):
            trajectory = Trajectory(self, batch, (to,), (), eta)
            eps = None if batch.eps is None else batch.eps.to(self.device)
            z = None if noise is None else noise[len(moved) * self.batch_size :][: len(batch)].to(self.device)
            assert batch.x0 is not None
            trajectory.advance(batch.x0.to(self.device), eps, z)
            moved.append(trajectory.result())
        return concat(*moved)

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """Denoise up to a level.

        Args:
            p: Particles at a level below ``until``. Where x0 is set, its level is not paid for again.
            until: Level to reach, at most ``steps``.
            keep: Levels from ``p.i`` to ``until`` whose states to return, with x0 where the run goes beyond them.
            eta: The sampler's own by default.
            through: Levels to visit on the way, increasing, the others left out; all of them by default.

        Returns:
            The particles at ``until``, and a dictionary of those at the levels in ``keep``.
        """
        self._check_level(p, until)
        eta, levels = self.eta if eta is None else eta, _levels(p.i, until, through)
        if wrong := set(keep) - {p.i, *levels}:
            raise ValueError(f"keep must name levels from {p.i} to {until}, where the run passes, got {min(wrong)}")
        kept = {p.i: p} if p.i in keep and p.x0 is not None else {}
        if p.x0 is not None and not self.edits:
            p, levels = self.step(p, eta, to=levels[0]), levels[1:]
        if p.i < until:
            p, passed = self._run(p, levels, keep, eta)
            kept = passed | kept
        return p, kept | ({until: p} if until in keep else {})

    def cost(self, p: Population, until: int, through: Sequence[int] | None = None) -> int:
        """NFE that `run` to this level will take."""
        return len(p) * (len(_levels(p.i, until, through)) - (p.x0 is not None and not self.edits))

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> Self:
        """The same sampler, whose network takes features over from the step before.

        Args:
            cache: A name in `evosearch.features.NAMES`, or a cache config of diffusers.
            prices: NFE of the first, second, ... step of a run, as `prices` has measured them; 1 without.

        Raises:
            ValueError: It has no such network.
        """
        del cache, prices
        raise ValueError(
            "draft_cache needs a pipeline whose network has diffusers' feature caches (enable_cache), and "
            f"{type(self).__name__} has none; use draft_steps alone"
        )

    def prices(self, levels: Sequence[int]) -> list[float]:
        """NFE of each step of a run through these levels; not counted."""
        return [1.0] * (len(levels) - 1)

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

    def decode(self, p: Population) -> Tensor:
        """Samples of finished particles, previews of predicted ones: (N, [F,] 3, H, W) float32 in [0, 1]."""
        x = p.x if p.i == self.steps else p.x0
        if x is None:
            raise ValueError(f"p must be finished or have x0 to be decoded, got level {p.i} without; call predict(p)")

        def samples() -> Tensor:
            parts = x.split(self.batch_size)
            return torch.cat([self._decode(_padded(part, self.batch_size))[: len(part)] for part in parts])

        with torch.set_grad_enabled(self._graph):
            return within(samples, self._shrink)

    @contextmanager
    def grad(self) -> Generator[None]:
        """Within, what is run and decoded has a gradient in the states that it came from.

        Raises:
            ValueError: The model is offloaded or quantised.
        """
        with torch.enable_grad(), self._opened():
            self._graph = True
            try:
                yield
            finally:
                self._graph = False

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

    def _run(
        self, p: Population, levels: Sequence[int], keep: Sequence[int], eta: float
    ) -> tuple[Population, dict[int, Population]]:
        return within(lambda: self._run_whole(p, levels, keep, eta), self._shrink)

    def _run_whole(
        self, p: Population, levels: Sequence[int], keep: Sequence[int], eta: float
    ) -> tuple[Population, dict[int, Population]]:
        ends: list[Population] = []
        stages: list[dict[int, Population]] = []
        for batch in p.split(self.batch_size):
            rows = list(range(len(batch))) + [len(batch) - 1] * (self.batch_size - len(batch))
            trajectory = Trajectory(self, batch[rows], levels, keep, eta, len(batch))
            with torch.set_grad_enabled(self._graph):
                nfe = self._denoise(trajectory, levels[-1])
            self.computed += math.ceil(len(batch) * nfe)
            ends.append(trajectory.result()[: len(batch)])
            stages.append({level: q[: len(batch)] for level, q in trajectory.kept.items()})
        return concat(*ends), {level: concat(*(stage[level] for stage in stages)) for level in stages[0]}

    def _shrink(self) -> bool:
        """Take fewer particles at a time, or else less memory for one; whether that could be done."""
        if self.strict:
            raise OutOfMemory(
                f"memory does not suffice for micro-batches of {self.batch_size}, and strict keeps their shape; give a "
                "smaller batch_size"
            )
        if self.batch_size == 1:
            return self._spare()
        self.batch_size = half(self.batch_size)
        return True

    def _spare(self) -> bool:
        """Have the model take less memory, where it can."""
        return False

    def _check_level(self, p: Population, until: int) -> None:
        if not p.i < until <= self.steps:
            raise ValueError(f"until must be above the population's level {p.i} and at most {self.steps}, got {until}")

    def start(self, noise: Tensor) -> Tensor:
        """States at level 0 made of unit Gaussian noise."""
        return noise

    def _opened(self) -> AbstractContextManager[None]:
        """The model, ready to be differentiated."""
        return nullcontext()

    @abstractmethod
    def _denoise(self, trajectory: Trajectory, until: int) -> float:
        """Advance one micro-batch up to a level, by the model's predictions; returns a particle's NFE."""

    @abstractmethod
    def _decode(self, x: Tensor) -> Tensor:
        """Clean states (N, *D) of one micro-batch on the CPU to samples there, in [0, 1]."""


class DenoiserSampler(BaseSampler):
    """A sampler over a plain function: the way in for toy models, k-diffusion style denoisers and tests.

    Args:
        denoise: ``(x (N, *D), alpha, sigma) -> x0 (N, *D)``, the denoiser of x = alpha x0 + sigma eps.
        path: The noise path.
        shape: Shape of one particle, D.
        decode: Clean states to samples; as they are by default.
        eta: 0 = ODE, 1 = ancestral SDE.
        seed: Run seed.
        batch_size: Rows in one call of ``denoise``.

    >>> unit = DenoiserSampler(lambda x, alpha, sigma: alpha * x, NoisePath.cosine(10), (2,))
    >>> finished, kept = unit.run(unit.prior(4), 10, keep=(5,))
    >>> finished.x.shape, kept[5].i
    (torch.Size([4, 2]), 5)
    """

    def __init__(
        self,
        denoise: Callable[[Tensor, float, float], Tensor],
        path: NoisePath,
        shape: Sequence[int],
        *,
        decode: Callable[[Tensor], Tensor] = lambda x: x,
        eta: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(path, shape, eta=eta, seed=seed, batch_size=batch_size, device=torch.device("cpu"))
        self._denoiser, self._decoder = denoise, decode

    def _denoise(self, trajectory: Trajectory, until: int) -> float:
        steps = len(trajectory.levels)
        while (i := trajectory.i) < until:
            x0 = self._denoiser(trajectory.x, float(self.path.alpha[i]), float(self.path.sigma[i]))
            trajectory.advance(x0, None)
        return steps

    def _decode(self, x: Tensor) -> Tensor:
        return self._decoder(x)


def _levels(start: int, until: int, through: Sequence[int] | None) -> list[int]:
    """Levels that a run visits after its first."""
    if through is None:
        return list(range(start + 1, until + 1))
    levels = [start, *through, until]
    if any(later <= level for level, later in pairwise(levels)):
        raise ValueError(f"through must name increasing levels between {start} and {until}, got {list(through)}")
    return levels[1:]


def _cpu(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.cpu()


def _padded(x: Tensor, size: int) -> Tensor:
    return x if len(x) == size else torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
