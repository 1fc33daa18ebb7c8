"""The shapes world: captions, scenes and pictures of a few coloured shapes.

A procedural world small enough to learn on a laptop and rich enough to get wrong: counts, colours bound to
shapes, and relations. Captions are groups ("a red circle", "two blue squares") joined by ", " and " and ";
two single objects may be related ("a red circle left of a blue square"); for video, groups may move ("two red
circles move left and a blue square stays"). A picture shows exactly the objects its caption names.

Example:
    >>> scene = parse("A red circle above a blue square and two yellow stars")
    >>> scene.objects, scene.relations
    (4, (Relation(subject=0, name='above', object=1),))
    >>> render(layout(scene, np.random.default_rng(0))).shape
    (64, 64, 3)
"""

import difflib
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (232, 36, 36),
    "yellow": (240, 220, 30),
    "green": (40, 190, 50),
    "cyan": (30, 210, 220),
    "blue": (40, 80, 240),
    "purple": (190, 50, 225),
}
SHAPES = ("circle", "square", "triangle", "star")
RELATIONS = ("left of", "right of", "above", "below")
MOTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1), "stays": (0, 0)}
"""What a group does in a video, and which way it goes; y points down."""
COUNTS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4}
MAX_OBJECTS = 4
RADII = (7.0, 12.0)
"""Least and greatest circumradius of an object in pixels, at a picture size of 64."""

HELD_OUT_PAIRS = (("red", "star"), ("green", "triangle"), ("cyan", "square"))
"""(colour, shape) pairs that no training picture shows: both words are learnt, their combination is not."""

_SPOKEN_COUNTS = COUNTS | {"an": 1} | {str(n): n for n in COUNTS.values()}
_NUMBER_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_PLURALS = {f"{shape}s": shape for shape in SHAPES}
_GRAMMAR_WORDS = {"and", "move", "stay", *(word for words in (*RELATIONS, *MOTIONS) for word in words.split())}
_UNDERSTOOD = (
    f"counts (a, two, three, four), colours ({', '.join(COLOURS)}), shapes ({', '.join(SHAPES)}), "
    f"relations ({', '.join(RELATIONS)}), motions ({', '.join(MOTIONS)}), joined by ',' and 'and'"
)

_GAP = 3.0  # pixels between two objects, at a picture size of 64
_MARGIN = 6.0  # pixels between two related centres, along the axis of their relation
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Group:
    """`count` objects of one colour and one shape, and in a video what they do (one of `MOTIONS`, or anything)."""

    count: int
    colour: str
    shape: str
    motion: str | None = None

    def __post_init__(self) -> None:
        if self.motion not in (None, *MOTIONS):
            raise ValueError(f"group: motion must be one of {', '.join(MOTIONS)}, got {self.motion!r}")
        if (self.colour, self.shape) not in _PAIRS:
            raise ValueError(f"group: expected a known colour and shape, got {self.colour!r} and {self.shape!r}")
        if not 1 <= self.count <= MAX_OBJECTS:
            raise ValueError(f"group: count must be 1 to {MAX_OBJECTS}, got {self.count}")

    def __str__(self) -> str:
        words = f"{_NUMBER_WORDS[self.count]} {self.colour} {self.shape}{'s' if self.count > 1 else ''}"
        if self.motion is None:
            return words
        verb, *way = self.motion.split()
        return " ".join((words, verb.removesuffix("s") if self.count > 1 else verb, *way))


