"""Pictures are resized, cropped and rounded as PIL does it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import picture, reference, to_samples

from evosearch.rewards.pixels import cropped, eight_bit, normalised, resized

SIZES = [(224, 224), (300, 300), (512, 768), (1024, 577), (225, 301), (64, 64), (3000, 4000), (1, 1), (1, 3), (2, 5)]


@pytest.mark.parametrize("crop", ["torchvision", "transformers"])
@pytest.mark.parametrize("size", SIZES)
def test_what_a_model_is_given_is_what_its_authors_give_it(size, crop):
    images = [picture(*size), Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))]
    expected = torch.stack([reference(image, crop, side=224) for image in images])
    levels = (normalised(cropped(to_samples(*images), 224, crop)) - expected).abs() * 255 * 0.2613
    assert (levels > 0.5).float().mean() < 0.02  # nearly all are the same
    assert levels.max() < 3


def test_crops_differ_where_an_odd_number_is_cut_off():
    samples = to_samples(picture(224, 227))
    ours, theirs = (cropped(samples, 224, crop) for crop in ("torchvision", "transformers"))
    assert torch.equal(ours[..., :-1], theirs[..., 1:])
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (200, 150)])
def test_the_gradient_is_that_of_the_resize_without_rounding(size):
    grey = torch.full((1, 3, 50, 50), 0.5) + 0.1 * torch.rand(1, 3, 50, 50)  # nothing is cut at 0 or 1
    grey.requires_grad_()
    weights = torch.randn(1, 3, *size)
    (found,) = torch.autograd.grad((resized(grey, *size) * weights).sum(), grey)
    smooth = torch.nn.functional.interpolate(grey, size, mode="bicubic", antialias=True)
    (expected,) = torch.autograd.grad((smooth * weights).sum(), grey)
    assert torch.allclose(found, expected, atol=1e-4)


def test_rounding_is_to_the_nearest_of_256_levels():
    levels = torch.arange(256) / 255
    assert torch.allclose(eight_bit(levels + 0.49 / 255)[:-1], levels[:-1], atol=1e-6)
    assert torch.allclose(eight_bit(levels + 0.51 / 255)[:-1], levels[1:], atol=1e-6)
    assert eight_bit(torch.tensor([-1.0, 2.0])).tolist() == [0, 1]
