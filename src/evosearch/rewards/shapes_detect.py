"""Find the coloured objects of a picture of the shapes world, from its pixels alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from evosearch.shapes import COLOURS, SHAPES, Placed, render

# Lengths count in 1/64 of the picture's shorter side: pixels of the 64x64 pictures the world is drawn in.
SIDE = 64
_SPECK = 20.0  # area; the world's smallest object, a triangle of radius 7, has 64

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

    def agreement(self, colour: str, shape: str) -> float:
        """How much it looks like this, in [0, 1]."""
        return (self.likeness[colour] + self.likeness[shape]) / 2


def detect(image: np.ndarray) -> list[Detected]:
    """Find the coloured objects of a picture.

    Args:
        image: ``(H, W, 3)`` uint8; large ones are reduced by a whole factor, to a shorter side of 64 to 127.

    Returns:
        The objects in the order of `COLOURS`, then from top to bottom; specks are left out.
    """
    reduction = max(1, min(image.shape[:2]) // SIDE)
    return [_measure(cut, reduction) for cut in _cut(np.asarray(Image.fromarray(image).reduce(reduction)))]


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
    speck = _SPECK * (min(image.shape[:2]) / SIDE) ** 2

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
                alone = Placed("red", shape, SIDE / 2, SIDE / 2, radius, 2 * np.pi * turn / _TURNS)
                (cut,) = _cut(ndimage.gaussian_filter(render([alone]), (blur, blur, 0)))
                rows.append(_normalise(cut.coverage)[0])
    return np.array(rows), np.array(starts)
