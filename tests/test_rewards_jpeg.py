from io import BytesIO

import pytest
import torch
from PIL import Image

from evosearch.rewards.jpeg import jpeg


@pytest.fixture
def samples():
    """Four images of rising detail, from flat to noise."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return 0.5 + torch.tensor([0.0, 0.1, 0.4, 1.0]).reshape(4, 1, 1, 1) * (noise - 0.5)


def test_reward_is_minus_the_size_of_the_saved_file(samples, tmp_path):
    rewards = jpeg(samples, [""] * 4)
    assert rewards.shape == (4,)
    assert rewards.dtype == torch.float32
    for reward, sample in zip(rewards, samples, strict=True):
        path = tmp_path / "sample.jpg"
        Image.fromarray((sample * 255).round().byte().movedim(0, -1).numpy()).save(path, quality=95)
        assert reward.item() == pytest.approx(-path.stat().st_size / 1000, rel=1e-6)


def test_less_detail_scores_higher(samples):
    assert (jpeg(samples, [""] * 4).diff() < 0).all()


def test_a_video_scores_the_mean_of_its_frames(samples):
    video = samples.unflatten(0, (2, 2))
    assert torch.allclose(jpeg(video, ["", ""]), jpeg(samples, [""] * 4).unflatten(0, (2, 2)).mean(1))


def test_only_what_survives_8_bits_counts(samples):
    rounded = (samples * 255).round() / 255
    assert torch.equal(jpeg(rounded + 0.4 / 255, [""] * 4), jpeg(rounded, [""] * 4))
    assert torch.equal(jpeg(rounded * 4 - 1, [""] * 4), jpeg((rounded * 4 - 1).clamp(0, 1), [""] * 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_spoils_no_other(samples, bad):
    broken = samples.clone()
    broken[1, 0, 5, 5] = bad
    rewards, expected = jpeg(broken, [""] * 4), jpeg(samples, [""] * 4)
    assert rewards.isnan().tolist() == [False, True, False, False]
    assert torch.equal(rewards[[0, 2, 3]], expected[[0, 2, 3]])


@pytest.mark.parametrize(
    "samples",
    [torch.zeros(3, 64, 64), torch.zeros(2, 64, 64, 3), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)],
)
def test_wrong_samples_are_refused(samples):
    with pytest.raises(ValueError, match=r"samples: expected a float tensor .* got torch\.\w+ \(.*\); move"):
        jpeg(samples, ["", ""])


def test_half_precision_is_accepted(samples):
    rewards = jpeg(samples[:1].half(), [""])
    file = BytesIO()
    image = (samples[0].half() * 255).round().byte().movedim(0, -1).numpy()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    assert rewards.dtype == torch.float32
    assert rewards.item() == pytest.approx(-file.tell() / 1000, rel=1e-6)
