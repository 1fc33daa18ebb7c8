"""EvoSearch exactly as its paper has it, and with a switch as its code has it: an anchor for `evosearch`.

He, Liang, Wang, Wan, Zhang, Gai, Pan (2025), "Scaling Image and Video Generation via Test-Time Evolutionary Search",
arXiv:2505.17618.

Differs from the paper:
- nothing that it states; the sizes of tournament and elite, which it leaves open, are the released code's.

Differs from the released code:
- the mutation goes by the level, not by the generation; the user's reward guides every generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from evosearch.checks import flag, share
from evosearch.declaration import Wave, search
from evosearch.mutation import mutate
from evosearch.scoring import roll_out
from evosearch.searches.evosearch import waves_of
from evosearch.searches.schedules import by_paper
from evosearch.selection import top, tournament
from evosearch.types import Population, Reward, Sampler, concat


def _waves(
    steps: int,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 5,
    rate: float = 0.3,
    rivals: float = 0.9,
    late: bool = False,
    **_: Any,
) -> list[Wave]:
    share("rivals", rivals)
    flag("late", late)
    waves = waves_of(steps, schedule=schedule, sizes=sizes, elites=elites, rate=rate)
    return [Wave(size, wave.steps) for size, wave in zip(sizes, waves, strict=True)]  # elites are paid for, too


@search(waves=_waves, fit=by_paper("paper_evosearch", _waves), space="trajectory", needs=("SDE",))
def paper_evosearch(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 5,
    rate: float = 0.3,
    rivals: float = 0.9,
    late: bool = False,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Evolve as the paper says: mutants and elites together are denoised from the level of their generation.

    NFE: K_0 · steps + Σ_g K_{g+1} · (steps - s_g).
    Rewards: Σ_g K_g.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws parents and ids.
        schedule: Levels s_g at which a generation is bred, increasing, from 0 to below ``steps``.
        sizes: Population sizes K, elites included: the first one's, then one a generation.
        elites: The best of the pool, which go on unchanged, with new noise.
        rate: Share of fresh noise in a child bred at level 0; later ones take the next step's noise on top.
        rivals: Share of the pool that competes for being a parent.
        late: Keep states one step later than they are resumed, as the released code does.
        eta: 1 = ancestral SDE.

    Yields:
        Each generation, finished.
    """
    _waves(sampler.steps, schedule=schedule, sizes=sizes, elites=elites, rate=rate, rivals=rivals, late=late)
    pools: dict[int, list[Population]] = {s: [] for s in schedule}
    p = sampler.prior(sizes[0])
    for s, size in zip((*schedule, None), (*sizes[1:], 0), strict=True):
        passed = [t for t in schedule if t >= p.i]
        finished, states = roll_out(p, sampler, reward, [t + late for t in passed], eta)  # equation 6
        yield finished
        if s is None:
            return
        for t in passed:
            state = states[t + late].moved(states[t + late].x, t)
            state = state.given(state.x, rng) if late else state
            pools[t].append(replace(state, reward=finished.reward))
        pool = concat(*pools[s])
        assert pool.reward is not None
        best = pool[top(pool.reward, elites)].born("branch", rng)
        parents = pool[tournament(pool.reward, size - len(best), max(1, int(rivals * len(pool))), rng)]
        operator = "level_preserving" if s == 0 else "additive"  # equations 7 and 8
        p = concat(best.moved(best.x), mutate(parents, sampler, rng, rate=rate, operator=operator))
