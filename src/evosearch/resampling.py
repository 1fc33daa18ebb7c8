"""Resampling of particles by log-weights: unbiased ways to turn weights into copies."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(log_w: Tensor) -> Tensor:
    """Weights (N,) float64 that sum to one. NaN counts as no weight; without any weight, all are equal."""
    log_w = torch.where(log_w.isnan(), -torch.inf, log_w.double())
    if log_w.max() == torch.inf:
        return (log_w == torch.inf).double() / (log_w == torch.inf).sum()
    if log_w.max() == -torch.inf:
        return torch.full_like(log_w, 1 / len(log_w))
    return torch.softmax(log_w, 0)


def ess(log_w: Tensor) -> float:
    """Effective sample size, in 1..N."""
    return float(1 / normalise(log_w).square().sum())


def multinomial(log_w: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """N independent draws, sorted. Returns (n,) int64 indices."""
    return _inverse_cdf(log_w, torch.rand(n, generator=rng, dtype=torch.float64).sort().values)


def stratified(log_w: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """One draw in each of n equal strata. Returns (n,) int64 indices."""
    return _inverse_cdf(log_w, (torch.arange(n) + torch.rand(n, generator=rng, dtype=torch.float64)) / n)


def systematic(log_w: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """One draw, repeated in each of n equal strata. Returns (n,) int64 indices."""
    return _inverse_cdf(log_w, (torch.arange(n) + torch.rand(1, generator=rng, dtype=torch.float64)) / n)


def ssp(log_w: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Srinivasan sampling process: each count is floor or ceiling of its expectation, pair by pair.

    Gerber, Chopin, Whiteley (2019), "Negative association, ordering and convergence of resampling methods".

    Returns:
        (n,) int64 indices, sorted.
    """
    expected = n * normalise(log_w)
    counts = expected.floor()
    share = (expected - counts).tolist()
    up = [False] * len(share)
    draws = torch.rand(len(share), generator=rng, dtype=torch.float64).tolist()
    open_ = 0  # the one index whose share is still undecided
    for k in range(1, len(share)):
        a, b = share[open_], share[k]
        to_one, to_zero = min(1 - a, b), min(a, 1 - b)
        if to_one + to_zero == 0:  # one of the pair is settled already
            up[open_] = up[open_] or a >= 1
            open_ = k
        elif draws[k] * (to_one + to_zero) < to_zero:
            share[open_], share[k] = a + to_one, b - to_one
            open_ = _settle(share, up, open_, k)
        else:
            share[open_], share[k] = a - to_zero, b + to_zero
            open_ = _settle(share, up, open_, k)
    missing = n - int(counts.sum()) - sum(up)
    if missing > 0:  # the last share is whole up to rounding
        up[open_] = True
    counts += torch.tensor(up, dtype=counts.dtype)
    return torch.arange(len(share)).repeat_interleave(counts.long())


def _settle(share: list[float], up: list[bool], j: int, k: int) -> int:
    """Record whichever of the pair has become 0 or 1; return the index that is still open."""
    for done, other in ((j, k), (k, j)):
        if not 1e-12 < share[done] < 1 - 1e-12:
            up[done] = share[done] > 0.5
            return other
    return k


def _inverse_cdf(log_w: Tensor, u: Tensor) -> Tensor:
    cdf = normalise(log_w).cumsum(0)
    return torch.searchsorted(cdf / cdf[-1], u, right=True).clamp(max=len(log_w) - 1)
