"""The shapes world in motion: clips in which each group does what its caption says."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evosearch.shapes import MOTIONS, Placed, Scene, apart, layout, render

_WAY = (14.0, 26.0)  # pixels that a moving object covers, at a picture size of 64
_GAP = 2.0  # between two objects, in every frame
_TRIES = 200  # of ways to go, before the objects are placed anew


def travel(scene: Scene, rng: np.random.Generator, frames: int = 9, size: int = 64) -> tuple[tuple[Placed, ...], ...]:
    """Place a scene's objects in every frame: at even speed, apart, inside the picture.

    Groups of which nothing is said stay. Objects of a group go the same way, each at a speed of its own.

    Returns:
        The objects of each frame, in the same order.
    """
    motions = [group.motion or "stays" for group in scene.groups for _ in range(group.count)]
    ways = np.array([MOTIONS[motion] for motion in motions], float)
    times = np.linspace(0, 1, frames)[:, None, None]
    while True:
        first = layout(scene, rng, size)
        start = np.array([(item.x, item.y) for item in first])
        radii = np.array([item.radius for item in first])
        for _ in range(_TRIES):
            # Centred on the layout, which spreads objects over the picture.
            path = ways * rng.uniform(*_WAY, size=(len(first), 1)) * size / 64
            centres = start + (times - rng.uniform(0, 1)) * path
            inside = (centres >= radii[:, None] + 1).all() and (centres <= size - radii[:, None] - 1).all()
            if inside and all(apart(frame, radii, _GAP * size / 64) for frame in centres):
                return tuple(
                    tuple(replace(item, x=float(x), y=float(y)) for item, (x, y) in zip(first, frame, strict=True))
                    for frame in centres
                )


def film(frames: Sequence[Sequence[Placed]], rng: np.random.Generator | None = None, size: int = 64) -> np.ndarray:
    """Draw a clip, (frames, size, size, 3) uint8; ground and brightness are the same in all frames, see `render`."""
    seed = None if rng is None else int(rng.integers(2**32))
    return np.stack([render(frame, None if seed is None else np.random.default_rng(seed), size) for frame in frames])
