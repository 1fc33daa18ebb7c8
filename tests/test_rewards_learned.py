"""The learned reward and the quality score of the shapes world."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

import evosearch as es
from evosearch import rewards
from evosearch.rewards.shapes_quality import shapes_quality
from evosearch.shapes import COLOURS, layout, render, sample_scene


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return scenes, [render(layout(scene, rng), rng) for scene in scenes]


def to_samples(images):
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def quality(samples):
    return shapes_quality(samples, [""] * len(samples))


@pytest.mark.parametrize("name", ["shapes_clip", "shapes_quality"])
@pytest.mark.parametrize(
    ("samples", "prompts", "message"),
    [
        (torch.zeros(3, 64, 64), ["a red circle"], r"^samples: expected a float tensor .* \(3, 64, 64\); move"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ["a red circle"], r"^samples: expected a float .* by 255"),
        (torch.zeros(2, 3, 64, 64), ["a red circle"], "^prompts: expected a list of 2 strings.*repeat a prompt"),
        (torch.zeros(2, 3, 64, 64), "ab", "^prompts: expected a list of 2 strings.*repeat a prompt"),
    ],
)
def test_wrong_arguments_are_refused(name, samples, prompts, message):
    with pytest.raises(ValueError, match=message):
        rewards.load(name)(samples, prompts)


# shapes_clip


@pytest.fixture(scope="module")
def clip():
    return rewards.load("shapes-clip")


def test_clip_is_small_and_loads_by_plain_transformers(clip):
    folder = Path(es.models.__file__).parent / "shapes-clip"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4_000_000
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    scenes, images = pictures(3)
    prompts = [scene.caption for scene in scenes]
    inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    output = model(**inputs, **tokenizer(prompts, padding="max_length", return_tensors="pt"))
    cosines = (output.logits_per_image / model.logit_scale.exp()).diagonal()
    assert torch.allclose(clip(to_samples(images), prompts), cosines, atol=1e-4)


def test_clip_loads_quickly(clip):
    del clip  # imports are done
    start = time.perf_counter()
    rewards.load("shapes-clip")
    assert time.perf_counter() - start < 2


def test_clip_prefers_the_right_caption(clip):
    scenes, images = pictures(60, seed=9)
    samples, prompts = to_samples(images), [scene.caption for scene in scenes]
    right, wrong = clip(samples, prompts), clip(samples, prompts[1:] + prompts[:1])
    assert (right > wrong).float().mean() >= 0.95


def test_clip_has_a_gradient_and_takes_clips_of_any_size(clip):
    samples = torch.rand(2, 3, 3, 96, 96, requires_grad=True)
    values = clip(samples, ["a red circle", "a blue star"])
    assert values.shape == (2,) and (values.abs() <= 1).all()
    values.sum().backward()
    assert samples.grad.abs().sum() > 0
    assert clip.differentiable and shapes_quality.differentiable


def test_clip_gives_a_clip_the_mean_of_its_frames(clip):
    samples = to_samples(pictures(6)[1])
    alone = clip(samples, ["a red circle"] * 3 + ["two blue stars"] * 3)
    together = clip(samples.view(2, 3, 3, 64, 64), ["a red circle", "two blue stars"])
    assert torch.allclose(together, alone.view(2, 3).mean(1), atol=1e-5)


def test_clip_reads_of_a_clip_what_a_picture_shows(clip):
    samples = torch.rand(2, 9, 3, 64, 64)
    moving, resting = "a red circle moves left and two blue stars stay", "a red circle and two blue stars"
    assert torch.equal(clip(samples, [moving, moving]), clip(samples, [resting, resting]))
    assert clip(samples, ["a dog moves left"] * 2).isfinite().all()


@pytest.mark.parametrize("prompt", ["one red circle and 2 blue stars", "A red circle, two blue star."])
def test_clip_reads_every_spelling_of_a_caption(clip, prompt):
    samples = torch.rand(1, 3, 64, 64)
    assert torch.equal(clip(samples, [prompt]), clip(samples, ["a red circle and two blue stars"]))


def test_search_is_guided_by_the_learned_reward_and_judged_by_the_rules():
    prompt = "two red circles"
    result = es.search("shapes-diffusion", prompt, "shapes_clip", "best_of_n", "4x", held_out="shapes", progress=False)
    sample = to_samples([np.asarray(result.best.sample)])
    assert result.best.reward == pytest.approx(rewards.load("shapes-clip")(sample, [prompt]).item(), abs=1e-4)
    assert result.best.held_out["shapes"] == pytest.approx(rewards.load("shapes")(sample, [prompt]).item())


# shapes_quality


@pytest.mark.parametrize("radius", [0.5, 1, 2])
def test_blur_lowers_quality(radius):
    _, images = pictures(60)
    soft = [np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in images]
    assert (quality(to_samples(soft)) < quality(to_samples(images))).all()


def test_noise_and_dim_colours_lower_quality():
    samples = to_samples(pictures(60)[1])
    noisy = (samples + 0.1 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for worse in (noisy, 0.6 * samples):
        assert (quality(worse) < quality(samples) - 0.2).all()


def test_quality_knows_no_prompt_and_no_ground():
    samples = to_samples(pictures(8)[1])
    assert torch.equal(shapes_quality(samples, ["a red circle"] * 8), shapes_quality(samples, ["nonsense"] * 8))
    lighter = samples + 0.05
    assert torch.allclose(quality(lighter), quality(samples), atol=0.02)


def test_quality_of_nothing_is_nothing():
    assert quality(torch.full((2, 3, 64, 64), 0.3)).max() < 1e-3


@pytest.mark.parametrize("colour", COLOURS)
def test_a_clean_colour_without_an_edge_is_half_of_it(colour):
    full = torch.tensor(COLOURS[colour]).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 255
    assert quality(full).item() == pytest.approx(0.5, abs=0.01)


def test_quality_lies_in_its_range_and_has_a_gradient():
    samples = torch.rand(4, 3, 64, 64, requires_grad=True)
    values = quality(samples)
    assert ((values >= 0) & (values <= 1)).all()
    values.sum().backward()
    assert samples.grad.abs().sum() > 0 and samples.grad.isfinite().all()


def test_quality_of_a_clip_is_the_mean_of_its_frames():
    samples = to_samples(pictures(6)[1])
    assert torch.allclose(quality(samples.view(2, 3, 3, 64, 64)), quality(samples).view(2, 3).mean(1))


def test_names_with_a_dash_are_known():
    assert rewards.load("shapes-quality") is shapes_quality
