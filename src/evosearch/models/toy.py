"""A diffusion or flow model whose every quantity is known: a mixture of Gaussians, with its exact denoiser.

What a search ought to draw can be computed here, so that what it draws can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import above_zero, whole_number
from evosearch.path import NoisePath
from evosearch.sampler import DenoiserSampler

PATHS = {"diffusion": NoisePath.cosine, "flow": NoisePath.flow}


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Data from K Gaussians in D dimensions, each the same in all directions.

    Attributes:
        means: (K, D).
        deviations: Standard deviations, (K,).
        weights: (K,), summing to one.

    >>> mixture = GaussianMixture.ring(8)
    >>> sampler = mixture.sampler(steps=20)
    >>> finished, _ = sampler.run(sampler.prior(5), 20)
    >>> finished.x.shape
    torch.Size([5, 2])
    """

    means: Tensor
    deviations: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls, means: Sequence[Sequence[float]], deviation: float, weights: Sequence[float] | None = None
    ) -> GaussianMixture:
        """A mixture of equally wide Gaussians, equally heavy unless told otherwise."""
        centres = torch.tensor(means, dtype=torch.float64)
        if centres.ndim != 2 or len(centres) == 0:
            raise ValueError(f"means must be K points of D numbers each, got {means!r}")
        above_zero("deviation", deviation)
        if weights is not None and (len(weights) != len(centres) or min(weights) <= 0):
            raise ValueError(f"weights must be {len(centres)} numbers above 0, one for each mean, got {weights!r}")
        heavy = torch.ones(len(centres)) if weights is None else torch.tensor(weights)
        return cls(centres, torch.full((len(centres),), deviation, dtype=torch.float64), (heavy / heavy.sum()).double())

    @classmethod
    def ring(cls, count: int, radius: float = 4.5, deviation: float = 0.5) -> GaussianMixture:
        """So many Gaussians in the plane, evenly on a circle."""
        whole_number("count", count, 1)
        angles = [2 * math.pi * k / count for k in range(count)]
        return cls.of([[radius * math.cos(a), radius * math.sin(a)] for a in angles], deviation)

    @property
    def dimensions(self) -> int:
        """D."""
        return self.means.shape[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Data, (n, D) float32."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dimensions, dtype=torch.float64, generator=generator)
        return (self.means[k] + self.deviations[k, None] * z).float()

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """Log-density of alpha x0 + sigma eps, (N,) float64 for x (N, D)."""
        return torch.logsumexp(self._joint(x.double(), alpha, sigma), dim=1)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The mean of x0 given x = alpha x0 + sigma eps, (N, D): the exact denoiser."""
        wide = x.double()
        share = torch.softmax(self._joint(wide, alpha, sigma), dim=1)
        variance = self.deviations.square()
        pull = alpha * variance / (alpha**2 * variance + sigma**2)  # (K,)
        towards = self.means + pull[:, None] * (wide[:, None] - alpha * self.means)  # (N, K, D)
        return (share[..., None] * towards).sum(1).to(x.dtype)

    def sampler(self, steps: int, path: str = "diffusion", **kwargs: Any) -> DenoiserSampler:
        """A sampler of it.

        Args:
            steps: Denoising steps.
            path: ``diffusion`` or ``flow``.
            **kwargs: For `DenoiserSampler`: ``eta``, ``seed``, ``batch_size``, ``decode``.
        """
        if path not in PATHS:
            raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
        return DenoiserSampler(self.denoise, PATHS[path](steps), (self.dimensions,), **kwargs)

    def tilted(self, reward: Callable[[Tensor], Tensor], temperature: float, *, side: int = 512) -> Grid:
        """The target of a search, density times exp(reward / temperature), by quadrature in the plane.

        Args:
            reward: Samples (N, 2) to (N,).
            temperature: Above 0.
            side: Cells along each side of the square that holds the mixture.
        """
        if self.dimensions != 2:
            raise ValueError(f"tilted needs a mixture in 2 dimensions, got {self.dimensions}")
        above_zero("temperature", temperature)
        bound = float(self.means.abs().max() + 5 * self.deviations.max())
        edge = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * bound - bound
        points = torch.cartesian_prod(edge, edge)
        log_p = self.log_density(points) + reward(points.float()).double() / temperature
        return Grid(points, torch.softmax(log_p, 0), 2 * bound / side)

    def _joint(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Log of weight times density of each Gaussian, (N, K)."""
        variance = alpha**2 * self.deviations.square() + sigma**2
        squares = (x[:, None] - alpha * self.means).square().sum(-1)
        return self.weights.log() - squares / (2 * variance) - self.dimensions / 2 * (2 * math.pi * variance).log()


@dataclass(frozen=True, eq=False)
class Grid:
    """A density in the plane as the probabilities of square cells.

    Attributes:
        points: Their centres, (M, 2) float64.
        probability: (M,), summing to one.
        cell: Side of a cell.
    """

    points: Tensor
    probability: Tensor
    cell: float

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws, (n, 2) float32, spread evenly over their cells."""
        k = torch.multinomial(self.probability.float(), n, replacement=True, generator=generator)
        spread = torch.rand(n, 2, dtype=torch.float64, generator=generator) - 0.5
        return (self.points[k] + self.cell * spread).float()

    def modes(self, apart: float = 1.0, least: float = 0.1) -> Tensor:
        """Centres of the cells that are the likeliest around, (K, 2).

        Args:
            apart: How far from each other they are at the least.
            least: Share of the likeliest cell's probability that a mode has at least.
        """
        side = math.isqrt(len(self.probability))
        around = round(apart / self.cell)
        field = self.probability.view(1, side, side)
        highest = torch.nn.functional.max_pool2d(field, 2 * around + 1, stride=1, padding=around)
        peaks = self.points[((field == highest) & (field >= least * field.max())).flatten()]
        equal = (torch.cdist(peaks, peaks) < apart).tril(-1).any(1)  # neighbours that are equally likely
        return peaks[~equal]

    def mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """The expectation of a function of points (M, 2) to (M,)."""
        return float((self.probability * function(self.points.float()).double()).sum())
