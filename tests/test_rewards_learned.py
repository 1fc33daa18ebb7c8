"""The learned reward and the quality score of the shapes world."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from evosearch import rewards
from evosearch.rewards.shapes_quality import shapes_quality
from evosearch.shapes import layout, render, sample_scene


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return scenes, [render(layout(scene, rng), rng) for scene in scenes]


def to_samples(images):
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def quality(samples):
    return shapes_quality(samples, [""] * len(samples))


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
