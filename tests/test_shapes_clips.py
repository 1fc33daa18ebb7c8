"""Clips of the shapes world, and the rules that judge them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from evosearch.rewards.shapes import EXACT, ShapesReward
from evosearch.shapes import MOTIONS, Group, Scene, parse, sample_scene
from evosearch.shapes_clips import film, travel

REWARD = ShapesReward()


def to_samples(*clips):
    return torch.tensor(np.stack(clips) / 255, dtype=torch.float32).movedim(-1, 2)


def score(clip, prompt):
    return REWARD(to_samples(clip), [prompt]).item()


def moving_scenes(count, seed=0):
    rng = np.random.default_rng(seed)
    return [(sample_scene(rng, moving=True), rng) for _ in range(count)]


# the world


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a red circle moves left, a blue square stays", "a red circle moves left and a blue square stays"),
        ("Two stars", None),
        ("two red stars move up", "two red stars move up"),
        ("two red stars moves up", "two red stars move up"),
        ("a red star stay", "a red star stays"),
        ("a red star moves", None),
        ("a red star moves sideways", None),
        ("a red star stays left", None),
        ("a red star left of a blue circle moves up", None),
    ],
)
def test_captions_of_motion(prompt, caption):
    if caption is None:
        with pytest.raises(ValueError, match="prompt"):
            parse(prompt)
    else:
        assert parse(prompt).caption == caption


def test_captions_of_motion_are_read_back():
    assert all(parse(scene.caption) == scene for scene, _ in moving_scenes(300))


def test_objects_go_where_they_are_told_apart_and_inside():
    for scene, rng in moving_scenes(100):
        frames = travel(scene, rng)
        told = [MOTIONS[group.motion] for group in scene.groups for _ in range(group.count)]
        for k, way in enumerate(told):
            path = np.array([(frame[k].x, frame[k].y) for frame in frames])
            step = np.diff(path, axis=0)
            assert np.allclose(step, step[0])
            covered = path[-1] - path[0]
            assert np.allclose(covered, np.array(way) * np.abs(covered).sum())
            assert (np.abs(covered).sum() >= 14) == any(way)
            assert (path >= frames[0][k].radius).all() and (path <= 64 - frames[0][k].radius).all()
        for frame in frames:
            for a in range(len(frame)):
                for b in range(a):
                    gap = np.hypot(frame[a].x - frame[b].x, frame[a].y - frame[b].y)
                    assert gap >= frame[a].radius + frame[b].radius + 2


def test_a_clip_does_not_flicker():
    scene = parse("a red circle stays")
    clip = film(travel(scene, np.random.default_rng(0)), np.random.default_rng(1))
    assert clip.shape == (9, 64, 64, 3)
    assert (clip == clip[0]).all()
    assert (film(travel(scene, np.random.default_rng(0)), np.random.default_rng(2)) != clip).any()


# the rules


@pytest.mark.parametrize("harm", ["plain", "dim", "noisy", "blurred"])
def test_true_clips_are_exact(harm):
    rng = np.random.default_rng(7)
    exact = []
    for scene, world in moving_scenes(100, seed=len(harm)):
        clip = film(travel(scene, world), world).astype(float)
        if harm == "dim":
            clip *= 0.6
        elif harm == "noisy":
            clip = (clip + rng.normal(0, 8, clip.shape)).clip(0, 255)
        elif harm == "blurred":
            clip = ndimage.gaussian_filter(clip, (0, 0.8, 0.8, 0))
        exact.append(score(clip.round(), scene.caption) >= EXACT)
    assert np.mean(exact) >= 0.99


def test_a_wrong_motion_scores_below_the_right_one():
    """One group of the scene does something else."""
    for scene, rng in moving_scenes(150, seed=3):
        k = int(rng.integers(len(scene.groups)))
        other = str(rng.choice([motion for motion in MOTIONS if motion != scene.groups[k].motion]))
        wrong = Scene((*scene.groups[:k], replace(scene.groups[k], motion=other), *scene.groups[k + 1 :]))
        right_score, wrong_score = (score(film(travel(shown, rng), rng), scene.caption) for shown in (scene, wrong))
        assert wrong_score < 0.75 < EXACT <= right_score


def test_who_moves_matters():
    told = "a red circle moves left and a blue square stays"
    swapped = parse("a red circle stays and a blue square moves left")
    assert score(film(travel(swapped, np.random.default_rng(0))), told) < 0.75


def test_the_nearer_to_the_motion_the_better():
    prompt = "a red circle moves right"
    clip = film(travel(parse(prompt), np.random.default_rng(1)))
    opposite, still = clip[::-1], np.repeat(clip[:1], 9, axis=0)
    assert score(opposite, prompt) < score(still, prompt) < 0.75 < score(clip, prompt)


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"shape": "square"}])
def test_what_changes_on_the_way_is_not_exact(change):
    prompt = "a red circle moves right"
    frames = travel(parse(prompt), np.random.default_rng(2))
    clip, other = film(frames), film([[replace(item, **change) for item in frame] for frame in frames])
    scores = [score(np.concatenate([clip[:k], other[k:]]), prompt) for k in (0, 2, 5, 8, 9)]
    assert scores == sorted(scores)
    assert scores[-2] < 0.75 < scores[-1]


def test_what_vanishes_or_jumps_is_not_exact():
    frames = travel(parse("a red circle moves right"), np.random.default_rng(3))
    clip, empty = film(frames), film([[] for _ in frames])
    assert score(np.concatenate([clip[:4], empty[4:5], clip[5:]]), "a red circle moves right") < 0.75
    left, right = (film([[replace(item, x=x) for item in frame] for frame in frames[:1] * 3]) for x in (16, 44))
    assert score(np.concatenate([left, left, left]), "a red circle stays") >= EXACT
    assert score(np.concatenate([left, right, left]), "a red circle stays") < 0.75


def at(*places):
    """A red circle at these places along the middle row."""
    (first,) = travel(parse("a red circle stays"), np.random.default_rng(3))[0]
    return film([[replace(first, x=float(x), y=32.0)] for x in places])


@pytest.mark.parametrize(
    ("places", "prompt", "right"),
    [
        ([32, 33, 32, 31, 32, 33, 32, 31, 32], "a red circle stays", True),
        ([25, 39, 25, 39, 25, 39, 25, 39, 25], "a red circle stays", False),
        ([22, 27, 32, 37, 42, 37, 32, 27, 22], "a red circle stays", False),
        ([22, 24, 26, 29, 32, 35, 38, 40, 42], "a red circle moves right", True),
        ([22, 36, 22, 36, 27, 41, 29, 43, 42], "a red circle moves right", False),
        ([15, 22, 29, 36, 43, 36, 32, 30, 29], "a red circle moves right", False),
        ([16, 16, 16, 16, 16, 22, 28, 34, 40], "a red circle moves right", False),
    ],
)
def test_motion_is_steady(places, prompt, right):
    assert (score(at(*places), prompt) >= EXACT) == right


def red_circle(frames=9, **changes):
    """A clip of a red circle at rest, what changes given frame by frame."""
    (first,) = travel(parse("a red circle stays"), np.random.default_rng(3))[0]
    first = replace(first, x=30.0, y=32.0, radius=9.0)
    return film([[replace(first, **{name: values[k] for name, values in changes.items()})] for k in range(frames)])


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"x": [30.0, 31, 32, 33, 34, 35, 36, 37, 38]}, True),
        ({"x": [30.0, 30, 30, 30, 38, 38, 38, 38, 38]}, False),
        ({"x": [20.0, 33, 20, 44, 31, 18, 30, 44, 31]}, False),
        ({"radius": [9, 9.5, 9, 8.5, 9, 9.5, 10, 10.5, 11]}, True),
        ({"radius": [7, 12] * 4 + [7]}, False),
    ],
)
def test_what_jumps_or_flickers_is_not_exact_whatever_is_said_of_motion(changes, right):
    assert (score(red_circle(**changes), "a red circle") >= EXACT) == right


def test_a_jump_is_no_motion_and_a_flickering_light_no_object():
    jumps = red_circle(x=[40.0] * 5 + [30.0] * 4)
    assert score(jumps, "a red circle moves left") < 0.75
    clip = red_circle().astype(float)
    clip[::2] *= 0.5
    assert score(clip.round(), "a red circle stays") < 0.75


def test_two_alike_are_followed_each_by_itself():
    prompt = "two red circles move left"
    frames = travel(parse(prompt), np.random.default_rng(5))
    one_stays = [[first, replace(second, x=frames[0][1].x)] for first, second in frames]
    assert score(film(frames), prompt) >= EXACT
    assert score(film(one_stays), prompt) < 0.75


def test_nothing_said_of_motion_leaves_it_free():
    for motion in MOTIONS:
        clip = film(travel(Scene((Group(1, "green", "square", motion),)), np.random.default_rng(6)))
        assert score(clip, "a green square") >= EXACT
        assert score(clip, "a green star") < 0.75


def test_motion_cannot_be_seen_in_an_image():
    with pytest.raises(ValueError, match="speaks of motion, which an image cannot show"):
        REWARD(torch.rand(1, 3, 64, 64), ["a red circle moves left"])


def test_clips_of_any_length_and_size():
    rng = np.random.default_rng(8)
    for frames, size in ((3, 64), (5, 128), (33, 96)):
        clip = film(travel(parse("a red circle moves left"), rng, frames, size), size=size)
        assert score(clip, "a red circle moves left") >= EXACT


def test_an_invalid_clip_has_no_score():
    clips = torch.rand(2, 3, 3, 64, 64)
    clips[0, 1, 0, 5, 5] = torch.nan
    assert REWARD(clips, ["a red circle"] * 2).isnan().tolist() == [True, False]
