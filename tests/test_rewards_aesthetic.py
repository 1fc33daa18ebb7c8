"""LAION's aesthetic score against its authors' formula on PIL images, one at a time."""

import pytest
import tiny_clip
import torch
from tiny_clip import SIDE, SIZES, picture, to_samples
from tiny_rewards import aesthetic, head, headed

from evosearch.rewards.aesthetic import Aesthetic


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


@pytest.fixture
def score(folder):
    return aesthetic(folder)


@pytest.mark.parametrize(("size", "error"), [*((size, 5e-3) for size in SIZES), ((SIDE, SIDE + 3), 1e-5)])
def test_it_is_the_head_on_unit_vectors(folder, score, size, error):
    images = [picture(*size, seed) for seed in range(4)]
    seen, _ = tiny_clip.embedded(folder, images, [""] * 4)
    expected = headed(seen, head(12))
    assert expected.std() > 0.01  # else anything would do
    assert torch.allclose(score(to_samples(*images), [""] * 4), expected, atol=error)


def test_it_knows_no_prompt(score):
    samples = to_samples(picture(SIDE, SIDE))
    assert torch.equal(score(samples, ["a red circle"]), score(samples, ["nonsense"]))


def test_the_head_is_found_by_its_path_and_kept_as_safetensors(folder, score, cache):
    samples = to_samples(picture(SIDE, SIDE))
    expected = score(samples, [""])
    (kept,) = cache.iterdir()
    other = folder / "another name.pth"
    (folder / "sac+logos+ava1-l14-linearMSE.pth").rename(other)
    assert torch.equal(Aesthetic(folder, other)(samples, [""]), expected)
    assert torch.equal(Aesthetic(folder, kept)(samples, [""]), expected)
    with pytest.raises(ValueError, match=r"^folder .* has no file sac\+logos\+ava1-l14-linearMSE\.pth; put it there"):
        Aesthetic(folder, folder)


def test_a_head_of_another_model_is_refused(folder, score):
    torch.save(head(7), folder / "other.pth")
    message = (
        r"must have a weight of shape \(1024, 12\) for layers\.0\.weight, got \(1024, 7\); is it the published file"
    )
    with pytest.raises(ValueError, match=message):
        Aesthetic(folder, folder / "other.pth").weights()
    with_another = {name.replace("layers.7", "layers.8"): weight for name, weight in head(12).items()}
    torch.save(with_another, folder / "other.pth")
    with pytest.raises(ValueError, match=r"^checkpoint .*other\.pth has no weight for layers\.7\.weight; is it"):
        Aesthetic(folder, folder / "other.pth").weights()


def test_it_keeps_nothing_that_reads_prompts(score):
    kept = {name.partition(".")[0] for name, _ in score.weights()[0].model.named_parameters()}
    assert kept == {"vision_model", "visual_projection", "logit_scale"}
