"""The plane, where the truth is known: searches and fine-tuning against the exact target, at equal NFE.

The experiment of He et al. (2025), "Scaling Image and Video Generation via Test-Time Evolutionary Search",
arXiv:2505.17618, figure 2, with numbers beside its pictures. The paper gives its reward and, by that, the mixture's
radius; the rest of the set-up is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evosearch import searches
from evosearch.bench import finetuning
from evosearch.bench.cells import Cells, spread
from evosearch.bench.distances import mmd, sliced_wasserstein
from evosearch.bench.statistics import small_mean
from evosearch.models.toy import GaussianMixture
from evosearch.sampler import DenoiserSampler
from evosearch.searches.particles import PRESETS

MIXTURE = GaussianMixture.ring(6, radius=4.5, deviation=0.76)
TEMPERATURE = 0.5
STEPS = 20
NFE = 400
"""Of a run, whose best sample is its answer."""
RUNS = 24
"""Answers in a cloud."""
SEEDS = 5
"""Clouds of each method."""
UPDATES = 160
"""Of a fine-tuning."""
_NEAR = 0.75  # an answer finds the nearest mode if it is no further from it


class Circle:
    """How near to the circle of radius 2: -abs(x² + y² - 4)."""

    differentiable = True

    def __call__(self, samples: Tensor) -> Tensor:
        """Rewards (N,) of points (N, 2)."""
        return -(samples.square().sum(1) - 4).abs()


class Peaks:
    """How near to one of four peaks, on the diagonals between the mixture's Gaussians and the centre."""

    differentiable = True
    at = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])

    def __call__(self, samples: Tensor) -> Tensor:
        """Rewards (N,) of points (N, 2)."""
        return -(samples[:, None] - self.at).square().sum(-1).amin(1)


REWARDS = {"circle": Circle(), "peaks": Peaks()}

PLAIN, TARGET = "plain samples", "target"
_PLANAR = [name for name in searches.__all__ if "grid" not in getattr(searches, name).needs]  # no height, no width
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in _PLANAR if name != "particles"},
    **{f"particles, {preset}": ("particles", {"preset": preset}) for preset in PRESETS},
}
"""Name -> (search, knobs)."""


@dataclass(frozen=True)
class Cell:
    """A cloud of answers."""

    method: str
    reward: str
    seed: int


def all_cells() -> list[Cell]:
    """All clouds."""
    names = (PLAIN, TARGET, *finetuning.METHODS, *METHODS)
    return [Cell(method, reward, seed) for reward in REWARDS for seed in range(SEEDS) for method in names]


def bill(todo: Sequence[Cell]) -> int:
    """NFE of the searches and of the training."""
    one = dict.fromkeys(METHODS, RUNS * NFE) | dict.fromkeys(finetuning.METHODS, UPDATES * finetuning.BATCH * STEPS)
    return sum(one.get(cell.method, RUNS * STEPS) for cell in todo)


def run(todo: Sequence[Cell], out: Path, workers: int | None = None) -> Iterator[Cell]:
    """Make the clouds that ``out`` does not hold yet.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not made again.
        workers: Processes; one a core by default.

    Yields:
        Each cell, once it is done.
    """
    cells = Cells(out, {"steps": STEPS, "budget": NFE, "runs": RUNS, "temperature": TEMPERATURE})
    if not (missing := cells.missing(todo)):
        return
    for cell, found in spread(missing, cloud, workers):
        cells.append(cell, **found)
        yield cell


def cloud(cell: Cell) -> tuple[Cell, dict[str, Any]]:
    """Make the points of a cell, and what else there is to say of them."""
    reward, generator = REWARDS[cell.reward], torch.Generator().manual_seed(cell.seed)
    if cell.method == TARGET:
        return cell, {"points": _rounded(MIXTURE.tilted(reward, TEMPERATURE).sample(RUNS, generator))}
    if cell.method == PLAIN:
        sampler = MIXTURE.sampler(STEPS, eta=1.0, seed=cell.seed)
        return cell, {"points": _rounded(sampler.run(sampler.prior(RUNS), STEPS)[0].x)}
    if cell.method in finetuning.METHODS:
        return cell, _finetuned(cell, generator)
    name, knobs = METHODS[cell.method]
    knobs = fitted(name, **knobs)
    seeds = range(cell.seed * RUNS, (cell.seed + 1) * RUNS)
    points = torch.stack([solve(name, MIXTURE.sampler(STEPS, seed=seed), reward, seed, **knobs)[0] for seed in seeds])
    return cell, {"points": _rounded(points), "knobs": knobs}


