"""Does the picture or clip show what the caption asks for? Measured from pixels by rules, for the shapes world.

`detect` finds the coloured objects of a picture, `ShapesReward` compares them with the parsed prompt. Scores
come in two bands that never meet: a picture with the right objects in the right places is *exact* and scores
in [0.8, 1], any other in [0, 0.75]. Inside a band the score is graded, so that a search has a slope to climb.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evosearch.checks import samples_and_prompts
from evosearch.rewards.cache import identity
from evosearch.rewards.facts import Facts
from evosearch.rewards.shapes_detect import SIDE, Detected, detect
from evosearch.rewards.shapes_motion import motion
from evosearch.shapes import Group, Relation, Scene, parse

FACTS = Facts("0 to 1, exact pictures from 0.8", "Apache-2.0", "prompts of the shapes world")

EXACT = 0.8
"""Least score of an exact picture."""

# What composition and quality add to an inexact score, 0.75 together. One right object more out of four adds
# 0.12 or more, all quality together adds 0.1: composition comes first.
_COMPOSITION, _QUALITY = 0.65, 0.1
_RELATION_SHARE = 0.25  # of the composition, where the prompt has relations
_INEXACT = 0.75  # most that an inexact clip scores, below all exact ones
_MOTION_SHARE = 0.4  # of an inexact clip's score

_SMALLEST = 32  # side in pixels; shapes cannot be told apart in smaller pictures
_APART = 3.0  # how far left is "left of"; the world's own layouts keep twice that
_ASTRAY = 32.0  # a relation that is violated by this much earns nothing


class ShapesReward:
    """Reward of pictures of the shapes world: what share of the prompt is there, and how well drawn.

    Objects asked for and objects found are paired for the best total agreement. Composition is the mean
    agreement, a missing or surplus object counting 0; where the prompt has relations they make up a quarter of
    it. Quality is the mean of ``confidence * purity`` over the pairs. An exact picture scores
    ``0.8 + 0.2 * quality``, any other ``0.65 * composition + 0.1 * quality``.

    A clip is exact where every frame is, everything moves as the prompt says, and nothing jumps, flickers or is lost;
    it scores the mean of its frames then. Any other scores ``0.75 * (0.6 * mean + 0.4 * motion)``.

    Example:
        >>> from evosearch.shapes import layout, render
        >>> picture = render(layout(parse("two red circles"), np.random.default_rng(0)))
        >>> samples = torch.tensor(picture / 255).movedim(-1, 0).expand(2, -1, -1, -1)
        >>> ShapesReward().exact(samples, ["two red circles", "two red stars"])
        tensor([ True, False])
    """

    cache_key = identity("shapes")

    def __call__(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score each sample against its prompt.

        Args:
            samples: ``(N, 3, H, W)`` or ``(N, F, 3, H, W)`` floats in [0, 1], sides of at least 32 pixels; rounded to
                8 bits first.
            prompts: N captions that `evosearch.shapes.parse` understands.

        Returns:
            ``(N,)`` float32 in [0, 1], at least `EXACT` where and only where the picture is exact; NaN for a
            sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` or the number of prompts is not as above, a prompt does not parse, or it speaks of
                motion and the samples are images.
        """
        samples_and_prompts(samples, prompts, _SMALLEST)
        video = samples.ndim == 5 and samples.shape[1] > 1
        scenes = {prompt: self.check(prompt, video) for prompt in dict.fromkeys(prompts)}
        finite = samples.isfinite().flatten(1).all(1).tolist()
        clips = samples if samples.ndim == 5 else samples[:, None]
        pixels = clips.nan_to_num().clamp(0, 1).mul(255).round().byte().movedim(2, -1).numpy(force=True)
        unit = min(samples.shape[-2:]) / SIDE
        scores = [
            _score_clip(scenes[prompt], [detect(frame) for frame in clip], unit) if valid else float("nan")
            for clip, prompt, valid in zip(pixels, prompts, finite, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32, device=samples.device)

    def check(self, prompt: str, video: bool | None = None) -> Scene:
        """The scene that a prompt asks for.

        Raises:
            ValueError: `evosearch.shapes.parse` does not understand the prompt, or it speaks of motion and ``video`` is
                False.
        """
        scene = parse(prompt)
        if scene.moving and video is False:
            raise ValueError(f"prompt {prompt!r} speaks of motion, which an image cannot show; generate a video")
        return scene

    def exact(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """Whether each sample shows everything its prompt asks for and nothing else, ``(N,)`` bool.

        Arguments and errors are those of a call; a sample with NaN is not exact.
        """
        return self(samples, prompts) >= EXACT


def _score_clip(scene: Scene, frames: Sequence[Sequence[Detected]], pixel: float) -> float:
    """Compare the frames of a clip, or the only one of an image, with what was asked for."""
    scores = [_score(scene, found, pixel) for found in frames]
    mean = sum(scores) / len(scores)
    if len(frames) == 1:
        return mean
    held = motion(scene, frames, pixel)
    return mean if min(scores) >= EXACT and held == 1 else _INEXACT * (mean + _MOTION_SHARE * (held - mean))


def _score(scene: Scene, found: Sequence[Detected], pixel: float) -> float:
    """Compare what was found with what was asked for, as `ShapesReward` says.

    Args:
        scene: What was asked for.
        found: What the picture shows.
        pixel: The unit of this module's lengths, in pixels of the picture.
    """
    if not found:
        return 0.0
    wanted = [index for index, group in enumerate(scene.groups) for _ in range(group.count)]
    asked = [scene.groups[index] for index in wanted]
    agreement = np.array([[item.agreement(group.colour, group.shape) for item in found] for group in asked])
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    pairs = [(wanted[row], found[column]) for row, column in zip(rows, columns, strict=True)]
    # A pair's index names its group, and a group in a relation has one object.
    relations = [_holds(relation, dict(pairs), pixel) for relation in scene.relations]

    quality = sum(item.confidence * item.purity for _, item in pairs) / len(pairs)
    complete = len(wanted) == len(found) and all(_is(scene.groups[index], item) for index, item in pairs)
    if complete and all(held == 1 for held in relations):
        return EXACT + (1 - EXACT) * quality
    # The longer list divides, so that surplus objects cost as missing ones do.
    composition = agreement[rows, columns].sum() / max(len(wanted), len(found))
    if relations:
        composition += _RELATION_SHARE * (sum(relations) / len(relations) - composition)
    return _COMPOSITION * composition + _QUALITY * quality


def _is(group: Group, item: Detected) -> bool:
    return (item.colour, item.shape) == (group.colour, group.shape) and item.confidence > 0


def _holds(relation: Relation, objects: Mapping[int, Detected], pixel: float) -> float:
    """How far a relation holds, in [0, 1]: 1 where it does, 0 where one of its objects is missing."""
    if not {relation.subject, relation.object} <= objects.keys():
        return 0.0
    subject, other = objects[relation.subject], objects[relation.object]
    dx, dy = (other.x - subject.x) / pixel, (other.y - subject.y) / pixel
    distance = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation.name]
    return float(np.clip(1 + (distance - _APART) / _ASTRAY, 0, 1))
