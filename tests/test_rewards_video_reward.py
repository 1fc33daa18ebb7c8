"""VideoReward against its authors' formula, written out from the names of their checkpoint, LoRA apart."""

import hashlib
import json
import math
import re

import pytest
import tiny_qwen
import tiny_videos
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_qwen import clip, prepared
from tiny_videos import ALPHA, FILE, MOST, OUTER, QUESTION, RANK
from torch.nn.functional import gelu, layer_norm, linear, silu, softmax
from transformers import Qwen2Tokenizer

from evosearch import rewards
from evosearch.rewards import video_reward
from evosearch.rewards.qwen_video import LEAST_PIXELS, sampled
from evosearch.rewards.qwen_vl import sized
from evosearch.rewards.video_reward import VideoReward

MARKS = ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]
NORM = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
PROMPTS = ["a red circle moves to the left", "two blue stars", "", "a dog runs on the beach, and the camera follows"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video_reward")


@pytest.fixture(scope="module")
def score(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return tiny_videos.video_reward(folder)


def made(folder, **options):
    return VideoReward(folder, folder, **{"dtype": torch.float32, **options})


def videos_of(count, size=(4, 40, 56)):
    return torch.stack([clip(*size, seed) for seed in range(count)])


class Weights:
    """The checkpoint's, as layers."""

    def __init__(self, path):
        self.all = {name: weight.float() for name, weight in torch.load(path, weights_only=True).items()}

    def __getitem__(self, name):
        return self.all[OUTER + name]

    def linear(self, name, x):
        return linear(x, self[f"{name}.weight"], self.all.get(f"{OUTER}{name}.bias"))

    def adapted(self, name, x):
        change = linear(linear(x, self[f"{name}.lora_A.default.weight"]), self[f"{name}.lora_B.default.weight"])
        return self.linear(f"{name}.base_layer", x) + ALPHA / RANK * change

    def norm(self, name, x):
        return layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], 1e-6)

    def rms(self, name, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6) ** -0.5 * self[f"{name}.weight"]


def turned(x, angles):
    """Rotary positions, (L, heads, D) by (L, D / 2), each half with the other."""
    left, right = x.chunk(2, -1)
    cos, sin = (part.float()[:, None] for part in (angles.cos(), angles.sin()))
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def attend(q, k, v, mask=0.0):
    """(L, heads, D)."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return (softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + mask, -1) @ v).transpose(0, 1).flatten(1)


def see(weights, rows, grid):
    """Qwen2-VL's vision: each pair of frames attends to itself; places are turned in bfloat16."""
    _, tall, wide = grid[0].tolist()
    x = rows @ weights["visual.patch_embed.proj.weight"].flatten(1).T
    down, across = (axis.reshape(tall // 2, 2, wide // 2, 2).transpose(1, 2).flatten() for axis in torch.meshgrid(
        torch.arange(tall), torch.arange(wide), indexing="ij"))  # fmt: skip
    frequencies = 10000 ** (-torch.arange(0, 8, 2) / 8)
    places = torch.stack([down, across], 1)[..., None].bfloat16() * frequencies.bfloat16()
    frames = []
    for frame in x.split(tall * wide):
        for i in range(2):
            block = f"visual.blocks.{i}."
            q, k, v = weights.linear(f"{block}attn.qkv", weights.norm(f"{block}norm1", frame)).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (2, 16)) for part in (q, k, v))
            q, k = (turned(part, places.flatten(1)) for part in (q, k))
            frame = frame + weights.linear(f"{block}attn.proj", attend(q, k, v))
            inner = weights.linear(f"{block}mlp.fc1", weights.norm(f"{block}norm2", frame))
            frame = frame + weights.linear(f"{block}mlp.fc2", inner * torch.sigmoid(1.702 * inner))
        frames.append(frame)
    merged = weights.norm("visual.merger.ln_q", torch.cat(frames)).unflatten(0, (-1, 4)).flatten(1)
    return weights.linear("visual.merger.mlp.2", gelu(weights.linear("visual.merger.mlp.0", merged)))


def read(weights, x):
    """Qwen2: of 4 heads, two share what they look at; words and the video's tokens are counted through."""
    frequencies = (1e6 ** (-torch.arange(0, 8, 2) / 8)).bfloat16().float()
    angles = torch.arange(len(x))[:, None] * frequencies
    mask = torch.full((len(x), len(x)), -math.inf).triu(1)
    for i in range(2):
        layer = f"model.layers.{i}."
        y = weights.rms(f"{layer}input_layernorm", x)
        q, k, v = (weights.adapted(f"{layer}self_attn.{part}_proj", y).unflatten(-1, (-1, 8)) for part in "qkv")
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        x = x + weights.adapted(f"{layer}self_attn.o_proj", attend(turned(q, angles), turned(k, angles), v, mask))
        y = weights.rms(f"{layer}post_attention_layernorm", x)
        gate, up = (weights.adapted(f"{layer}mlp.{part}_proj", y) for part in ("gate", "up"))
        x = x + weights.adapted(f"{layer}mlp.down_proj", silu(gate) * up)
    return weights.rms("model.norm", x)


