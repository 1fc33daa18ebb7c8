"""PickScore against its model card's code on PIL images, one at a time."""

import pytest
import tiny_clip
import tiny_qwen_vl
import torch
from tiny_clip import PROMPTS, SIDE, SIZES, picture, to_samples
from tiny_rewards import pick_score
from transformers import CLIPModel

from evosearch.rewards.pick_score import PickScore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pick")


@pytest.fixture(scope="module")
def score(folder):
    return pick_score(folder)


def published(folder, images, prompts):
    """``logit_scale.exp() * (text_embs @ image_embs.T)``; its model and tokenizer are brought into one folder first."""
    model = CLIPModel.from_pretrained(folder / "model")
    model.save_pretrained(folder / "both")
    tiny_clip.tokenizer().save_pretrained(folder / "both")
    seen, read = tiny_clip.embedded(folder / "both", images, prompts, crop="transformers")
    return model.logit_scale.exp().detach() * (seen * read).sum(-1)


@pytest.mark.parametrize(("size", "error"), [*((size, 0.05) for size in SIZES), ((SIDE, SIDE), 1e-5)])
def test_it_is_the_scaled_cosine(folder, score, size, error):
    images = [picture(*size, seed) for seed in range(4)]
    expected = published(folder, images, PROMPTS)
    assert expected.std() > 0.5  # else anything would do
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), expected, atol=error)


def test_it_crops_as_transformers_does(folder, score):
    images = [picture(SIDE, SIDE + 3, seed) for seed in range(4)]  # no resize, so nothing else can differ
    expected = published(folder, images, PROMPTS)
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), expected, atol=1e-4)


def test_the_scale_is_read_in_full_precision(folder, score):
    samples, prompts = to_samples(*(picture(SIDE, SIDE, seed) for seed in range(4))), list(PROMPTS)
    half = PickScore(folder / "model", folder / "tokenizer", dtype=torch.bfloat16)
    assert half.weights()[1] == score.weights()[1] == pytest.approx(1 / 0.07, rel=1e-4)
    assert half(samples, prompts).dtype == torch.float32


def test_another_models_tokenizer_is_refused(folder, score, tmp_path):
    tiny_qwen_vl.tokenizer("other words").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"^tokenizer of '.*' must know 54 words as the model does, got \d+; are all of"
    ):
        PickScore(folder / "model", tmp_path).weights()
