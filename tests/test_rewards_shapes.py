from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from evosearch.rewards.shapes import EXACT, ShapesReward, detect
from evosearch.shapes import (
    COLOURS,
    SHAPES,
    Group,
    Placed,
    Relation,
    Scene,
    layout,
    parse,
    render,
    sample_scene,
)

REWARD = ShapesReward()
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def to_samples(*images: np.ndarray) -> Tensor:
    return torch.tensor(np.stack(images) / 255, dtype=torch.float32).movedim(-1, 1)


def score(image: np.ndarray, prompt: str) -> float:
    return REWARD(to_samples(image), [prompt]).item()


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0))


def noise(image: np.ndarray, rng: np.random.Generator, std: float = 0.04) -> np.ndarray:
    return np.clip(image + rng.normal(0, 255 * std, image.shape), 0, 255)


# ---------------------------------------------------------------- what is there

HARSH: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": lambda image, rng: image,
    "dim": lambda image, rng: 0.55 * image,
    "noisy": noise,
    "dim and noisy": lambda image, rng: noise(0.55 * image, rng),
    "blurred": lambda image, rng: blur(image, 1.0),
}


@pytest.mark.parametrize("small", [False, True], ids=["any size", "small"])
@pytest.mark.parametrize("harm", HARSH)
def test_true_renders_are_exact(harm, small):
    """2,000 renders in all; at least 99.5 % are exact, and 99.8 % of the objects are read right."""
    rng = np.random.default_rng(len(harm) + 100 * small)
    exact, objects, right = 0, 0, 0
    for _ in range(200):
        scene = sample_scene(rng)
        placed = layout(scene, rng)
        if small:
            placed = tuple(replace(item, radius=7.0) for item in placed)
        samples = to_samples(HARSH[harm](render(placed, rng), rng))
        exact += REWARD.exact(samples, [scene.caption]).item()
        found = detect(samples[0].mul(255).round().byte().movedim(0, -1).numpy())
        objects += len(placed)
        right += sum(any(_same(item, other) for other in found) for item in placed)
    assert exact >= 0.995 * 200
    assert right >= 0.998 * objects


def _same(placed: Placed, found) -> bool:
    near = np.hypot(placed.x - found.x, placed.y - found.y) < 1
    return near and (placed.colour, placed.shape) == (found.colour, found.shape)


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_detect_measures_place_and_area_at_any_size(size):
    unit = size / 64
    for shape, area in {"circle": np.pi, "square": 2, "triangle": 27**0.5 / 4, "star": 1.32}.items():
        placed = Placed("green", shape, 20.3 * unit, 37.8 * unit, 10 * unit, 0.1)
        (found,) = detect(render([placed], size=size))
        assert (found.colour, found.shape) == ("green", shape)
        assert found.x == pytest.approx(placed.x, abs=0.6 * unit)
        assert found.y == pytest.approx(placed.y, abs=0.6 * unit)
        assert found.area == pytest.approx(area * placed.radius**2, rel=0.15)
        assert 0.5 < found.confidence <= 1
        assert 0.9 < found.purity <= 1
        assert set(found.likeness) == {*COLOURS, *SHAPES}


def test_shapes_are_read_at_any_tilt():
    for shape in SHAPES:
        for angle in np.linspace(0, 2 * np.pi, 40):
            (found,) = detect(render([Placed("blue", shape, 31.4, 32.2, 7.0, float(angle))]))
            assert found.shape == shape
            assert found.confidence > 0.3


def _haze(width: float) -> np.ndarray:
    y, x = np.indices((64, 64)) - 32
    return np.exp(-(x**2 + y**2) / (2 * width**2))


def _mush() -> dict[str, np.ndarray]:
    """Coverage of things that are no shape of this world."""
    y, x = np.indices((64, 64)) - 32
    disc = x**2 + y**2 < 100
    return {
        "half a disc": disc & (x < 0),
        "ring": disc & (x**2 + y**2 > 25),
        "bar": (abs(x) < 14) & (abs(y) < 7),
        "frame": np.maximum(abs(x), abs(y)) > 29,
        "line": abs(x - y) < 2,
        "two discs in one": ((x - 7) ** 2 + y**2 < 64) | ((x + 7) ** 2 + y**2 < 64),
        "small haze": _haze(3),
        "haze": _haze(5),
    }


