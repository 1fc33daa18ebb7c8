"""The shapes world in motion: clips in which each group does what its caption says."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evosearch.shapes import MOTIONS, RADII, Placed, Scene, layout, place, render

_WAY = (14.0, 26.0)  # pixels that a moving object covers, at a picture size of 64
_GAP = 2.0  # between two objects, at any time
_TRIES = 256  # at once


def travel(scene: Scene, rng: np.random.Generator, frames: int = 9, size: int = 64) -> tuple[tuple[Placed, ...], ...]:
    """Place a scene's objects in every frame: at even speed, apart, inside the picture.

    Groups of which nothing is said stay. Objects of a group go the same way, each at a speed of its own.

    Returns:
        The objects of each frame, in the same order.
    """
    if not scene.moving:
        return (layout(scene, rng, size),) * frames
    scale = size / 64
    motions = [group.motion or "stays" for group in scene.groups for _ in range(group.count)]
    ways = np.array([MOTIONS[motion] for motion in motions], float)
    shape = (_TRIES, scene.objects, 1)
    while True:
        radii = scale * rng.uniform(*RADII, size=shape)
        paths = scale * rng.uniform(*_WAY, size=shape) * ways
        lowest, highest = radii + scale + np.maximum(-paths, 0), size - radii - scale - np.maximum(paths, 0)
        starts = rng.uniform(lowest, highest)
        if (fits := _apart(starts, paths, radii[..., 0], _GAP * scale)).any():
            break
    best = fits.argmax()
    first = place(scene, starts[best], radii[best, :, 0], rng)
    return tuple(
        tuple(
            replace(item, x=item.x + time * float(dx), y=item.y + time * float(dy))
            for item, (dx, dy) in zip(first, paths[best], strict=True)
        )
        for time in np.linspace(0, 1, frames).tolist()
    )


def _apart(starts: np.ndarray, paths: np.ndarray, radii: np.ndarray, gap: float) -> np.ndarray:
    """Whether objects that go along straight paths, (..., N, 2), keep a gap all the way; (...) bool."""
    a, b = np.triu_indices(radii.shape[-1], k=1)
    apart, drift = starts[..., a, :] - starts[..., b, :], paths[..., a, :] - paths[..., b, :]
    # The time in [0, 1] at which two are closest, for |apart + time * drift| is least there.
    time = (-(apart * drift).sum(-1) / np.maximum((drift**2).sum(-1), 1e-9)).clip(0, 1)
    closest = np.linalg.norm(apart + time[..., None] * drift, axis=-1)
    return (closest >= radii[..., a] + radii[..., b] + gap).all(-1)


def film(frames: Sequence[Sequence[Placed]], rng: np.random.Generator | None = None, size: int = 64) -> np.ndarray:
    """Draw a clip, (frames, size, size, 3) uint8; ground and brightness are the same in all frames, see `render`."""
    seed = None if rng is None else int(rng.integers(2**32))
    return np.stack([render(frame, None if seed is None else np.random.default_rng(seed), size) for frame in frames])
