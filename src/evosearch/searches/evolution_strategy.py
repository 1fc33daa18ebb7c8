"""Evolution strategies of other libraries over the coarse part of the noise: CMA-ES of cmaes, diversity by ribs.

- Over the noises of diffusion models: "Inference-Time Alignment of Diffusion Models with Evolutionary Algorithms"
  (2025), arXiv:2506.00299.
- CMA-ES: Hansen, Ostermeier (2001); its separable form: Ros, Hansen (2008).
- Diversity: Fontaine, Togelius, Nikolaidis, Hoover (2020), "Covariance Matrix Adaptation for the Rapid Illumination of
  Behavior Space", arXiv:1912.02400.

Differs from the paper:
- the optimisers are those of the libraries, and see the coarse part of the noise alone;
- with ``ribs``, what competes is only what is alike in lightness and colourfulness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evosearch.bands import block_of, coarse, with_coarse
from evosearch.checks import above_zero, one_of, whole_number
from evosearch.declaration import Wave, in_rounds, search
from evosearch.mutation import noise_of
from evosearch.selection import finite
from evosearch.types import Population, Reward, Sampler

OPTIMISERS = ("sep_cma", "cma", "ribs")
_NICHES = 8  # of each measure


def _waves(
    steps: int, *, n: int, optimiser: str = "sep_cma", cells: int = 4, batch: int = 10, spread: float = 1.0, **_: Any
) -> list[Wave]:
    whole_number("n", n, 1)
    one_of("optimiser", optimiser, OPTIMISERS)
    whole_number("cells", cells, 1)
    whole_number("batch", batch, 4)
    above_zero("spread", spread)
    return in_rounds(steps, n, batch)


@search(waves=_waves, fit="n", space="noise", needs=("grid", "samples"))
def evolution_strategy(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    optimiser: str = "sep_cma",
    cells: int = 4,
    batch: int = 10,
    spread: float = 1.0,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Let an optimiser ask for the coarse part of a noise, and tell it the reward.

    NFE: n · steps.
    Rewards: n.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws ids and the optimiser's seed.
        n: Samples in all.
        optimiser: ``sep_cma`` or ``cma`` (needs cmaes), or ``ribs`` for diversity (needs ribs).
        cells: Blocks along the shorter side, about: 4 by 4 numbers a channel are searched.
        batch: Samples between two looks at the rewards.
        spread: Standard deviation to begin with, in those of the noise.
        eta: 0 = ODE; above, a sample tells less of its noise.

    Yields:
        The plain sample, then each batch.
    """
    first, *rounds = _waves(sampler.steps, n=n, optimiser=optimiser, cells=cells, batch=batch, spread=spread)
    base = noise = sampler.prior(first.particles)
    grid = sampler.to_grid(noise_of(base.x, sampler))
    part = coarse(grid, block_of(grid, cells))
    if part.numel() < 2:
        raise ValueError(f"cells must leave an optimiser at least 2 numbers to vary, got 1 with cells={cells}")
    seed = int(torch.randint(2**31, (), generator=rng))
    ask, tell = _MAKERS[optimiser](part.numel(), batch, spread, seed)
    for wave in (*rounds, None):
        finished, measures = _measured(sampler.run(noise, sampler.steps, eta=eta)[0], sampler, reward)
        yield finished
        assert finished.reward is not None
        if noise is not base and len(noise) == batch:
            values = finite(finished.reward)
            worst = values[values.isfinite()].min() if values.isfinite().any() else torch.tensor(0.0)
            tell(torch.where(values.isfinite(), values, worst).numpy(), measures.numpy())
        if wave is None:
            return
        asked = torch.from_numpy(ask()[: wave.particles]).float().view(-1, *part.shape[1:])
        noise = base.repeat(wave.particles).given(sampler.start(sampler.from_grid(with_coarse(grid, asked))), rng)


def _measured(p: Population, sampler: Sampler, reward: Reward) -> tuple[Population, Tensor]:
    """Scored, and the lightness and colourfulness of each sample in [0, 1], (N, 2)."""
    rewards: list[Tensor] = []
    measures: list[Tensor] = []
    for batch in p.split(sampler.batch_size):
        samples = sampler.decode(batch)
        rewards.append(reward(samples))
        channels = samples.flatten(0, -4) if samples.ndim > 4 else samples
        spread = (channels.amax(1) - channels.amin(1)).flatten(1).mean(1)
        light = channels.flatten(1).mean(1)
        measures.append(torch.stack([light, spread], 1).view(len(samples), -1, 2).mean(1))
    return replace(p, reward=torch.cat(rewards).float()), torch.cat(measures).clamp(0, 1)


def _cmaes(kind: str) -> Callable[..., Any]:
    def made(dimensions: int, batch: int, spread: float, seed: int) -> Any:
        try:
            import cmaes
        except ImportError:
            raise ValueError(f"optimiser={kind!r} needs cmaes; install it with: pip install evosearch[noise]") from None
        own: Any = {"cma": cmaes.CMA, "sep_cma": cmaes.SepCMA}[kind](
            mean=np.zeros(dimensions), sigma=spread, seed=seed, population_size=batch
        )
        asked: list[np.ndarray] = []

        def ask() -> np.ndarray:
            asked[:] = [own.ask() for _ in range(batch)]
            return np.stack(asked)

        def tell(rewards: np.ndarray, measures: np.ndarray) -> None:
            del measures
            own.tell([(x, -float(r)) for x, r in zip(asked, rewards, strict=True)])

        return ask, tell

    return made


def _ribs(dimensions: int, batch: int, spread: float, seed: int) -> Any:
    try:
        from ribs.archives import GridArchive
        from ribs.emitters import EvolutionStrategyEmitter
        from ribs.schedulers import Scheduler
    except ImportError:
        raise ValueError("optimiser='ribs' needs ribs; install it with: pip install evosearch[noise]") from None
    archive = GridArchive(solution_dim=dimensions, dims=(_NICHES, _NICHES), ranges=[(0, 1), (0, 1)], seed=seed)
    emitter = EvolutionStrategyEmitter(
        archive, x0=np.zeros(dimensions), sigma0=spread, es="sep_cma_es", batch_size=batch, seed=seed
    )
    scheduler = Scheduler(archive, [emitter])
    return scheduler.ask, scheduler.tell


_MAKERS = {"sep_cma": _cmaes("sep_cma"), "cma": _cmaes("cma"), "ribs": _ribs}
