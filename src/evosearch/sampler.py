"""The sampler that every model shares, and its simplest form, over any callable denoiser."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self, TypeVar
from warnings import warn

import torch
from torch import Tensor

from evosearch.memory import OutOfMemory, half, within
from evosearch.path import NoisePath
from evosearch.stepper import Stepper, Trajectory, levels_between
from evosearch.types import Population, concat_runs

_MOST_LOST = 8  # particles in a row, after which more of them is no way to go on

T = TypeVar("T")


class BaseSampler(Stepper, ABC):
    """All of sampling but the model: micro-batches, and what memory suffices for. Nothing here is to be overridden.

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
    computed = 0
    """NFE computed so far, by every call together."""
    left_out: frozenset[int] = frozenset()
    """Ids of particles that memory did not suffice for alone."""
    _lost: Mapping[str, int] = MappingProxyType({})  # of these in a row, by what was to be done
    _sample: tuple[int, ...] = ()  # shape of the last one

    def predict(self, p: Population) -> Population:
        """Fill x0, (N, *D). One NFE a particle; nothing where x0 is set. Finished particles have none."""
        if p.x0 is not None:
            return p
        self.check_level(p, p.i + 1)
        return self._run(p, (p.i + 1,), (p.i,), 0.0)[1][p.i]

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
        self.check_level(p, until)
        eta, levels = self.eta if eta is None else eta, levels_between(p.i, until, through)
        if wrong := set(keep) - {p.i, *levels}:
            raise ValueError(f"keep must name levels from {p.i} to {until}, where the run passes, got {min(wrong)}")
        kept = {p.i: p} if p.i in keep and p.x0 is not None else {}
        if p.x0 is not None and not self.edits:
            p, levels = self.step(p, eta, to=levels[0]), levels[1:]
        if p.i < until:
            p, passed = self._run(p, levels, keep, eta)
            kept = passed | kept
        return p, kept | ({until: p} if until in keep else {})

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

    def decode(self, p: Population) -> Tensor:
        """Samples of finished particles, previews of predicted ones: (N, [F,] 3, H, W) float32 in [0, 1]."""
        x = p.x if p.i == self.steps else p.x0
        if x is None:
            raise ValueError(f"p must be finished or have x0 to be decoded, got level {p.i} without; call predict(p)")

        with torch.set_grad_enabled(self._graph):
            return torch.cat(self._through("decode", replace(p, x=x), self._decode_whole, self._no_samples))

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

    def _run(
        self, p: Population, levels: Sequence[int], keep: Sequence[int], eta: float
    ) -> tuple[Population, dict[int, Population]]:
        def whole(p: Population) -> tuple[Population, dict[int, Population]]:
            return self._run_whole(p, levels, keep, eta)

        def lost(p: Population) -> tuple[Population, dict[int, Population]]:
            trajectory = Trajectory(self, p, levels, keep, eta)
            while trajectory.levels:
                trajectory.advance(torch.full_like(trajectory.x, torch.nan), None)
            return trajectory.result(), trajectory.kept

        return concat_runs(self._through("run", p, whole, lost))

    def _run_whole(
        self, p: Population, levels: Sequence[int], keep: Sequence[int], eta: float
    ) -> tuple[Population, dict[int, Population]]:
        runs = list[tuple[Population, dict[int, Population]]]()
        for batch in p.split(self.batch_size):
            rows = list(range(len(batch))) + [len(batch) - 1] * (self.batch_size - len(batch))
            trajectory = Trajectory(self, batch[rows], levels, keep, eta, len(batch))
            with torch.set_grad_enabled(self._graph):
                nfe = self._denoise(trajectory, levels[-1])
            self.computed += math.ceil(len(batch) * nfe)
            self._sufficed("run")
            kept = {level: q[: len(batch)] for level, q in trajectory.kept.items()}
            runs.append((trajectory.result()[: len(batch)], kept))
        return concat_runs(runs)

    def _decode_whole(self, p: Population) -> Tensor:
        samples = list[Tensor]()
        for x in p.x.split(self.batch_size):
            samples.append(self._decode(_padded(x, self.batch_size))[: len(x)])
            self._sufficed("decode")
            self._sample = tuple(samples[-1].shape[1:])
        return torch.cat(samples)

    def _no_samples(self, p: Population) -> Tensor:
        return torch.full((len(p), *self._sample), torch.nan)

    def _sufficed(self, kind: str) -> None:
        self._lost = {**self._lost, kind: 0}

    def _through(
        self, kind: str, p: Population, work: Callable[[Population], T], lost: Callable[[Population], T]
    ) -> list[T]:
        """Do some work on particles, on as many at a time as memory suffices for.

        One for which it does not suffice alone is left out, and is not finite from there on, but not many in a row.
        """
        try:
            return [within(lambda: work(p), self._shrink)]
        except OutOfMemory:
            if self.strict or self._graph:
                raise
        made = list[T]()
        for q in p.split(1):
            try:
                made.append(within(lambda q=q: work(q), lambda: False))
            except OutOfMemory:
                self._lost = {**self._lost, kind: self._lost.get(kind, 0) + 1}
                if self._lost[kind] >= _MOST_LOST or (kind == "decode" and not self._sample):
                    raise
                self.left_out |= {int(q.id)}
                warn(f"memory does not suffice for particle {int(q.id):016x}, which is left out", stacklevel=2)
                made.append(lost(q))
        return made

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


def _padded(x: Tensor, size: int) -> Tensor:
    return x if len(x) == size else torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
