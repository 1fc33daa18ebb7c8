"""Who lives and who breeds. One total order on rewards, in which NaN never wins.

Rewards are (N,), or (N, R) where several are to be maximised with none of them weighed against another. These are
ordered by non-dominated sorting, and within a front by crowding distance, as by NSGA-II: Deb, Pratap, Agarwal,
Meyarivan (2002), "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on Evolutionary
Computation 6(2), 182-197.
"""

from __future__ import annotations

import torch
from torch import Tensor


def order(reward: Tensor) -> Tensor:
    """Rows from best to worst, (N,) int64; of rewards (N, R), by front and then by crowding distance.

    Rewards that are not finite come last, whatever their sign: they are failures, not scores. Ties keep
    their order.
    """
    if reward.ndim == 1:
        return torch.argsort(finite(reward), descending=True, stable=True)
    front = fronts(reward)
    spread = torch.argsort(crowding(reward, front), descending=True, stable=True)
    return spread[torch.argsort(front[spread], stable=True)]  # the crowded comparison, section III-B


def fronts(reward: Tensor) -> Tensor:
    """Of rewards (N, R), the front that each row is on, (N,) int64: 0 for those that no other dominates.

    One row dominates another if it is at least as good in all and better in one. Rows that are not finite are on a
    front behind all others.
    """
    left = valid(reward)
    front = torch.full((len(reward),), len(reward))
    rows = torch.where(left[:, None], reward.double(), torch.nan)  # which is as good as nothing
    as_good = (rows[:, None] >= rows).all(dim=2)
    dominates = as_good & ~as_good.T
    beaten = dominates.sum(dim=0)  # n_p of the fast non-dominated sort, section III-A
    for number in range(len(reward)):
        best = left & (beaten == 0)
        if not best.any():
            break
        front[best] = number
        left = left & ~best
        beaten -= dominates[best].sum(dim=0)
    return front


def crowding(reward: Tensor, front: Tensor) -> Tensor:
    """Crowding distance within the front of each row, (N,) float64: how far apart its neighbours are, over all rewards.

    Infinite at a front's ends (section III-B); rows that are not finite have none.
    """
    rows, distance = reward.double(), torch.zeros(len(reward), dtype=torch.float64)
    for number in front[valid(reward)].unique():
        members = (front == number).nonzero().squeeze(1)
        for column in rows[members].T:
            sorted_, by = column.sort(stable=True)
            gap = torch.full_like(sorted_, torch.inf)
            gap[1:-1] = (sorted_[2:] - sorted_[:-2]) / (sorted_[-1] - sorted_[0]).clamp(min=1e-300)
            distance[members[by]] += gap
    return distance


def valid(reward: Tensor) -> Tensor:
    """Which rows are finite, (N,) bool; of rewards (N, R), in all of them."""
    return reward.isfinite().view(len(reward), -1).all(dim=1)


def leading(reward: Tensor) -> Tensor:
    """The one number that stands for a row, (N,): of rewards (N, R), the first."""
    return reward if reward.ndim == 1 else reward[:, 0]


def finite(reward: Tensor) -> Tensor:
    """Rewards in float64 with -inf wherever they are not finite."""
    reward = reward.double()
    return torch.where(reward.isfinite(), reward, -torch.inf)


def top(reward: Tensor, k: int) -> Tensor:
    """Rows of the k best, best first: truncation selection and elites.

    Returns:
        (K,) int64, K at most k. Invalid rows are left out, unless there are no others.
    """
    fit = int(valid(reward).sum())
    return order(reward)[: min(k, fit or k)]


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
    fit = valid(reward)
    rows = torch.arange(len(reward))[fit if fit.any() else slice(None)]
    rank = torch.empty(len(reward), dtype=torch.int64)
    rank[order(reward)] = torch.arange(len(reward))
    rivals = rows[torch.rand(n, len(rows), generator=rng).argsort(dim=1)[:, :size]]
    return rivals.gather(1, rank[rivals].argmin(dim=1, keepdim=True)).squeeze(1)
