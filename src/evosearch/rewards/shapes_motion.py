"""Do the objects of a clip move as the caption says, and stay themselves? Measured by following them through it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from evosearch.rewards.shapes_detect import Detected
from evosearch.shapes import MOTIONS, Scene

# In 1/64 of the picture's shorter side.
_STRIDE = 16.0  # an object that is further away in the next frame is another one
_CHANGED = 12.0  # so far away does a change of colour or shape make an object seem
_MOVED = 7.0  # from the first frame to the last; the world's own clips go twice as far
_STAYED = 4.0  # between any two frames
_EVEN = 5.0  # off the straight path at even speed
_JUMP = 5.0  # of one step, off the mean step
_ASTRAY = 32.0  # a motion that is missed by this much earns nothing

_SWELLS = 1.6  # times its area, from one frame to the next
_FADES = 0.3  # of its purity, from one frame to the next


@dataclass
class Track:
    """One object followed through a clip: in which frames it was seen, and as what."""

    frames: list[int]
    seen: list[Detected]

    def agreement(self, colour: str, shape: str, frames: int) -> float:
        """How much it is this object over a clip of so many frames, in [0, 1]."""
        return sum(item.agreement(colour, shape) for item in self.seen) / frames

    @property
    def spread(self) -> float:
        """Greatest distance between two of its places, in pixels."""
        return float(np.linalg.norm(self._places[:, None] - self._places, axis=-1).max())

    def path(self, frames: int) -> tuple[np.ndarray, float]:
        """How far it goes in a clip of so many frames at its mean velocity, (2,), and how far it strays from that."""
        if len(self.frames) < 2:
            return np.zeros(2), 0.0
        line = np.polyfit(self.frames, self._places, 1)
        even = np.outer(self.frames, line[0]) + line[1]
        return line[0] * (frames - 1), float(np.linalg.norm(self._places - even, axis=1).max())

    @property
    def jump(self) -> float:
        """How far one of its steps is off the mean step, at most, in pixels."""
        steps = np.diff(self._places, axis=0)
        return float(np.linalg.norm(steps - steps.mean(0), axis=1).max()) if len(steps) else 0.0

    @property
    def steadiness(self) -> float:
        """1 where size and colour hardly change from frame to frame, towards 0 the more one of them does."""
        areas, purities = np.array([(item.area, item.purity) for item in self.seen]).T
        swells = float(np.exp(np.abs(np.diff(np.log(areas))).max(initial=0)))
        fades = float(np.abs(np.diff(purities)).max(initial=0))
        return min(1.0, _SWELLS / swells) * min(1.0, _FADES / max(fades, _FADES))

    @property
    def _places(self) -> np.ndarray:
        return np.array([(item.x, item.y) for item in self.seen])


def follow(frames: Sequence[Sequence[Detected]], pixel: float) -> list[Track]:
    """Link what was found in each frame to what was found in the one before, nearest and most alike first.

    Args:
        frames: What each frame shows.
        pixel: The unit of this module's lengths, in pixels of the picture.
    """
    tracks: list[Track] = []
    for number, found in enumerate(frames):
        known = [track for track in tracks if track.frames[-1] == number - 1]
        far = np.array([[_distance(track.seen[-1], item) / pixel for item in found] for track in known])
        rest = set(range(len(found)))
        if far.size:
            for row, column in zip(*linear_sum_assignment(far), strict=True):
                if far[row, column] <= _STRIDE:
                    known[row].frames.append(number)
                    known[row].seen.append(found[column])
                    rest.discard(int(column))
        tracks += [Track([number], [found[column]]) for column in sorted(rest)]
    return tracks


def motion(scene: Scene, frames: Sequence[Sequence[Detected]], pixel: float) -> float:
    """How much of what the scene says of motion holds, in [0, 1]; 1 where all of it does and nothing flickers.

    An object that is lost on the way, or changes what it is, counts as far as it was there.

    Args:
        scene: What was asked for; groups of which nothing is said may go where they like, but not jump there.
        frames: What each frame shows.
        pixel: The unit of this module's lengths, in pixels of the picture.
    """
    wanted = [group for group in scene.groups for _ in range(group.count)]
    tracks = follow(frames, pixel)
    if not tracks:
        return 0.0
    agreement = np.array([[t.agreement(g.colour, g.shape, len(frames)) for t in tracks] for g in wanted])
    held = np.zeros(len(wanted))
    for row, column in zip(*linear_sum_assignment(agreement, maximize=True), strict=True):
        track = tracks[column]
        held[row] = _holds(wanted[row].motion, track, len(frames), pixel) * len(track.frames) / len(frames)
    return float(held.mean())


def _holds(told: str | None, track: Track, frames: int, pixel: float) -> float:
    """How far an object did what was told in a clip of so many frames, in [0, 1]."""
    missed = max(0.0, track.jump / pixel - _JUMP)
    if told is not None and not any(MOTIONS[told]):
        missed += max(0.0, track.spread / pixel - _STAYED)
    elif told is not None:
        way = np.array(MOTIONS[told])
        displacement, astray = (value / pixel for value in track.path(frames))
        along = float(displacement @ way)
        across = float(np.linalg.norm(displacement - along * way))
        missed += max(0.0, _MOVED - along) + max(0.0, across - max(along, _MOVED) / 2) + max(0.0, astray - _EVEN)
    return float(np.clip(1 - missed / _ASTRAY, 0, 1)) * track.steadiness


def _distance(before: Detected, now: Detected) -> float:
    changed = (before.colour != now.colour) + (before.shape != now.shape)
    return float(np.hypot(now.x - before.x, now.y - before.y)) + _CHANGED * changed