def target(reward: str) -> Tensor:
    """Draws of the exact target, (2000, 2)."""
    generator = torch.Generator().manual_seed(0)
    return MIXTURE.tilted(REWARDS[reward], TEMPERATURE).sample(2000, generator)


def table(rows: Sequence[dict[str, Any]], reward: str) -> str:
    """Markdown: what the clouds of each method are like, with 95 % intervals over seeds."""
    exact = target(reward)
    modes = MIXTURE.tilted(REWARDS[reward], TEMPERATURE).modes()
    lines = [
        f"| method | reward | modes of {len(modes)} | MMD² | sliced Wasserstein |",
        "|---|---:|---:|---:|---:|",
    ]
    for method in (PLAIN, TARGET, *finetuning.METHODS, *METHODS):
        clouds = [torch.tensor(r["points"]) for r in rows if (r["method"], r["reward"]) == (method, reward)]
        if clouds:
            figures = (
                [float(REWARDS[reward](points).mean()) for points in clouds],
                [float(found(points, modes)) for points in clouds],
                [mmd(points, exact) for points in clouds],
                [sliced_wasserstein(points, exact) for points in clouds],
            )
            shown = (_interval(values, digits) for values, digits in zip(figures, (2, 1, 3, 2), strict=True))
            lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def found(points: Tensor, modes: Tensor) -> int:
    """How many modes (K, 2) have a point (N, 2) near them."""
    near, nearest = torch.cdist(points.double(), modes).min(1)
    return len(set(nearest[near <= _NEAR].tolist()))


def solve(
    name: str, sampler: DenoiserSampler, reward: Callable[[Tensor], Tensor], seed: int, **knobs: Any
) -> tuple[Tensor, float]:
    """A search's answer, (*D), and its reward.

    The search is called itself, not by `evosearch.search`, whose samples are pictures of 8 bits.
    """
    algorithm = getattr(searches, name)
    waves = algorithm(sampler, reward, torch.Generator().manual_seed(seed), **knobs)
    finished = [p for p in waves if p.i == sampler.steps and p.reward is not None]
    best = max(finished, key=lambda p: float(p.reward.max()))
    k = int(best.reward.argmax())
    return best.x[k], float(best.reward[k])


def fitted(name: str, nfe: int = NFE, **knobs: Any) -> dict[str, Any]:
    """All knobs of a search of this size in the plane, at the target's temperature."""
    algorithm = getattr(searches, name)
    if "temperature" in signature(algorithm).parameters:
        knobs = {"temperature": TEMPERATURE, **knobs}
    return {**algorithm.fit(STEPS, nfe, **knobs), **knobs}


def _interval(values: Sequence[float], digits: int) -> str:
    mean, low, high = small_mean(values)
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def _finetuned(cell: Cell, generator: torch.Generator) -> dict[str, Any]:
    """The last cloud, and how reward and distance went: [[update, mean reward, sliced Wasserstein], ...]."""
    path, exact, reward = MIXTURE.sampler(STEPS).path, target(cell.reward), REWARDS[cell.reward]
    course: list[list[float]] = []
    points = torch.empty(0)
    models = finetuning.finetune(cell.method, MIXTURE, path, reward, UPDATES, generator)
    for update, model in enumerate(models):
        if update % (UPDATES // 20) == 0:
            with torch.no_grad():
                points = finetuning.trajectory(model, path, 500, generator)[-1]
            distance = sliced_wasserstein(points, exact)
            course.append([update, round(float(reward(points).mean()), 4), round(distance, 4)])
    return {"points": _rounded(points[:RUNS]), "course": course}


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(v, 4) for v in row] for row in points.tolist()]
