"""Is the world rich enough for a search to matter? How far the best of many plain samples is from the best there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evosearch import models
from evosearch.bench.cells import Cells, fingerprint
from evosearch.rewards.shapes import EXACT
from evosearch.run import search
from evosearch.shapes import held_out, sample_scene

SAMPLES = 1000
PROMPTS = 12
SIZES = (10, 100, SAMPLES)
STEPS = 20
FULL = 0.95
"""From here on a reward counts as the maximum: what a perfect picture scores; half of the world's own reach .95."""


@dataclass(frozen=True)
class Cell:
    """One pool of plain samples."""

    prompt: str


def all_cells(model: str) -> list[Cell]:
    """The hardest prompts: four objects that differ, in two relations; of clips, each moving or staying on its own.

    `shapes-diffusion` has learnt from captions of one relation at most, so that two are new to it.
    """
    moving = models.makes_videos(model)
    rng = np.random.default_rng(19)
    prompts: list[str] = []
    while len(prompts) < PROMPTS:
        scene = sample_scene(rng, objects=4, most_relations=2, moving=moving)
        hard = len(scene.groups) == 4 and (moving or len(scene.relations) == 2)
        if hard and held_out(scene) and scene.caption not in prompts:
            prompts.append(scene.caption)
    return [Cell(prompt) for prompt in prompts]


def bill(todo: Sequence[Cell]) -> int:
    """NFE that these pools take."""
    return len(todo) * SAMPLES * STEPS


def run(
    todo: Sequence[Cell], out: Path, model: str, part: tuple[int, int] = (0, 1), dtype: str = "float32"
) -> Iterator[Cell]:
    """Draw the pools that ``out`` does not hold yet.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        model: A bundled pipeline's name, a folder or a hub id.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.
        dtype: Precision of the model.

    Yields:
        Each cell, once it is done.
    """
    cells = Cells(out, {"model": model, "dtype": dtype, "weights": fingerprint(model)}, part)
    if not (missing := cells.missing(todo)):
        return
    pipe = models.load(model, dtype=dtype)
    for cell in missing:
        result = search(pipe, cell.prompt, "shapes", "best_of_n", n=SAMPLES, steps=STEPS, progress=False)
        cells.append(cell, rewards=[reward for wave in result.generations for reward in wave.rewards])
        yield cell


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the best of so many samples, averaged over disjoint sets of them and over prompts."""
    lines = ["| best of | mean reward | exact | below the maximum |", "|---:|---:|---:|---:|"]
    for size in SIZES:
        pools = [np.array(row["rewards"]) for row in rows]
        best = np.stack([pool[: len(pool) // size * size].reshape(-1, size).max(1) for pool in pools])
        lines.append(
            f"| {size:,} | {best.mean():.4f} | {(best >= EXACT).mean():.0%} "
            f"| {(best < FULL).mean():.0%} of {len(pools)} prompts |"
        )
    return "\n".join(lines)
