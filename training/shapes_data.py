"""Training pictures and clips of the shapes world, each a pure function of (seed, number)."""

import numpy as np
import torch
from torch import Tensor

from evosearch.shapes import held_out, layout, render, sample_scene
from evosearch.shapes_clips import film, travel


def picture(seed: int, number: int, most_relations: int = 1) -> tuple[np.ndarray, str]:
    """One training picture, (64, 64, 3) uint8, and its caption; never a held-out scene."""
    rng = np.random.default_rng((seed, number))
    while held_out(scene := sample_scene(rng, most_relations=most_relations)):
        pass
    return render(layout(scene, rng), rng), scene.caption


def pictures(seed: int, start: int, count: int, most_relations: int = 1) -> tuple[Tensor, list[str]]:
    """Pictures `start` to `start + count`, (count, 3, 64, 64) in [-1, 1], and their captions."""
    numbers = range(start, start + count)
    images, captions = zip(*(picture(seed, number, most_relations) for number in numbers), strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1, list(captions)


def clip(seed: int, number: int) -> tuple[np.ndarray, str]:
    """One training clip, (9, 64, 64, 3) uint8, and its caption; never a held-out scene."""
    rng = np.random.default_rng((seed, number))
    while held_out(scene := sample_scene(rng, moving=True)):
        pass
    return film(travel(scene, rng), rng), scene.caption


def clips(seed: int, start: int, count: int) -> tuple[Tensor, list[str]]:
    """Clips `start` to `start + count`, (count, 3, 9, 64, 64) in [-1, 1], and their captions."""
    videos, captions = zip(*(clip(seed, number) for number in range(start, start + count)), strict=True)
    return torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3) / 127.5 - 1, list(captions)
