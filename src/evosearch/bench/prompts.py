"""Prompts of the benchmarks: scenes of the shapes world that no bundled model was trained on."""

from __future__ import annotations

import numpy as np

from evosearch.shapes import held_out, sample_scene


def held_out_prompts(n: int, objects: tuple[int, ...] = (3, 4), seed: int = 2026, moving: bool = False) -> list[str]:
    """Draw n different captions, of clips if so asked, held out from training, the numbers of objects taking turns.

    >>> held_out_prompts(2, objects=(4,))[0] == held_out_prompts(1, objects=(4,))[0]
    True
    """
    rng = np.random.default_rng(seed)
    prompts: list[str] = []
    for _ in range(1000 * n):
        scene = sample_scene(rng, objects[len(prompts) % len(objects)], moving=moving)
        if held_out(scene) and scene.caption not in prompts:
            prompts.append(scene.caption)
        if len(prompts) == n:
            return prompts
    raise ValueError(f"n must be at most {len(prompts)}, the held-out captions of {objects} objects, got {n}")
