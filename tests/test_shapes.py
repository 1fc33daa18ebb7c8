import math
from itertools import combinations

import numpy as np
import pytest

from evosearch.shapes import (
    COLOURS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    Group,
    Placed,
    Relation,
    Scene,
    held_out,
    layout,
    parse,
    render,
    sample_scene,
)


def scenes(count: int, objects: int | None = None) -> list[Scene]:
    rng = np.random.default_rng(7)
    return [sample_scene(rng, objects) for _ in range(count)]


def test_captions_read_back_as_their_scene():
    for scene in scenes(1000):
        assert parse(scene.caption) == scene


def test_sampling_covers_the_world():
    drawn = scenes(1000)
    assert {scene.objects for scene in drawn} == {1, 2, 3, 4}
    assert {group.colour for scene in drawn for group in scene.groups} == set(COLOURS)
    assert {group.shape for scene in drawn for group in scene.groups} == set(SHAPES)
    assert {relation.name for scene in drawn for relation in scene.relations} == set(RELATIONS)


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_sampling_obeys_the_number_of_objects(objects):
    assert all(scene.objects == objects for scene in scenes(50, objects))


def test_captions_of_each_form():
    red, two_blue, green = Group(1, "red", "circle"), Group(2, "blue", "square"), Group(1, "green", "star")
    assert Scene((red,)).caption == "a red circle"
    assert Scene((red, two_blue, green)).caption == "a red circle, two blue squares and a green star"
    related = Scene((red, green, two_blue), (Relation(0, "above", 1),))
    assert related.caption == "a red circle above a green star and two blue squares"
    assert Scene((two_blue, red, green), (Relation(1, "left of", 2),)).caption == (
        "two blue squares and a red circle left of a green star"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "  A Red CIRCLE ,two   blue square. ",
        "one red circle, and 2 blue squares",
        "an red circle and two blue squares",
    ],
)
def test_parsing_is_tolerant(prompt):
    assert parse(prompt).caption == "a red circle and two blue squares"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "such as 'a red circle', got ''"),
        ("a red circel", "unknown word 'circel' .did you mean 'circle'"),
        ("a pink star", "unknown word 'pink'; understood are counts .a, two, three, four., colours .red"),
        ("red star", "expected a count, a colour and a shape such as 'a red circle', got 'red star'"),
        ("a red star left of", "got 'a red star left of'"),
        ("four red stars and a blue star", "a picture holds 1 to 4 objects, got 5"),
        ("a red star and two red stars", "two groups share colour and shape"),
        ("two red stars above a blue star", "'above' joins two single objects"),
        ("a red star above a blue star above a red circle", "one relation only"),
    ],
)
def test_parsing_errors_name_the_prompt_and_the_fault(prompt, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(prompt)
    assert repr(prompt) in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Group(0, "red", "star"), "count must be 1 to 4, got 0"),
        (lambda: Group(1, "pink", "star"), "known colour and shape, got 'pink' and 'star'"),
        (lambda: Scene(()), "1 to 4 objects, got 0"),
        (
            lambda: Scene((Group(1, "red", "star"),), (Relation(0, "above", 1),)),
            "joins a group to the next one",
        ),
        (
            lambda: Scene((Group(1, "red", "star"), Group(1, "blue", "star")), (Relation(0, "near", 1),)),
            "relation must be one of .* got 'near'",
        ),
    ],
)
def test_impossible_scenes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("size", [64, 96])
def test_layouts_keep_objects_inside_and_apart(size):
    rng = np.random.default_rng(0)
    for scene in scenes(200):
        objects = layout(scene, rng, size)
        assert len(objects) == scene.objects
        for item in objects:
            assert item.radius <= min(item.x, item.y, size - item.x, size - item.y)
        for a, b in combinations(objects, 2):
            assert math.dist((a.x, a.y), (b.x, b.y)) >= a.radius + b.radius + 3 * size / 64 - 1e-9


@pytest.mark.parametrize(
    ("relation", "holds"),
    [
        ("left of", lambda a, b: a.x + 6 <= b.x),
        ("right of", lambda a, b: a.x >= b.x + 6),
        ("above", lambda a, b: a.y + 6 <= b.y),
        ("below", lambda a, b: a.y >= b.y + 6),
    ],
)
def test_layouts_obey_relations(relation, holds):
    rng = np.random.default_rng(0)
    scene = parse(f"two red squares and a green star {relation} a blue circle")
    for _ in range(50):
        _, _, subject, target = layout(scene, rng)
        assert holds(subject, target)


def test_pictures_repeat_with_the_generator():
    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return render(layout(sample_scene(rng), rng), rng)

    assert np.array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_pictures_show_the_colour_on_grey(colour, shape):
    picture = render([Placed(colour, shape, x=32, y=24, radius=9, angle=0.1)], background=0.1)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[24, 32]) == COLOURS[colour]
    assert tuple(picture[60, 5]) == (26, 26, 26)


def test_pictures_are_centred_on_their_objects():
    picture = render([Placed("red", "circle", x=20.5, y=40, radius=10, angle=0)], background=0)
    weight = picture[..., 0].astype(float)
    rows, columns = np.mgrid[:64, :64] + 0.5
    assert np.average(columns, weights=weight) == pytest.approx(20.5, abs=0.1)
    assert np.average(rows, weights=weight) == pytest.approx(40, abs=0.1)
    assert weight.sum() / 232 == pytest.approx(math.pi * 100, rel=0.02)


def test_held_out_scenes():
    for colour, shape in HELD_OUT_PAIRS:
        assert held_out(parse(f"two {colour} {shape}s and a blue circle"))
    unpaired = [
        scene
        for scene in scenes(2000)
        if not any((group.colour, group.shape) in HELD_OUT_PAIRS for group in scene.groups)
    ]
    assert 0.07 < np.mean([held_out(scene) for scene in unpaired]) < 0.13


def test_up_to_two_relations_where_asked_for():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, objects=4, most_relations=2) for _ in range(400)]
    assert {len(scene.relations) for scene in scenes} == {0, 1, 2}
    assert all(parse(scene.caption) == scene for scene in scenes)
    assert max(len(sample_scene(rng, objects=4).relations) for _ in range(400)) == 1