@pytest.mark.parametrize("name", _mush())
def test_mush_is_no_shape(name):
    colour = np.array(COLOURS["red"])
    image = 38 + (colour - 38) * _mush()[name][..., None]
    found = detect(image.round().astype(np.uint8))
    assert [item.colour for item in found] == ["red"]
    assert found[0].confidence == 0
    assert not any(REWARD.exact(to_samples(image), [f"a red {shape}"]) for shape in SHAPES)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_specks_are_no_objects_but_small_blobs_are(size):
    unit = size / 64
    image = render([Placed("cyan", "square", 20 * unit, 20 * unit, 9 * unit, 0.0)], size=size).copy()
    start, speck, blob = (round(side * unit) for side in (40, 44, 46))
    image[start:speck, start:speck] = COLOURS["red"]
    assert len(detect(image)) == 1
    image[start:blob, start:blob] = COLOURS["red"]
    assert [item.colour for item in detect(image)] == ["red", "cyan"]


def test_a_large_picture_is_judged_by_its_reduction():
    rng = np.random.default_rng(6)
    for _ in range(10):
        scene = sample_scene(rng)
        image = noise(render(layout(scene, rng, size=256), rng, size=256), rng, 0.2).astype(np.uint8)
        small = np.asarray(Image.fromarray(image).reduce(4))
        assert score(image, scene.caption) == score(small, scene.caption) >= EXACT


def test_two_colours_in_one_blob_are_two_objects():
    image = render([Placed("red", "circle", 32, 32, 11, 0.0)]).copy()
    right = image[:, 32:]
    right[right[..., 0] > 100] = COLOURS["blue"]
    assert sorted(item.colour for item in detect(image)) == ["blue", "red"]
    assert score(image, "a red circle") < EXACT


# ---------------------------------------------------------------- right above wrong


def _missing(scene: Scene, rng: np.random.Generator) -> Sequence[Placed]:
    placed = list(layout(scene, rng))
    placed.pop(rng.integers(len(placed)))
    return placed


def _surplus(scene: Scene, rng: np.random.Generator) -> Sequence[Placed] | None:
    if scene.objects == 4:
        return None
    return layout(Scene((*scene.groups[1:], replace(scene.groups[0], count=scene.groups[0].count + 1))), rng)


def _recoloured(scene: Scene, rng: np.random.Generator) -> Sequence[Placed]:
    return _with_one(scene, rng, "colour", list(COLOURS))


def _reshaped(scene: Scene, rng: np.random.Generator) -> Sequence[Placed]:
    return _with_one(scene, rng, "shape", list(SHAPES))


def _with_one(scene: Scene, rng: np.random.Generator, field: str, words: list[str]) -> Sequence[Placed]:
    placed = list(layout(scene, rng))
    index = rng.integers(len(placed))
    others = [word for word in words if word != getattr(placed[index], field)]
    placed[index] = replace(placed[index], **{field: str(rng.choice(others))})
    return placed


def _rebound(scene: Scene, rng: np.random.Generator) -> Sequence[Placed] | None:
    """Swap the colours of two objects that differ in colour and in shape."""
    placed = list(layout(scene, rng))
    first, last = placed[0], placed[-1]
    if first.colour == last.colour or first.shape == last.shape:
        return None
    placed[0], placed[-1] = replace(first, colour=last.colour), replace(last, colour=first.colour)
    kinds = [sorted((item.colour, item.shape) for item in items) for items in (placed, layout(scene, rng))]
    return placed if kinds[0] != kinds[1] else None


def _mirrored(scene: Scene, rng: np.random.Generator) -> Sequence[Placed] | None:
    if not scene.relations:
        return None
    (relation,) = scene.relations
    return layout(Scene(scene.groups, (replace(relation, name=OPPOSITE[relation.name]),)), rng)


@pytest.mark.parametrize("wrong", [_missing, _surplus, _recoloured, _reshaped, _rebound, _mirrored])
def test_one_mistake_scores_below_the_right_picture(wrong):
    rng = np.random.default_rng(7)
    tried = 0
    while tried < 500:
        scene = sample_scene(rng, 1 if tried < 50 and wrong not in (_rebound, _mirrored) else None)
        mistaken = wrong(scene, rng)
        if mistaken is None:
            continue
        tried += 1
        pictures = to_samples(render(layout(scene, rng), rng), render(mistaken, rng))
        right, less = REWARD(pictures, [scene.caption] * 2).tolist()
        assert 0 <= less <= 0.75 < EXACT <= right <= 1, scene.caption


def test_exact_is_a_threshold_of_the_score():
    rng = np.random.default_rng(8)
    scenes = [sample_scene(rng) for _ in range(40)]
    samples = to_samples(*(render(layout(scene, rng), rng) for scene in scenes))
    # Half of the prompts belong to another picture.
    prompts = [scene.caption for scene in (*scenes[:20], *reversed(scenes[20:]))]
    exact = REWARD.exact(samples, prompts)
    assert exact.dtype == torch.bool
    assert torch.equal(exact, REWARD(samples, prompts) >= EXACT)
    assert 20 <= exact.sum() < 40


