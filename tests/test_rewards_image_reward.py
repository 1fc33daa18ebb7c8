"""ImageReward against its authors' formula, written out from the names of their checkpoint."""

import json
import math

import pytest
import torch
from tiny_clip import PROMPTS, picture, reference, to_samples
from tiny_rewards import headed, image_reward
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax
from transformers import BertTokenizer

from evosearch.rewards.image_reward import ImageReward

SIDE = 32
SIZES = [(32, 32), (64, 96), (97, 64), (45, 130), (301, 200), (7, 5), (1, 1), (1, 9)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("image_reward")


@pytest.fixture(scope="module")
def score(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return image_reward(folder)


def attend(query, key, value, heads, mask=0.0):
    """(L, D) and (M, D) to (L, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key, value))
    return (softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + mask, -1) @ v).transpose(0, 1).flatten(1)


class Part:
    """The weights under a prefix, as layers."""

    def __init__(self, weights, prefix, eps):
        self.weights, self.prefix, self.eps = weights, prefix, eps

    def __getitem__(self, name):
        return self.weights[f"{self.prefix}{name}"]

    def linear(self, name, x):
        return linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def norm(self, name, x):
        return layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], self.eps)


def see(weights, pixels):
    """BLIP's vision transformer: norms come first, with an epsilon of 1e-6."""
    vit = Part(weights, "blip.visual_encoder.", 1e-6)
    kernel = vit["patch_embed.proj.weight"]
    patches = conv2d(pixels[None], kernel, vit["patch_embed.proj.bias"], stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([vit["cls_token"][0], patches]) + vit["pos_embed"][0]
    for i in range(2):
        q, k, v = vit.linear(f"blocks.{i}.attn.qkv", vit.norm(f"blocks.{i}.norm1", x)).chunk(3, -1)
        x = x + vit.linear(f"blocks.{i}.attn.proj", attend(q, k, v, heads=2))
        inner = gelu(vit.linear(f"blocks.{i}.mlp.fc1", vit.norm(f"blocks.{i}.norm2", x)))
        x = x + vit.linear(f"blocks.{i}.mlp.fc2", inner)
    return vit.norm("norm", x)


def read(weights, ids, mask, seen):
    """BLIP's BERT: norms come last; each layer attends to the prompt, all of it, then to the picture."""
    bert = Part(weights, "blip.text_encoder.", 1e-12)
    x = bert["embeddings.word_embeddings.weight"][ids]
    x = bert.norm("embeddings.LayerNorm", x + bert["embeddings.position_embeddings.weight"][: len(ids)])
    hidden = torch.where(mask.bool(), 0.0, -10000.0)
    for i in range(2):
        for name, other, masked in (("attention", None, hidden), ("crossattention", seen, 0.0)):
            layer = f"encoder.layer.{i}.{name}"
            other = x if other is None else other
            query, key, value = (
                bert.linear(f"{layer}.self.{part}", y) for part, y in (("query", x), ("key", other), ("value", other))
            )
            out = bert.linear(f"{layer}.output.dense", attend(query, key, value, heads=4, mask=masked))
            x = bert.norm(f"{layer}.output.LayerNorm", out + x)
        layer = f"encoder.layer.{i}"
        inner = gelu(bert.linear(f"{layer}.intermediate.dense", x))
        x = bert.norm(f"{layer}.output.LayerNorm", bert.linear(f"{layer}.output.dense", inner) + x)
    return x


def published(folder, images, prompts):
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    words = BertTokenizer.from_pretrained(folder)
    words.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
    scores = []
    for image, prompt in zip(images, prompts, strict=True):
        tokens = words(prompt, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        seen = see(weights, reference(image))
        features = read(weights, tokens.input_ids[0], tokens.attention_mask[0], seen)[:1]
        head = {name.removeprefix("mlp."): weight for name, weight in weights.items() if name.startswith("mlp.")}
        scores.append((headed(features, head)[0] - 0.16717362830052426) / 1.0333394966054072)
    return torch.stack(scores)


@pytest.mark.parametrize(("size", "error"), [*((size, 0.02) for size in SIZES), ((SIDE, SIDE), 2e-5)])
def test_it_is_the_published_formula(folder, score, size, error):
    images = [picture(*size, seed) for seed in range(4)]
    expected = published(folder, images, PROMPTS)
    assert expected.std() > 0.1  # else anything would do
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), expected, atol=error)


def test_pictures_and_prompts_both_count(score):
    pictures = to_samples(*(picture(SIDE, SIDE, seed) for seed in range(4)))
    assert score(pictures, ["a red circle"] * 4).std() > 0.05
    assert score(pictures[:1].expand(4, -1, -1, -1), list(PROMPTS))[:3].std() > 0.05


def test_it_crops_as_torchvision_does(folder, score):
    images = [picture(SIDE, SIDE + 3, seed) for seed in range(4)]  # no resize, so nothing else can differ
    expected = published(folder, images, PROMPTS)
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), expected, atol=1e-4)


def test_33_tokens_are_read(score):
    samples = to_samples(*[picture(SIDE, SIDE)] * 2)
    long = "abcdefghijklmnopqrstuvwxyzabcdefg"
    assert score(samples, [long, f"{long}h"]).diff().abs() < 1e-6 < score(samples, [long, long[:-1]]).diff().abs()


@pytest.mark.parametrize("prompt", ["a [DEC] b", "[ENC]"])
def test_the_marks_that_its_authors_add_are_words(folder, score, prompt):
    image = picture(SIDE, SIDE)
    assert torch.allclose(score(to_samples(image), [prompt]), published(folder, [image], [prompt]), atol=2e-5)


def test_a_prompt_is_tokenised_once(folder, score):
    score(to_samples(picture(SIDE, SIDE)), ["once"])
    known = score._known["once"]
    score(to_samples(picture(SIDE, SIDE)), ["once"])
    assert score._known["once"] is known


def test_the_file_may_be_named_itself(folder, score):
    samples = to_samples(picture(SIDE, SIDE))
    by_file = ImageReward(folder / "ImageReward.pt", folder)
    assert torch.equal(by_file(samples, ["a red circle"]), score(samples, ["a red circle"]))


@pytest.mark.parametrize(
    "missing",
    [
        "blip.visual_encoder.pos_embed",
        "blip.visual_encoder.blocks.1.attn.qkv.bias",
        "blip.visual_encoder.norm.weight",
        "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight",
        "mlp.layers.7.bias",
    ],
)
def test_a_missing_weight_is_named_as_published(folder, score, tmp_path, missing):
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    del weights[missing]
    torch.save(weights, tmp_path / "ImageReward.pt")
    (tmp_path / "med_config.json").write_text((folder / "med_config.json").read_text())
    with pytest.raises(ValueError, match=rf"ImageReward\.pt has no weight for {missing}; is it the published file\?$"):
        ImageReward(tmp_path, folder).weights()


def test_a_config_that_lacks_something_is_named(folder, score, tmp_path):
    (tmp_path / "ImageReward.pt").symlink_to(folder / "ImageReward.pt")
    with pytest.raises(ValueError, match=r"^folder .* has no file med_config\.json; put it there"):
        ImageReward(tmp_path, folder)
    config = json.loads((folder / "med_config.json").read_text())
    del config["hidden_act"]
    (tmp_path / "med_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"^config .*med_config\.json says nothing of hidden_act; is it the published file\?$"
    ):
        ImageReward(tmp_path, folder).weights()
