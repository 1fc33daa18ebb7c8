"""CLIPScore against plain transformers on PIL images, one at a time."""

import re

import numpy as np
import pytest
import tiny_clip
import torch
from PIL import Image
from tiny_clip import PROMPTS, SIDE, SIZES, picture, to_samples

from evosearch.rewards.clip_score import ClipScore
from evosearch.rewards.judge import read_picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip.folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def score(folder):
    return ClipScore(folder)


def batch(count):
    return to_samples(*(picture(40, 56, seed) for seed in range(count))), [PROMPTS[i % 4] for i in range(count)]


def cosines(folder, images, prompts):
    seen, read = tiny_clip.embedded(folder, images, prompts)
    return (seen * read).sum(-1)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_cosine_of_picture_and_prompt(folder, score, size):
    images = [picture(*size, seed) for seed in range(4)]
    expected = cosines(folder, images, PROMPTS)
    found = score(to_samples(*images), list(PROMPTS))
    assert found.dtype == torch.float32
    assert expected.std() > 0.02  # else anything would do
    assert torch.allclose(found, expected, atol=2e-3)


def test_a_picture_of_its_own_size_is_seen_as_it_is(folder, score):
    images = [picture(SIDE, SIDE, seed) for seed in range(4)]
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), cosines(folder, images, PROMPTS), atol=1e-6)


def test_it_crops_as_torchvision_does(folder, score):
    images = [picture(SIDE, SIDE + 3, seed) for seed in range(4)]  # no resize, so nothing else can differ
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), cosines(folder, images, PROMPTS), atol=1e-5)


def test_the_end_of_a_prompt_is_found_as_published_configs_say(tmp_path):
    folder = tiny_clip.folder(tmp_path, eos=2)
    images = [picture(SIDE, SIDE, seed) for seed in range(4)]
    expected = cosines(folder, images, PROMPTS)
    assert torch.allclose(ClipScore(folder)(to_samples(*images), list(PROMPTS)), expected, atol=1e-6)


def test_variants_are_named(folder, score):
    samples, prompts = batch(16)
    plain = score(samples, prompts)
    assert (plain < 0).any() and (plain > 0).any()
    hessel, torchmetrics = (ClipScore(folder, variant)(samples, prompts) for variant in ("hessel", "torchmetrics"))
    assert torch.allclose(hessel, 2.5 * plain.clamp(min=0))
    assert torch.allclose(torchmetrics, 100 * plain.clamp(min=0))
    with pytest.raises(ValueError, match=r"^variant must be one of cosine, hessel, torchmetrics, got 'sum'$"):
        ClipScore(folder, "sum")


def test_case_does_not_count_and_what_is_past_the_end_is_not_read(score):
    samples = to_samples(*[picture(SIDE, SIDE)] * 2)
    same, other = ["a red circle", "A RED circle"], ["a red circle", "a blue circle"]
    assert score(samples, same).diff().abs() < 1e-6 < score(samples, other).diff().abs()
    long = "abcdefghijklmnopqrstuvwxyz"
    assert score(samples, [long, f"{long} and more"]).diff().abs() < 1e-6


def test_a_grey_picture_is_seen_in_colour(folder, score, tmp_path):
    grey = picture(50, 40).convert("L")
    grey.save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as file:
        assert file.mode == "L"
    samples = read_picture(tmp_path / "grey.png")[None]
    expected = cosines(folder, [grey], PROMPTS[:1])
    assert torch.allclose(score(samples, [PROMPTS[0]]), expected, atol=2e-3)
    assert not torch.allclose(score(to_samples(picture(50, 40)), [PROMPTS[0]]), expected, atol=1e-2)


def test_prompts_are_read_once_and_together(folder):
    score = ClipScore(folder)
    read = []
    score.weights().model.text_model.register_forward_hook(lambda *_: read.append(1))
    samples, prompts = to_samples(*[picture(SIDE, SIDE)] * 8), [*PROMPTS] * 2
    for _ in range(3):
        score(samples, prompts)
    assert read == [1]
    score(samples, ["a new one", *prompts[1:]])
    assert read == [1, 1]


def test_what_a_folder_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"^folder {re.escape(str(tmp_path))} has no file config.json; put it there"):
        ClipScore(tmp_path)


def test_a_search_is_guided_by_it(folder):
    import evosearch as es

    prompt = "two red circles"
    result = es.search("shapes-diffusion", prompt, ClipScore(folder), "best_of_n", "2x", progress=False)
    sample = to_samples(Image.fromarray(np.asarray(result.best.sample)))
    assert result.best.reward == pytest.approx(ClipScore(folder)(sample, [prompt]).item(), abs=1e-4)