@dataclass(frozen=True)
class Relation:
    """Group `subject` is `name` (one of `RELATIONS`) group `object`; both hold one object."""

    subject: int
    name: str
    object: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows: groups in the caption's order, and relations between neighbours among them."""

    groups: tuple[Group, ...]
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.objects <= MAX_OBJECTS:
            raise ValueError(f"scene: a picture holds 1 to {MAX_OBJECTS} objects, got {self.objects}")
        if len({(group.colour, group.shape) for group in self.groups}) < len(self.groups):
            raise ValueError("scene: two groups share colour and shape; write them as one group")
        related = [index for relation in self.relations for index in (relation.subject, relation.object)]
        if len(set(related)) < len(related):
            raise ValueError("scene: an object may take part in one relation only")
        if self.relations and self.moving:
            raise ValueError("scene: relations join things at rest; name what moves without them")
        for relation in self.relations:
            if relation.name not in RELATIONS:
                raise ValueError(f"scene: relation must be one of {RELATIONS}, got {relation.name!r}")
            if relation.object != relation.subject + 1 or not 0 <= relation.subject < len(self.groups) - 1:
                raise ValueError("scene: a relation joins a group to the next one")
            if self.groups[relation.subject].count > 1 or self.groups[relation.object].count > 1:
                raise ValueError(f"scene: {relation.name!r} joins two single objects, not groups of several")

    @property
    def objects(self) -> int:
        """Number of objects in all."""
        return sum(group.count for group in self.groups)

    @property
    def moving(self) -> bool:
        """Whether any group is said to move or to stay."""
        return any(group.motion is not None for group in self.groups)

    @property
    def caption(self) -> str:
        """The scene in words; `parse` reads it back."""
        relation_to = {relation.object: relation.name for relation in self.relations}
        phrases: list[str] = []
        for index, group in enumerate(self.groups):
            if index in relation_to:
                phrases[-1] += f" {relation_to[index]} {group}"
            else:
                phrases.append(str(group))
        return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


@dataclass(frozen=True)
class Placed:
    """One object in the picture: centre and circumradius in pixels (y points down), tilt in radians."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float


def parse(prompt: str) -> Scene:
    """Read a caption; case, spacing and plural endings do not matter.

    Raises:
        ValueError: The prompt holds an unknown word, or its words do not form groups and relations.

    Example:
        >>> parse("a red circle left of a blue square").caption
        'a red circle left of a blue square'
    """
    text = " ".join(prompt.lower().replace(",", " , ").split()).removesuffix(".").rstrip()
    _check_words(prompt, text)
    groups: list[Group] = []
    relations: list[Relation] = []
    try:
        for part in re.split(r" , and | , | and ", text):
            first, *rest = re.split(rf" ({'|'.join(RELATIONS)}) ", part)
            groups.append(_parse_group(first))
            for name, phrase in zip(rest[::2], rest[1::2], strict=True):
                groups.append(_parse_group(phrase))
                relations.append(Relation(len(groups) - 2, name, len(groups) - 1))
        return Scene(tuple(groups), tuple(relations))
    except ValueError as error:
        raise ValueError(f"prompt {prompt!r}: {error}") from None


def _check_words(prompt: str, text: str) -> None:
    known = {*_SPOKEN_COUNTS, *COLOURS, *SHAPES, *_PLURALS, *_GRAMMAR_WORDS}
    for word in re.findall(r"[^\s,]+", text):
        if word not in known:
            near = difflib.get_close_matches(word, sorted(known), n=2)
            hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
            raise ValueError(f"prompt {prompt!r}: unknown word {word!r}{hint}; understood are {_UNDERSTOOD}")


def _parse_group(phrase: str) -> Group:
    match phrase.split():
        case [count, colour, shape, *does] if count in _SPOKEN_COUNTS and colour in COLOURS:
            verb, way = "".join(does[:1]), does[1:]
            motion = " ".join(({"move": "moves", "stay": "stays"}.get(verb, verb), *way))
            if not does or motion in MOTIONS:
                return Group(_SPOKEN_COUNTS[count], colour, _PLURALS.get(shape, shape), motion or None)
        case _:
            pass
    raise ValueError(f"expected a count, a colour and a shape such as 'a red circle', got {phrase!r}")


def sample_scene(
    rng: np.random.Generator, objects: int | None = None, most_relations: int = 1, moving: bool = False
) -> Scene:
    """Draw a scene of `objects` objects in all (1 to 4; drawn too when None).

    Args:
        rng: Draws it.
        objects: How many.
        most_relations: Relations at the most, 1 or 2.
        moving: Say of each group what it does, instead.
    """
    total = int(rng.integers(1, MAX_OBJECTS + 1)) if objects is None else objects
    cuts = rng.choice(total - 1, size=rng.integers(total), replace=False) + 1 if total > 1 else []
    counts = np.diff([0, *sorted(cuts), total])
    pairs = rng.choice(len(_PAIRS), size=len(counts), replace=False)
    groups = tuple(Group(int(count), *_PAIRS[pair]) for count, pair in zip(counts, pairs, strict=True))
    if moving:
        return Scene(tuple(replace(group, motion=str(rng.choice(list(MOTIONS)))) for group in groups))
    starts = [i for i in range(len(groups) - 1) if groups[i].count == groups[i + 1].count == 1]
    if not starts or rng.random() < 0.4:
        return Scene(groups)
    wanted = int(rng.integers(1, most_relations + 1))
    relations: list[Relation] = []
    for start in starts:
        if len(relations) < wanted and all(start > relation.object for relation in relations):
            relations.append(Relation(start, str(rng.choice(RELATIONS)), start + 1))
    return Scene(groups, tuple(relations))


def held_out(scene: Scene) -> bool:
    """Whether training never shows this scene.

    Held out are scenes with one of `HELD_OUT_PAIRS`, and one caption in ten by its hash.
    """
    if any((group.colour, group.shape) in HELD_OUT_PAIRS for group in scene.groups):
        return True
    digest = hashlib.blake2b(scene.caption.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 10 == 0


def layout(scene: Scene, rng: np.random.Generator, size: int = 64) -> tuple[Placed, ...]:
    """Place a scene's objects, group by group: apart, inside the picture, and related as the scene says."""
    scale = size / 64
    while True:
        radii = scale * rng.uniform(*RADII, size=scene.objects)
        centres = radii[:, None] + scale + rng.random((scene.objects, 2)) * (size - 2 * (radii[:, None] + scale))
        if _apart(centres, radii, _GAP * scale) and _related(scene, centres, _MARGIN * scale):
            return place(scene, centres, radii, rng)