# ---------------------------------------------------------------- a slope to climb


def _four(rng: np.random.Generator) -> tuple[str, list[Placed]]:
    scene = sample_scene(rng, 4)
    return Scene(scene.groups).caption, list(layout(scene, rng))


@pytest.mark.parametrize("mistake", ["missing", "colour", "shape"])
def test_more_right_objects_score_higher(mistake):
    rng = np.random.default_rng(9)
    for _ in range(60):
        prompt, placed = _four(rng)
        wrong: list[Placed] = []
        if mistake == "colour":
            absent = sorted(set(COLOURS) - {item.colour for item in placed})[0]
            wrong = [replace(item, colour=absent) for item in placed]
        if mistake == "shape":
            absent = (sorted(set(SHAPES) - {item.shape for item in placed}) or [None])[0]
            if absent is None:
                continue
            wrong = [replace(item, shape=absent) for item in placed]
        scores = [score(render([*placed[:right], *wrong[right:]]), prompt) for right in range(5)]
        assert np.all(np.diff(scores) > 0.03), prompt


def test_every_surplus_object_costs():
    placed = [Placed("red", "circle", x, y, 9, 0.0) for x, y in ((16, 16), (46, 16), (16, 46), (46, 46))]
    scores = [score(render(placed[:count]), "a red circle") for count in (1, 2, 3, 4)]
    assert np.all(np.diff(scores) < -0.03)


def test_a_relation_is_graded_by_how_far_it_fails():
    prompt = "a red circle left of a blue square"
    blue = Placed("blue", "square", 32, 44, 8, 0.0)
    pictures = [render([Placed("red", "circle", x, 18, 8, 0.0), blue]) for x in (52, 46, 40, 34, 26)]
    scores = [score(picture, prompt) for picture in pictures]
    assert np.all(np.diff(scores) > 0.02)
    assert [value >= EXACT for value in scores] == [False] * 4 + [True]


@pytest.mark.parametrize("size", [32, 64, 96, 256])
def test_how_far_a_relation_must_hold_goes_with_the_size(size):
    unit = size / 64
    for apart, holds in ((1.5, False), (4.5, True)):
        placed = [
            Placed("red", "square", 30 * unit, 18 * unit, 9 * unit, 0.0),
            Placed("blue", "square", (30 + apart) * unit, 44 * unit, 9 * unit, 0.0),
        ]
        value = score(render(placed, size=size), "a red square left of a blue square")
        assert (value >= EXACT) is holds


@pytest.mark.parametrize(
    ("name", "holds"),
    [("left of", True), ("right of", False), ("above", True), ("below", False)],
)
def test_relations_point_where_they_say(name, holds):
    image = render([Placed("red", "star", 18, 20, 9, 0.0), Placed("green", "circle", 44, 45, 9, 0.0)])
    assert (score(image, f"a red star {name} a green circle") >= EXACT) is holds


def test_a_shape_on_its_way_to_the_right_one_scores_higher():
    circle, square = (render([Placed("red", s, 32, 32, r, 0.0)]) for s, r in (("circle", 9), ("square", 11)))
    blends = [circle * (1 - share) + square * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert np.all(np.diff([score(blend, "a red square") for blend in blends]) > 0)


def test_drawing_counts_before_the_picture_is_right():
    image = render([Placed("red", "circle", 32, 32, 9, 0.0)])
    assert score(0.6 * image, "two red circles") < score(image, "two red circles") - 0.02


def test_a_nearer_colour_scores_higher():
    scores = [score(render([Placed(c, "circle", 32, 32, 9, 0.0)]), "a red circle") for c in ("cyan", "yellow", "red")]
    assert scores[0] < scores[1] < scores[2]


WORSE: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "blurred": lambda image, level, rng: blur(image, level),
    "noisy": lambda image, level, rng: noise(image, rng, 0.1 * level),
    "dim": lambda image, level, rng: image * (1 - level / 3),
}


@pytest.mark.parametrize("harm", WORSE)
def test_worse_drawing_scores_lower_on_average(harm):
    means: list[float] = []
    for level in (0.0, 0.4, 0.8, 1.2, 1.6):
        rng = np.random.default_rng(10)  # the same pictures at every level
        scenes = [sample_scene(rng) for _ in range(30)]
        images = [render(layout(scene, rng), rng) for scene in scenes]
        samples = to_samples(*(WORSE[harm](image, level, rng) for image in images))
        means.append(REWARD(samples, [scene.caption for scene in scenes]).mean().item())
    assert np.all(np.diff(means) < -0.002), means