def published(folder, videos, prompts, rate=16):
    """The three parts of each video, one at a time, (N, 3)."""
    weights = Weights(folder / FILE)
    words = Qwen2Tokenizer.from_pretrained(folder)
    words.add_special_tokens({"extra_special_tokens": MARKS})
    pad, *marks = words.convert_tokens_to_ids(["<|video_pad|>", *MARKS])
    scores = []
    for video, prompt in zip(videos, prompts, strict=True):
        rows, grid = prepared(video, rate, MOST)
        seen = see(weights, rows, grid)
        ids = torch.tensor(words(tiny_qwen.text_of(QUESTION.format(text_prompt=prompt), len(seen)))["input_ids"])
        x = weights["model.embed_tokens.weight"][ids]
        x[ids == pad] = seen
        logits = read(weights, x) @ weights["rm_head.weight"][0]
        raw = [logits[ids == mark].item() for mark in marks]
        scores.append([(value - mean) / std for value, (mean, std) in zip(raw, NORM.values(), strict=True)])
    return torch.tensor(scores)


SIZES = [(5, 56, 60), (17, 320, 200), (4, 30, 90), (81, 40, 40), (3, 700, 500)]


@pytest.mark.parametrize(("size", "error"), [*((size, 0.01) for size in SIZES), ((2, 336, 336), 1e-4)])
def test_it_is_the_published_formula(folder, score, size, error):
    videos = videos_of(2, size)
    expected = published(folder, videos, PROMPTS[:2])
    assert (expected[0] - expected[1]).abs().max() > 5 * error  # else anything would do
    assert torch.allclose(score.rated(videos, PROMPTS[:2]), expected, atol=error)
    assert torch.allclose(score(videos, PROMPTS[:2]), expected.sum(1), atol=2 * error)


@pytest.mark.parametrize("rate", [8, 30.5])
def test_frames_are_chosen_by_the_videos_frame_rate(folder, score, rate):
    videos = clip(41, 40, 40)[None]
    expected = published(folder, videos, PROMPTS[:1], rate)
    assert torch.allclose(score.at_frame_rate(rate).rated(videos, PROMPTS[:1]), expected, atol=0.02)
    assert not torch.allclose(score.rated(videos, PROMPTS[:1]), expected, atol=0.1)


def test_two_frames_a_second_are_looked_at_and_four_at_least():
    assert sampled(81, 16, 2) == [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]
    assert len(sampled(97, 24, 2)) == 8 and len(sampled(97, 24, 2, math.floor)) == 8  # of 8.1
    assert len(sampled(29, 8, 2)) == 8 and len(sampled(29, 8, 2, math.floor)) == 6  # of 7.25
    assert sampled(2, 16, 2) == [0, 1] and sampled(3, 16, 2) == [0, 2] and sampled(5, 16, 2) == [0, 1, 3, 4]
    assert len(sampled(100_000, 1, 2)) == 768


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (27, 29), (480, 832), (2160, 3840), (447, 449), (20, 3000)])
@pytest.mark.parametrize("most", [MOST, 602112])
def test_sizes_are_the_published_ones(size, most):
    height, width = sized(*size, 28, LEAST_PIXELS, most)
    assert (height, width) == tiny_qwen.smart_size(*size, 128 * 784, most)
    assert height % 28 == width % 28 == 0 and 0 < height * width <= most * 1.4


@pytest.mark.parametrize("size", [(2, 56, 60), (3, 1, 1), (2, 3, 300), (4, 449, 333), (2, 1200, 1000)])
def test_patches_are_the_published_ones(score, size):
    video = clip(*size)
    given = score._qwen.inputs(video[None, sampled(len(video), 16, 2)], "", [""])
    rows, grid = given["pixel_values_videos"], given["video_grid_thw"]
    expected, places = prepared(video, 16, MOST)
    assert torch.equal(grid, places)
    error = (rows - expected).abs() * 255 * 0.27
    assert error.max() < 1.2 and (error > 0.1).float().mean() < 0.005  # next to each other, where a half is rounded


def test_each_part_can_be_asked_for_alone_and_the_weights_are_shared(folder, score):
    videos, prompts = videos_of(2), PROMPTS[:2]
    parts = score.rated(videos, prompts)
    for k, name in enumerate(NORM):
        assert torch.equal(made(folder, dimension=name)(videos, prompts), parts[:, k])
        assert torch.equal(score.only(name)(videos, prompts), parts[:, k])
        assert score.only(name).weights is score.weights and rewards.name_of(score.only(name)) == f"video_reward {name}"
    assert torch.equal(score(videos, prompts), parts.sum(1)) and rewards.name_of(score) == "video_reward"
    with pytest.raises(ValueError, match=r"^dimension must be one of Overall, VQ, MQ, TA, got 'vq'$"):
        score.only("vq")


