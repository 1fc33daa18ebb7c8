"""Aesthetic Predictor V2.5, by the user's package where it is installed, else by one that makes such a head."""

import importlib
import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import picture, shaken, to_samples
from transformers import SiglipConfig, SiglipModel

from evosearch import rewards
from evosearch.catalogue_rewards import facts_of
from evosearch.rewards.aesthetic_v2_5 import AestheticV25

PACKAGE, FILE, SIDE, WIDTH = "aesthetic_predictor_v2_5", "aesthetic_predictor_v2_5.pth", 28, 24
INSTALLED = importlib.util.find_spec(PACKAGE) is not None
STAND_IN = """
from torch import nn


class AestheticPredictorV2_5Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = (config.hidden_size, 1024, 128, 64, 16, 1)
        parts = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.Dropout(0.5))]
        self.scoring_head = nn.Sequential(*parts[:-1])

    def forward(self, image_embeds):
        return self.scoring_head(image_embeds)
"""


def stand_in(folder, monkeypatch):
    """Put what stands in for the package on the path."""
    (folder / f"{PACKAGE}.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def package(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    if not INSTALLED:
        stand_in(tmp_path_factory.mktemp("package"), monkeypatch)
    yield importlib.import_module(PACKAGE)
    if not INSTALLED:
        sys.modules.pop(PACKAGE, None)


def weights(seed=0):
    """Of the head, by their published names."""
    generator = torch.Generator().manual_seed(seed)
    sizes, found = (WIDTH, 1024, 128, 64, 16, 1), {}
    for i, place in enumerate((0, 2, 4, 6, 8)):
        drawn = torch.randn(sizes[i + 1], sizes[i], generator=generator) * sizes[i] ** -0.5
        found[f"scoring_head.{place}.weight"] = drawn
        found[f"scoring_head.{place}.bias"] = torch.randn(sizes[i + 1], generator=generator) * 0.1
    return found


def saved(folder):
    """A small SigLIP and a head, as they are published."""
    part = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**part, "image_size": SIDE, "patch_size": 14}, text_config={**part, "vocab_size": 40}
    )
    shaken(SiglipModel(config)).save_pretrained(folder)
    torch.save(weights(), folder / FILE)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("siglip"))


def published(place, images):
    """One PIL image at a time, squeezed into a square."""
    model, head, found = SiglipModel.from_pretrained(place).eval(), weights(), []
    for image in images:
        pixels = np.asarray(image.resize((SIDE, SIDE), Image.BICUBIC)) / 127.5 - 1
        with torch.no_grad():
            x = model.vision_model(torch.from_numpy(pixels).movedim(-1, 0)[None].float()).pooler_output
        x = x / x.norm(dim=-1, keepdim=True)
        for layer in (0, 2, 4, 6, 8):
            x = x @ head[f"scoring_head.{layer}.weight"].T + head[f"scoring_head.{layer}.bias"]
        found.append(x[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("size", [(28, 28), (40, 100), (301, 200), (1, 1), (1, 300), (1500, 1000)])
def test_it_is_the_published_mark(place, size):
    images = [picture(*size, seed) for seed in range(3)]
    expected = published(place, images)
    assert max(size) == 1 or expected.std() > 1e-3  # else anything would do
    found = AestheticV25(place, place, device="cpu")(to_samples(*images), [""] * 3)
    assert torch.allclose(found, expected, atol=2e-3)


def test_it_scores_by_batch_and_a_video_by_the_mean_of_its_frames(place):
    sizes = []
    score = AestheticV25(place, place, device="cpu", batch_size=4)
    score.weights()[1].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    samples = to_samples(*(picture(30, 50, seed) for seed in range(6)))
    alone = score(samples, [""] * 6)
    assert sizes == [4, 2]
    assert torch.allclose(score(samples.unflatten(0, (2, 3)), [""] * 2), alone.view(2, 3).mean(1), atol=1e-5)
    samples[1, 0, 0, 0] = torch.nan
    assert score(samples, [""] * 6).isnan().tolist() == [False, True, False, False, False, False]
    assert score(samples[:0], []).shape == (0,)


def test_it_has_a_gradient_that_points_up(place):
    score = AestheticV25(place, place, device="cpu")
    samples = (0.25 + 0.5 * to_samples(picture(30, 50))).requires_grad_()
    value = score(samples, [""])
    (gradient,) = torch.autograd.grad(value.sum(), samples)
    with torch.no_grad():
        assert score(samples + gradient / gradient.norm(), [""]) > value
    assert score.differentiable and not score(samples.detach(), [""]).requires_grad


def test_it_is_known_by_its_weights(place):
    made, again, other = (AestheticV25(place, place, device="cpu") for _ in range(3))
    assert made.cache_key == again.cache_key and made.cache_key.startswith("aesthetic_v2_5 ")
    with torch.no_grad():
        for changed, module in ((again, again.weights()[0]), (other, other.weights()[1])):
            next(iter(module.parameters())).flatten()[0] += 1e-3
            assert changed.cache_key != made.cache_key


def test_a_missing_weight_of_the_head_is_named(place, tmp_path):
    found = weights()
    del found["scoring_head.8.bias"]
    torch.save(found, tmp_path / FILE)
    with pytest.raises(ValueError, match=r"has no weight for scoring_head.8.bias; is it the published file\?$"):
        AestheticV25(place, tmp_path).weights()


def test_with_the_package_its_weights_are_still_to_be_had():
    assert facts_of("aesthetic_v2_5").state.startswith("no, about 3.5 GB + 5 MB")
    with pytest.raises(
        ValueError, match=r"^config.json of model 'google/siglip-so400m-patch14-384' cannot be had: it is not in"
    ):
        rewards.load("aesthetic-v2-5")


@pytest.mark.skipif(INSTALLED, reason="the package is installed")
def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[1:])
    del sys.modules[PACKAGE]
    importlib.invalidate_caches()
    assert facts_of("aesthetic_v2_5").state == f"no, needs the package {PACKAGE}"
    with pytest.raises(ValueError, match=f"^reward aesthetic_v2_5 needs the package {PACKAGE}: pip install .*AGPL"):
        rewards.load("aesthetic_v2_5")
