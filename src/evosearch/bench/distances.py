"""How far apart two clouds of points are, and how much one of them varies."""

from __future__ import annotations

import torch
from torch import Tensor


def mmd(x: Tensor, y: Tensor, width: float = 1.0) -> float:
    """Squared maximum mean discrepancy under a Gaussian kernel, without bias: 0 on average for equal distributions.

    Gretton, Borgwardt, Rasch, Schölkopf, Smola (2012), "A Kernel Two-Sample Test", equation 3.

    Args:
        x: (N, D).
        y: (M, D).
        width: Of the kernel.
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * width**2)).exp()

    def among(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return float(among(x) + among(y) - 2 * kernel(x, y).mean())


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Earth mover's distance along a line, averaged over lines in the plane.

    Args:
        x: (N, 2).
        y: (M, 2).
        directions: Lines, evenly turned.
    """
    angles = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
    lines = torch.stack([angles.cos(), angles.sin()])  # (2, directions)
    share = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    a, b = ((points.double() @ lines).quantile(share, dim=0) for points in (x, y))
    return float((a - b).abs().mean())


def vendi(features: Tensor) -> float:
    """How many different things there are among unit vectors (N, D): 1 where all are one, N where none is like another.

    Friedman and Dieng (2023), "The Vendi Score", definition 3.1, with the cosine as kernel: the exponential of the
    entropy of the eigenvalues.

    >>> vendi(torch.eye(3)), vendi(torch.ones(3, 1))
    (3.0, 1.0)
    """
    shares = torch.linalg.eigvalsh(features.double() @ features.double().T / len(features)).clamp(min=0)
    return round(float(torch.special.entr(shares).sum().exp()), 9)