def test_the_checkpoint_may_be_named_itself(folder, score):
    videos = videos_of(1)
    by_file = VideoReward(folder / FILE, folder, dtype=torch.float32)
    assert torch.equal(by_file(videos, PROMPTS[:1]), score(videos, PROMPTS[:1]))


def test_bfloat16_merges_near_what_it_was_trained_with(folder, score):
    videos = videos_of(4)
    half, whole = made(folder, dtype=torch.bfloat16).rated(videos, PROMPTS), score.rated(videos, PROMPTS)
    assert half.dtype == torch.float32
    assert 0 < (half - whole).abs().mean() < 0.1 * whole.std()


def test_it_has_a_gradient_that_points_up(score):
    assert score.differentiable
    videos = (0.25 + 0.5 * torch.stack([clip(4, 60, 56)])).requires_grad_()
    value = score(videos, PROMPTS[:1])
    (gradient,) = torch.autograd.grad(value.sum(), videos)
    with torch.no_grad():
        assert score(videos + 0.5 * gradient / gradient.norm(), PROMPTS[:1]) > value


@pytest.mark.parametrize(
    "missing",
    [
        f"{OUTER}rm_head.weight",
        f"{OUTER}model.embed_tokens.weight",
        f"{OUTER}visual.blocks.1.attn.qkv.bias",
        f"{OUTER}model.layers.1.self_attn.q_proj.base_layer.bias",
        f"{OUTER}model.layers.0.mlp.up_proj.lora_B.default.weight",
    ],
)
def test_a_missing_weight_is_named_as_published(folder, tmp_path, missing):
    weights = torch.load(folder / FILE, weights_only=True)
    del weights[missing]
    (tmp_path / "checkpoint-11352").mkdir()
    torch.save(weights, tmp_path / FILE)
    (tmp_path / "model_config.json").write_text((folder / "model_config.json").read_text())
    with pytest.raises(ValueError, match=rf"model\.pth has no weight for {missing}; is it the published file\?$"):
        VideoReward(tmp_path, folder).weights()


def test_changes_are_merged_once_and_kept(folder, score, tmp_path, monkeypatch):
    monkeypatch.setenv("EVOSEARCH_CACHE", str(tmp_path / "kept"))
    videos, merge, merged = videos_of(1), video_reward._merged, []
    monkeypatch.setattr(video_reward, "_merged", lambda *given: merged.append(given[2]) or merge(*given))
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        made(folder, dtype=dtype).weights()
    assert merged == [torch.float32, torch.bfloat16]
    assert torch.equal(made(folder)(videos, PROMPTS[:1]), score(videos, PROMPTS[:1]))
    files = sorted((tmp_path / "kept").iterdir())
    names = [re.fullmatch(r"model-[0-9a-f]{16}-merged-alpha12-(.+)\.safetensors", file.name)[1] for file in files]
    assert names == ["bfloat16", "float32"]
    with safe_open(files[0], "pt") as kept:
        assert kept.metadata()["sha256"] == hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
        assert not [name for name in kept.keys() if "lora" in name]  # noqa: SIM118


def test_a_safetensors_checkpoint_is_merged_too(folder, score, tmp_path):
    (tmp_path / "checkpoint-11352").mkdir()
    save_file(torch.load(folder / FILE, weights_only=True), tmp_path / "checkpoint-11352" / "model.safetensors")
    (tmp_path / "model_config.json").write_text((folder / "model_config.json").read_text())
    other = VideoReward(tmp_path / "checkpoint-11352" / "model.safetensors", folder, dtype=torch.float32)
    assert torch.equal(other(videos_of(1), PROMPTS[:1]), score(videos_of(1), PROMPTS[:1]))


def test_the_scale_of_the_low_rank_changes_is_that_of_the_settings(folder, score, tmp_path):
    (tmp_path / "checkpoint-11352").symlink_to(folder / "checkpoint-11352")
    settings = json.loads((folder / "model_config.json").read_text())
    videos = clip(4, 40, 56)[None]
    settings["peft_lora_config"] |= {"lora_alpha": ALPHA / RANK**0.5, "use_rslora": True}  # another way to say the same
    (tmp_path / "model_config.json").write_text(json.dumps(settings))
    same = VideoReward(tmp_path, folder, dtype=torch.float32)
    assert torch.allclose(same(videos, PROMPTS[:1]), score(videos, PROMPTS[:1]), atol=1e-4)
    del settings["peft_lora_config"]["lora_alpha"]
    (tmp_path / "model_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"^config model_config\.json of .* says nothing of lora_alpha; is it"):
        VideoReward(tmp_path, folder).weights()
