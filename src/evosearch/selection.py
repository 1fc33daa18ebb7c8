"""Who lives and who breeds. One total order on rewards, in which NaN never wins."""

from __future__ import annotations

import torch
from torch import Tensor


def order(reward: Tensor) -> Tensor:
    """Rows from best to worst, (N,) int64.

    Rewards that are not finite come last, whatever their sign: they are failures, not scores. Ties keep
    their order.
    """
    return torch.argsort(finite(reward), descending=True, stable=True)


def finite(reward: Tensor) -> Tensor:
    """Rewards in float64 with -inf wherever they are not finite."""
    reward = reward.double()
    return torch.where(reward.isfinite(), reward, -torch.inf)


def top(reward: Tensor, k: int) -> Tensor:
    """Rows of the k best, best first: truncation selection and elites.

    Returns:
        (K,) int64, K at most k. Invalid rows are left out, unless there are no others.
    """
    valid = int(reward.isfinite().sum())
    return order(reward)[: min(k, valid or k)]


def survivors(reward: Tensor, k: int) -> Tensor:
    """Exactly k rows, (k,) int64: the best, and those again in turn where fewer are valid."""
    rows = top(reward, k)
    return rows[torch.arange(k) % len(rows)]


def winners(reward: Tensor, size: int, rng: torch.Generator, temperature: float = 0.0) -> Tensor:
    """One row of every ``size`` in turn: the best, or one drawn in proportion to exp(reward / temperature).

    Returns:
        (N / size,) int64 rows.
    """
    groups = finite(reward).view(-1, size)
    if temperature > 0:
        u = torch.rand(groups.shape, generator=rng, dtype=torch.float64)
        groups = groups / temperature - (-u.log()).log()  # Gumbel noise makes the greatest a draw
    first = torch.arange(len(groups)) * size
    return first + torch.argsort(groups, dim=1, descending=True, stable=True)[:, 0]


def tournament(reward: Tensor, n: int, size: int, rng: torch.Generator) -> Tensor:
    """N parents, each the best of ``size`` valid rows drawn without replacement.

    Goldberg and Deb (1991). ``size`` 1 is a uniform draw; ``size`` N always takes the best. Where no row is valid, all
    are drawn from.

    Returns:
        (n,) int64 rows.
    """
    valid = reward.isfinite()
    rows = torch.arange(len(reward))[valid if valid.any() else slice(None)]
    rank = torch.empty(len(reward), dtype=torch.int64)
    rank[order(reward)] = torch.arange(len(reward))
    rivals = rows[torch.rand(n, len(rows), generator=rng).argsort(dim=1)[:, :size]]
    return rivals.gather(1, rank[rivals].argmin(dim=1, keepdim=True)).squeeze(1)
