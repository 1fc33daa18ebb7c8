"""Does the picture show what the caption asks for? Measured from pixels by rules, for the shapes world.

`detect` finds the coloured objects of a picture, `ShapesReward` compares them with the parsed prompt. Scores
come in two bands that never meet: a picture with the right objects in the right places is *exact* and scores
in [0.8, 1], any other in [0, 0.75]. Inside a band the score is graded, so that a search has a slope to climb.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from evosearch.shapes import COLOURS, SHAPES, Group, Placed, Relation, Scene, parse, render

EXACT = 0.8
"""Least score of an exact picture."""

# What composition and quality add to an inexact score, 0.75 together. One right object more out of four adds
# 0.12 or more, all quality together adds 0.1: composition comes first.
_COMPOSITION, _QUALITY = 0.65, 0.1
_RELATION_SHARE = 0.25  # of the composition, where the prompt has relations

# Lengths count in 1/64 of the picture's shorter side: pixels of the 64x64 pictures the world is drawn in.
_SIDE = 64
_SMALLEST = 32  # side in pixels; shapes cannot be told apart in smaller pictures
_SPECK = 20.0  # area; the world's smallest object, a triangle of radius 7, has 64
_APART = 3.0  # how far left is "left of"; the world's own layouts keep twice that
_ASTRAY = 32.0  # a relation that is violated by this much earns nothing

_FAINTEST = 0.15  # share of a colour's full strength; noise of .04, once smoothed, stays below
_FLOOR = 0.4  # of the body's strength; what is weaker is no part of a shape
_LEAST_FIT = 0.85  # correlation with a template; renders reach .95, ellipses of 3:2, rings and halves do not
_FIT_SCALE = 0.02  # of differences between fits; a circle and a square are .06 apart

# Colours are compared in the plane across the grey axis: the ground vanishes whatever its lightness, and a
# soft edge, a mix with grey, keeps its hue and loses strength as the object covers less of the pixel.
_TO_CHROMA = np.array([[1, -0.5, -0.5], [0, 0.75**0.5, -(0.75**0.5)]], np.float32) / 255
_FULL = np.array(list(COLOURS.values()), np.float32) @ _TO_CHROMA.T  # (colours, 2)
_STRENGTHS = np.linalg.norm(_FULL, axis=1, keepdims=True)
_HUES = _FULL / _STRENGTHS

# Pixels of one object share an edge and a colour, in an array (colours, h, w).
_NEIGHBOURS = np.zeros((3, 3, 3), bool)
_NEIGHBOURS[1] = ndimage.generate_binary_structure(2, 1)

# Shapes are compared on a grid in radii of gyration around the centroid; a star reaches out to 1.8 of them.
_GRID_Y, _GRID_X = np.meshgrid(np.linspace(-1.9, 1.9, 20), np.linspace(-1.9, 1.9, 20), indexing="ij")
# Radius and blur of the templates: the world's extremes, and as soft as a small generator draws them. Without
# the soft ones a blurred star passes for a circle; with softer ones a round haze passes for a star.
_TEMPLATES = ((12.0, 0.0), (7.0, 0.0), (7.0, 1.0))
_TURNS = 60  # templates are 6 degrees apart
_SYMMETRY = {"circle": _TURNS, "square": 4, "triangle": 3, "star": 5}  # turns that map a shape to itself


@dataclass(frozen=True)
class Detected:
    """One object found in a picture.

    Attributes:
        colour: The nearest of `COLOURS`.
        shape: The best fitting of `SHAPES`.
        x: Centre in pixels from the left edge, as in `Placed`.
        y: Centre in pixels from the top edge.
        area: In square pixels.
        confidence: How well and how clearly `shape` fits, in [0, 1]; 0 for mush: no shape fits, or none is as
            likely as the others together.
        purity: Strength and hue of the colour against the full colour, in [0, 1].
        likeness: For every colour and every shape, how much the object looks like it, in [0, 1].
    """

    colour: str
    shape: str
    x: float
    y: float
    area: float
    confidence: float
    purity: float
    likeness: Mapping[str, float]


class ShapesReward:
    """Reward of pictures of the shapes world: what share of the prompt is there, and how well drawn.

    Objects asked for and objects found are paired for the best total agreement. Composition is the mean
    agreement, a missing or surplus object counting 0; where the prompt has relations they make up a quarter of
    it. Quality is the mean of ``confidence * purity`` over the pairs. An exact picture scores
    ``0.8 + 0.2 * quality``, any other ``0.65 * composition + 0.1 * quality``.

    Example:
        >>> from evosearch.shapes import layout
        >>> picture = render(layout(parse("two red circles"), np.random.default_rng(0)))
        >>> samples = torch.tensor(picture / 255).movedim(-1, 0).expand(2, -1, -1, -1)
        >>> ShapesReward().exact(samples, ["two red circles", "two red stars"])
        tensor([ True, False])
    """

    def __call__(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score each sample against its prompt.

        Args:
            samples: ``(N, 3, H, W)`` floats in [0, 1], sides of at least 32 pixels; rounded to 8 bits first.
            prompts: N captions that `evosearch.shapes.parse` understands.

        Returns:
            ``(N,)`` float32 in [0, 1], at least `EXACT` where and only where the picture is exact; NaN for a
            sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` or the number of prompts is not as above, or a prompt does not parse.
        """
        _check(samples, prompts)
        scenes = {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
        finite = samples.isfinite().flatten(1).all(1).tolist()
        images = samples.nan_to_num().clamp(0, 1).mul(255).round().byte().movedim(1, -1).numpy(force=True)
        scores = [
            _score(scenes[prompt], detect(image), min(image.shape[:2]) / _SIDE) if valid else float("nan")
            for image, prompt, valid in zip(images, prompts, finite, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32, device=samples.device)

    def check(self, prompt: str) -> None:
        """Raise ValueError where `evosearch.shapes.parse` does not understand the prompt."""
        parse(prompt)

    def exact(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """Whether each sample shows everything its prompt asks for and nothing else, ``(N,)`` bool.

        Arguments and errors are those of a call; a sample with NaN is not exact.
        """
        return self(samples, prompts) >= EXACT


def detect(image: np.ndarray) -> list[Detected]:
    """Find the coloured objects of a picture.

    Args:
        image: ``(H, W, 3)`` uint8; large ones are reduced by a whole factor, to a shorter side of 64 to 127.

    Returns:
        The objects in the order of `COLOURS`, then from top to bottom; specks are left out.
    """
    reduction = max(1, min(image.shape[:2]) // _SIDE)
    return [_measure(cut, reduction) for cut in _cut(np.asarray(Image.fromarray(image).reduce(reduction)))]


def _check(samples: Tensor, prompts: Sequence[str]) -> None:
    got = f"got {samples.dtype} {tuple(samples.shape)}"
    if samples.ndim == 5:
        raise ValueError(
            f"samples: the shapes reward judges single images (N, 3, H, W), {got}; "
            "score a video frame by frame, for example samples.flatten(0, 1)"
        )
    if samples.ndim != 4 or samples.shape[1] != 3 or not samples.is_floating_point():
        raise ValueError(
            f"samples: expected a float tensor (N, 3, H, W) in [0, 1], {got}; "
            "move the channels to dimension 1, and divide bytes by 255"
        )
    if min(samples.shape[2:]) < _SMALLEST:
        raise ValueError(
            f"samples: expected sides of at least {_SMALLEST} pixels, {got}; "
            "generate larger images, shapes cannot be told apart in these"
        )
    if isinstance(prompts, str) or len(prompts) != len(samples):
        raise ValueError(
            f"prompts: expected a list of {len(samples)} strings, one for each sample, got {prompts!r}; "
            "repeat a prompt that all samples share"
        )


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
    agreement = np.array([[_agreement(scene.groups[index], item) for item in found] for index in wanted])
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


def _agreement(group: Group, item: Detected) -> float:
    """How much an object is what the group asks for, in [0, 1]."""
    return (item.likeness[group.colour] + item.likeness[group.shape]) / 2


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


@dataclass(frozen=True)
class _Cut:
    """One object cut out of a picture: chroma ``(2, h, w)``, zero around it, and where it was taken from."""

    chroma: np.ndarray
    left: int
    top: int
    area: int

    @property
    def coverage(self) -> np.ndarray:
        """How much of each pixel the object covers, ``(h, w)``, up to a factor and less a floor."""
        mean = self.chroma.sum((1, 2))
        strength = np.maximum(np.tensordot(mean / np.linalg.norm(mean), self.chroma, 1), 0)
        # Without the floor a soft edge would end in a step, whose place depends on the pixel grid.
        return np.maximum(strength - _FLOOR * (strength**2).sum() / strength.sum(), 0)


def _cut(image: np.ndarray) -> Iterator[_Cut]:
    """Cut out every region of one colour, with its soft edge."""
    chroma = np.tensordot(_TO_CHROMA, image, (1, 2))  # (2, h, w)
    speck = _SPECK * (min(image.shape[:2]) / _SIDE) ** 2

    # Smoothing quietens noise enough to draw borders; what lies inside them is measured on the raw picture.
    strengths = np.tensordot(_HUES / _STRENGTHS, ndimage.gaussian_filter(chroma, (0, 0.7, 0.7)), 1)
    strength = strengths.max(0)
    # Half the strength nearby is where a soft edge is half covered, in dim objects as in bright ones.
    solid = strength > np.maximum(_FAINTEST, ndimage.maximum_filter(strength, 9) / 2)
    labels = np.empty(strengths.shape, np.int32)
    ndimage.label((strengths == strength) & solid, _NEIGHBOURS, output=labels)
    areas = np.bincount(labels.ravel())

    for label, (plane, *box) in enumerate(ndimage.find_objects(labels), start=1):
        if areas[label] >= speck:
            # One pixel of margin holds the soft edge; objects of this world are further apart than two.
            rows, columns = (slice(max(0, side.start - 1), side.stop + 1) for side in box)
            mask = ndimage.binary_dilation(labels[plane.start, rows, columns] == label, _NEIGHBOURS[1])
            part = np.where(mask, chroma[:, rows, columns], 0)
            yield _Cut(part, columns.start, rows.start, int(areas[label]))


def _measure(cut: _Cut, reduction: int) -> Detected:
    """Describe an object of a picture that was reduced by `reduction`."""
    coverage = cut.coverage
    patch, x, y = _normalise(coverage)
    templates, starts = _templates()
    fits = np.maximum.reduceat(templates @ patch, starts)
    shape_likeness = np.exp((fits - fits.max()) / _FIT_SCALE)
    shape_likeness /= shape_likeness.sum()
    majority = float(2 * shape_likeness.max() - 1)

    # Weighting by coverage asks the object's body for its colour rather than its soft edge.
    chroma = (cut.chroma * coverage).sum((1, 2)) / coverage.sum()
    cosines = np.maximum(_HUES @ chroma / np.linalg.norm(chroma), 0)
    colour = int(cosines.argmax())
    return Detected(
        colour=list(COLOURS)[colour],
        shape=SHAPES[fits.argmax()],
        x=(cut.left + x) * reduction,
        y=(cut.top + y) * reduction,
        area=float(cut.area * reduction**2),
        confidence=float(np.clip((fits.max() - _LEAST_FIT) / (1 - _LEAST_FIT), 0, 1)) * max(0.0, majority),
        purity=min(1.0, float(_HUES[colour] @ chroma / _STRENGTHS[colour, 0])),
        likeness=dict(zip((*COLOURS, *SHAPES), (*(cosines**2).tolist(), *shape_likeness.tolist()), strict=True)),
    )


def _normalise(coverage: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Bring an object to a common place, size and contrast.

    Returns:
        The object on the grid, ``(400,)`` of mean 0 and norm 1, so that the product of two is their
        correlation; and its centroid x, y in pixels.
    """
    columns, rows = np.arange(coverage.shape[1]), np.arange(coverage.shape[0])
    across, down, total = coverage.sum(0), coverage.sum(1), coverage.sum()
    x, y = across @ columns / total, down @ rows / total
    radius = np.sqrt((across @ (columns - x) ** 2 + down @ (rows - y) ** 2) / total)
    patch = ndimage.map_coordinates(coverage, [y + radius * _GRID_Y, x + radius * _GRID_X], order=1).ravel()
    patch -= patch.mean()
    # A thin frame can fall between the grid's points and leave nothing to divide by.
    return patch / max(np.linalg.norm(patch), 1e-6), float(x) + 0.5, float(y) + 0.5


@cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Normalised shapes at every turn, ``(templates, 400)``, and the row at which each shape begins."""
    rows: list[np.ndarray] = []
    starts: list[int] = []
    for shape in SHAPES:
        starts.append(len(rows))
        for radius, blur in _TEMPLATES:
            for turn in range(_TURNS // _SYMMETRY[shape]):
                alone = Placed("red", shape, _SIDE / 2, _SIDE / 2, radius, 2 * np.pi * turn / _TURNS)
                (cut,) = _cut(ndimage.gaussian_filter(render([alone]), (blur, blur, 0)))
                rows.append(_normalise(cut.coverage)[0])
    return np.array(rows), np.array(starts)
