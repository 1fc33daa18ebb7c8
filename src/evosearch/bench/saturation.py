"""Is the world rich enough for a search to matter? How far the best of many plain samples is from the best there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evosearch import models
from evosearch.bench.cells import Cells, fingerprint
from evosearch.rewards.shapes import EXACT, ShapesReward
from evosearch.run import search
from evosearch.shapes import Scene, held_out, layout, parse, render, sample_scene
from evosearch.shapes_clips import film, travel

SAMPLES = 1000
PROMPTS = 12
SIZES = (10, 100, SAMPLES)
STEPS = 20
TRUE = 20
"""The world's own pictures or clips of a prompt; their mean reward counts as the maximum."""


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
        cells.append(
            cell,
            rewards=[reward for wave in result.generations for reward in wave.rewards],
            own=maximum(cell.prompt),
            decoded=best_decoded(cell.prompt, pipe.vae),
        )
        yield cell


def maximum(prompt: str) -> float:
    """What the world's own pictures or clips of a prompt score on average: no search can be asked for more."""
    return float(_judged(_own(prompt), prompt).mean())


def best_decoded(prompt: str, autoencoder: Any) -> float:
    """What the best of the world's own scores once encoded and decoded; samplers find latents that decode better."""
    return float(_judged(round_trip(autoencoder, _own(prompt)), prompt).max())


def _own(prompt: str) -> Tensor:
    return drawn([parse(prompt)] * TRUE, np.random.default_rng(0))


def _judged(samples: Tensor, prompt: str) -> Tensor:
    return ShapesReward()(samples, [prompt] * len(samples))


def drawn(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """The world's own pictures or clips of scenes that all move or all stand, (N, [F,] 3, H, W) in [0, 1]."""
    pixels = [film(travel(s, rng), rng) if s.moving else render(layout(s, rng), rng) for s in scenes]
    return torch.tensor(np.stack(pixels) / 255).float().movedim(-1, -3)


@torch.inference_mode()
def round_trip(autoencoder: Any, samples: Tensor) -> Tensor:
    """Encode and decode pictures (N, 3, H, W) or clips (N, F, 3, H, W) in [0, 1]."""
    x = samples.transpose(1, 2) if samples.ndim == 5 else samples
    latents = autoencoder.encode((2 * x - 1).to(autoencoder.dtype)).latent_dist.mean
    decoded = (autoencoder.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)
    return decoded.transpose(1, 2) if samples.ndim == 5 else decoded


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the best of so many samples, averaged over disjoint sets of them and over prompts; of a row a pool."""
    tops = {
        "the world's own": np.array([[row["own"]] for row in rows]),
        f"the best of {TRUE}, decoded": np.array([[row["decoded"]] for row in rows]),
    }
    below = " | ".join(f"below {name} ({top.mean():.4f})" for name, top in tops.items())
    lines = [f"| best of | mean reward | exact | {below} |", "|---:|---:|---:|---:|---:|"]
    for size in SIZES:
        pools = [np.array(row["rewards"]) for row in rows]
        best = np.stack([pool[: len(pool) // size * size].reshape(-1, size).max(1) for pool in pools])
        shares = " | ".join(f"{(best < top).mean():.0%}" for top in tops.values())
        lines.append(f"| {size:,} | {best.mean():.4f} | {(best >= EXACT).mean():.0%} | {shares} |")
    return "\n".join(lines)