def place(scene: Scene, centres: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> tuple[Placed, ...]:
    """A scene's objects, group by group, at these centres, (N, 2), with these radii, (N,), tilted a little."""
    kinds = [(group.colour, group.shape) for group in scene.groups for _ in range(group.count)]
    tilts = rng.uniform(-0.2, 0.2, size=scene.objects)
    return tuple(
        Placed(colour, shape, float(x), float(y), float(radius), float(tilt))
        for (colour, shape), (x, y), radius, tilt in zip(kinds, centres, radii, tilts, strict=True)
    )


def _apart(centres: np.ndarray, radii: np.ndarray, gap: float) -> bool:
    """Whether objects of these radii, (N,), around centres, (N, 2), all keep a gap."""
    return all(
        math.dist(centres[a], centres[b]) >= radii[a] + radii[b] + gap for a, b in combinations(range(len(radii)), 2)
    )


def _related(scene: Scene, centres: np.ndarray, margin: float) -> bool:
    first = np.cumsum([0, *(group.count for group in scene.groups)])
    for relation in scene.relations:
        dx, dy = centres[first[relation.object]] - centres[first[relation.subject]]
        if {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation.name] < margin:
            return False
    return True


def render(
    objects: Sequence[Placed],
    rng: np.random.Generator | None = None,
    size: int = 64,
    background: float | None = None,
) -> np.ndarray:
    """Draw objects on a dark grey ground.

    Args:
        objects: What to draw, in pixels of a picture of `size`.
        rng: Varies the ground's lightness and each object's brightness; None draws both at fixed values.
        size: Side of the picture in pixels.
        background: Lightness of the ground in [0, 1]; None lets `rng` choose in [0.05, 0.3].

    Returns:
        (size, size, 3) uint8.
    """
    if background is None:
        background = rng.uniform(0.05, 0.3) if rng else 0.15
    grey = round(255 * background)
    side = size * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    for item in objects:
        brightness = rng.uniform(0.85, 1.0) if rng else 1.0
        red, green, blue = (round(brightness * channel) for channel in COLOURS[item.colour])
        outline = (_outline(item) * _SUPERSAMPLING).ravel().tolist()
        draw.polygon(outline, fill=(red, green, blue))
    return np.asarray(image.reduce(_SUPERSAMPLING))


def _outline(item: Placed) -> np.ndarray:
    """Corners of an object, (corners, 2) in pixels."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[item.shape]
    turn = item.angle - math.pi / 2 + (math.pi / 4 if item.shape == "square" else 0.0)
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    # Inner corners at .45, fuller than a pentagram's .38, keep the points of a small star wider than a pixel.
    radii = item.radius * np.where((np.arange(corners) % 2 == 1) & (item.shape == "star"), 0.45, 1.0)
    return np.stack([item.x + radii * np.cos(angles), item.y + radii * np.sin(angles)], axis=-1)
