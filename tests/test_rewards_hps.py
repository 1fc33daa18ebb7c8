"""HPSv2.1 against its authors' formula, written out from the names of their checkpoint."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CONTEXT, MEAN, PROMPTS, SIDE, SIZES, STD, picture, to_samples, tokenizer
from tiny_rewards import hps
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax

from evosearch.rewards.hps import Hps, contained

FILE = "HPS_v2.1_compressed.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hps")


@pytest.fixture(scope="module")
def score(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return hps(folder)


def prepared(image, side=SIDE):
    """ToTensor, ResizeMaxSize and Normalize: a resize of floats, which PIL has by channel, set on zeros."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.zeros((side, side, 3), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    for channel in range(3):
        resized = Image.fromarray(pixels[..., channel]).resize((width, height), Image.BICUBIC)
        square[top : top + height, left : left + width, channel] = resized
    return torch.from_numpy((square - MEAN) / STD).movedim(-1, 0).float()


def transformer(weights, prefix, x, mask=0.0):
    """Open_clip's, of 2 layers and 2 heads, with norms first."""

    def norm(name, x):
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    for i in range(2):
        block = f"{prefix}transformer.resblocks.{i}."
        q, k, v = linear(
            norm(f"{block}ln_1", x), weights[f"{block}attn.in_proj_weight"], weights[f"{block}attn.in_proj_bias"]
        ).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (2, -1)).transpose(0, 1) for y in (q, k, v))
        attended = (softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + mask, -1) @ v).transpose(0, 1).flatten(1)
        x = x + linear(attended, weights[f"{block}attn.out_proj.weight"], weights[f"{block}attn.out_proj.bias"])
        inner = linear(norm(f"{block}ln_2", x), weights[f"{block}mlp.c_fc.weight"], weights[f"{block}mlp.c_fc.bias"])
        x = x + linear(gelu(inner), weights[f"{block}mlp.c_proj.weight"], weights[f"{block}mlp.c_proj.bias"])
    return x, norm


def see(weights, pixels):
    patches = conv2d(pixels[None], weights["visual.conv1.weight"], stride=8)[0].flatten(1).T
    x = torch.cat([weights["visual.class_embedding"][None], patches]) + weights["visual.positional_embedding"]
    x = layer_norm(x, x.shape[-1:], weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    x, norm = transformer(weights, "visual.", x)
    return norm("visual.ln_post", x[0]) @ weights["visual.proj"]


def read(weights, prompt):
    """Its tokenizer pads with 0 and cuts at the end, which it marks."""
    ids = tokenizer()(prompt).input_ids
    ids = torch.tensor([*ids[: CONTEXT - 1], ids[-1]] if len(ids) > CONTEXT else ids + [0] * (CONTEXT - len(ids)))
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"]
    x, norm = transformer(weights, "", x, torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))
    return norm("ln_final", x)[ids.argmax()] @ weights["text_projection"]


def published(folder, images, prompts):
    weights = torch.load(folder / FILE, weights_only=True)["state_dict"]
    pairs = [
        (see(weights, prepared(image)), read(weights, prompt)) for image, prompt in zip(images, prompts, strict=True)
    ]
    return torch.stack([torch.cosine_similarity(seen, said, dim=0) for seen, said in pairs])


@pytest.mark.parametrize("size", [*SIZES, (SIDE, 20), (30, 200)])
def test_it_is_the_published_cosine(folder, score, size):
    images = [picture(*size, seed) for seed in range(4)]
    expected = published(folder, images, PROMPTS)
    assert expected.std() > 0.02  # else anything would do
    assert torch.allclose(score(to_samples(*images), list(PROMPTS)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "size", [(224, 224), (512, 768), (3000, 4000), (301, 225), (1, 1), (1, 3), (1, 900), (100, 224)]
)
def test_pictures_are_set_on_black_as_published(size):
    image = picture(*size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = prepared(image, side=224) * std + mean
    assert torch.allclose(contained(to_samples(image), 224)[0], expected.float(), atol=1e-5)


def test_all_of_a_wide_picture_is_seen(score):
    samples = to_samples(picture(40, 120)).repeat(2, 1, 1, 1)
    samples[1, ..., :10] = 1 - samples[1, ..., :10]
    assert score(samples, ["a red circle"] * 2).diff().abs() > 1e-4


def test_the_checkpoint_may_be_named_itself(folder, score):
    samples = to_samples(picture(SIDE, SIDE))
    found = Hps(folder / FILE, folder)(samples, ["a red circle"])
    assert torch.allclose(found, score(samples, ["a red circle"]), atol=1e-6)


def test_the_activation_is_open_clips_whatever_the_config_says(folder, score, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"].pop("hidden_act") == config["vision_config"].pop("hidden_act") == "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(tmp_path)
    samples = to_samples(picture(SIDE, SIDE))
    found = Hps(folder, tmp_path)(samples, ["a red circle"])
    assert torch.allclose(found, score(samples, ["a red circle"]), atol=1e-6)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("visual.proj", "visual.proj"),
        ("visual.transformer.resblocks.1.attn.in_proj_bias", "visual.transformer.resblocks.1.attn.in_proj_bias[k]"),
        ("transformer.resblocks.0.ln_2.weight", "transformer.resblocks.0.ln_2.weight"),
        ("positional_embedding", "positional_embedding"),
    ],
)
def test_a_missing_weight_is_named_as_published(folder, score, tmp_path, missing, named):
    content = torch.load(folder / FILE, weights_only=True)
    del content["state_dict"][missing]
    torch.save(content, tmp_path / FILE)
    with pytest.raises(ValueError) as caught:
        Hps(tmp_path, folder).weights()
    assert str(caught.value) == f"checkpoint {tmp_path / FILE} has no weight for {named}; is it the published file?"


def test_a_base_of_another_size_is_refused(folder, score, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"must have a weight of shape \(48,\) for visual\.class_embedding, got \(24,\)"
    ):
        Hps(folder, tmp_path).weights()