# ---------------------------------------------------------------- the contract of a reward


def _batch() -> tuple[Tensor, list[str]]:
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng) for _ in range(6)]
    return to_samples(*(render(layout(s, rng), rng) for s in scenes)), [s.caption for s in scenes]


def test_scores_depend_on_nothing_but_sample_and_prompt():
    samples, prompts = _batch()
    before = samples.clone()
    scores = REWARD(samples, prompts)
    alone = [REWARD(sample[None], [prompt]).item() for sample, prompt in zip(samples, prompts, strict=True)]
    assert scores.tolist() == alone == ShapesReward()(samples, prompts).tolist()
    assert scores.dtype == torch.float32
    assert torch.equal(samples, before)


def test_only_what_survives_8_bits_counts():
    samples, prompts = _batch()
    expected = REWARD(samples, prompts)
    assert torch.equal(REWARD((samples + 0.4 / 255), prompts), expected)
    assert torch.equal(REWARD((samples - 0.4 / 255).double(), prompts), expected)
    assert not torch.equal(REWARD((samples - 2 / 255), prompts), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_spoils_no_other(bad):
    samples, prompts = _batch()
    expected = REWARD(samples, prompts)
    samples[2, 1, 30, 30] = bad
    scores = REWARD(samples, prompts)
    assert scores.isnan().tolist() == [False, False, True, False, False, False]
    assert torch.equal(scores[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]])
    assert not REWARD.exact(samples, prompts)[2]


def test_any_picture_has_a_score():
    rng = np.random.default_rng(12)
    y, x = np.indices((64, 64))
    stripes = np.where((x // 3 % 2 == 0)[..., None], COLOURS["red"], COLOURS["cyan"])
    pictures = [
        np.zeros((64, 64, 3)),
        np.full((64, 64, 3), 255.0),
        np.broadcast_to(np.array(COLOURS["red"], float), (64, 64, 3)),
        stripes,
        np.where(((x + y) % 2 == 0)[..., None], COLOURS["red"], COLOURS["cyan"]),
        np.stack([4.0 * x, 4.0 * y, 255 - 4.0 * x], axis=-1),
        *rng.uniform(0, 255, (4, 64, 64, 3)),
        *(255 * (blur(p, 2) > 126) for p in rng.uniform(0, 255, (8, 64, 64, 3))),
        *(255 * (blur(p, 5) > 127) for p in rng.uniform(0, 255, (8, 64, 64, 3))),
    ]
    scores = REWARD(to_samples(*pictures), ["three red circles"] * len(pictures))
    assert ((scores >= 0) & (scores < EXACT)).all()
    assert (scores[:2] == 0).all()


def test_an_empty_batch_has_no_scores():
    assert REWARD(torch.zeros(0, 3, 64, 64), []).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(1, 8, 64, 64, 3), r"expected a float tensor .*\(1, 8, 64, 64, 3\); move the channels"),
        (
            torch.zeros(3, 64, 64),
            r"expected a float tensor \(N, 3, H, W\), .* got torch.float32 \(3, 64, 64\); move",
        ),
        (torch.zeros(1, 64, 64, 3), r"expected a float tensor .* \(1, 64, 64, 3\); move the channels"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"expected a float tensor .* torch.uint8 .* by 255"),
        (
            torch.zeros(1, 3, 64, 16),
            r"at least 32 pixels, got torch.float32 \(1, 3, 64, 16\); generate larger",
        ),
    ],
)
def test_wrong_samples_are_refused(samples, message):
    with pytest.raises(ValueError, match=f"^samples: .*{message}"):
        REWARD(samples, ["a red circle"])


@pytest.mark.parametrize("prompts", [["a red circle"], "ab", ["a red circle"] * 3])
def test_prompts_must_match_samples(prompts):
    with pytest.raises(ValueError, match=r"prompts: expected a list of 2 strings.*got .*repeat a prompt"):
        REWARD(torch.zeros(2, 3, 64, 64), prompts)


@pytest.mark.parametrize("prompt", ["", "a mauve circle"])
def test_a_prompt_of_another_world_is_refused(prompt):
    with pytest.raises(ValueError, match=f"^prompt '{prompt}': "):
        REWARD(torch.zeros(1, 3, 64, 64), [prompt])


def test_a_relation_without_its_object_earns_nothing_for_it():
    scene = Scene((Group(1, "red", "star"), Group(1, "blue", "star")), (Relation(0, "above", 1),))
    image = render([Placed("red", "star", 30, 20, 10, 0.0)])
    assert parse(scene.caption) == scene
    assert score(image, scene.caption) < score(image, Scene(scene.groups).caption)
