"""HPSv3 against its authors' computation, written out from the names of their checkpoint."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import picture, to_samples
from tiny_qwen_vl import GROUPS, HEADS, SEEN, WIDTH, ids, seen, spelled, tokenizer
from torch.nn.functional import gelu, layer_norm, linear, rms_norm, silu, softmax

from evosearch import rewards
from evosearch.rewards import hps_v3
from evosearch.rewards.hps_v3 import HpsV3

FILE, MARK = "HPSv3.safetensors", "<|Reward|>"
QUESTION = Path(hps_v3.__file__).with_suffix(".txt").read_text("utf-8")
PROMPTS = ["a red circle", "two blue stars and a green square of a much longer prompt", "with <|Reward|> {text_prompt}"]
BASE = tokenizer(QUESTION)
WORDS = tokenizer(QUESTION, extra=[MARK])
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0, "hidden_act": "silu",
    "hidden_size": WIDTH, "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 32768,
    "max_window_layers": 2, "model_type": "qwen2_vl", "num_attention_heads": HEADS, "num_hidden_layers": 2,
    "num_key_value_heads": GROUPS, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 32768,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
    "vision_config": {
        "depth": 2, "embed_dim": SEEN, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3, "hidden_size": WIDTH,
        "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "vocab_size": 1200, **ids(BASE),
}  # fmt: skip


def weights(seed=0):
    """By their published names and in their precision; vocab_size of the config is that of the model before."""
    generator = torch.Generator().manual_seed(seed)
    merged, inner, side = 4 * SEEN, CONFIG["intermediate_size"], WIDTH // HEADS
    shapes = {
        "visual.patch_embed.proj.weight": (SEEN, 3, 2, 14, 14),
        "visual.merger.ln_q": (SEEN,),
        "visual.merger.mlp.0": (merged, merged),
        "visual.merger.mlp.2": (WIDTH, merged),
        "model.embed_tokens.weight": (len(WORDS), WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (len(WORDS), WIDTH),
        "rm_head.0": (1024, WIDTH),
        "rm_head.3": (16, 1024),
        "rm_head.5": (2, 16),
    }
    for i in range(2):
        block, layer = f"visual.blocks.{i}.", f"model.layers.{i}."
        shapes |= {f"{block}norm1": (SEEN,), f"{block}norm2": (SEEN,)}
        shapes |= {f"{block}attn.qkv": (3 * SEEN, SEEN), f"{block}attn.proj": (SEEN, SEEN)}
        shapes |= {f"{block}mlp.fc1": (2 * SEEN, SEEN), f"{block}mlp.fc2": (SEEN, 2 * SEEN)}
        shapes |= {f"{layer}self_attn.q_proj": (WIDTH, WIDTH), f"{layer}self_attn.o_proj.weight": (WIDTH, WIDTH)}
        shapes |= {f"{layer}self_attn.{part}_proj": (GROUPS * side, WIDTH) for part in "kv"}
        shapes |= {f"{layer}mlp.{part}_proj.weight": (inner, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj.weight": (WIDTH, inner)}
        shapes |= {f"{layer}{norm}_layernorm.weight": (WIDTH,) for norm in ("input", "post_attention")}
    found = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        scaled = 1 + 0.1 * drawn if len(shape) == 1 else drawn * 1.5 / math.prod(shape[1:]) ** 0.5
        own = name if name.endswith("weight") else f"{name}.weight"
        found[own] = scaled
        if own != name:
            found[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return {name: weight if name.startswith("rm_head") else weight.bfloat16() for name, weight in found.items()}


def save(folder, tensors):
    save_file(tensors, folder / FILE)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    BASE.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save(tmp_path_factory.mktemp("hps_v3"), weights())


@pytest.fixture(scope="module")
def score(place):
    return HpsV3(place, place, dtype=torch.float32, device="cpu")


def rounded(theta, width):
    """Frequencies of positions, in the precision of the model that was trained."""
    return (1 / theta ** (torch.arange(0, width, 2) / width)).bfloat16()


def turned(x, angles):
    """Rotary positions: x (heads, places, width), angles (places, width / 2), their cosines in their precision."""
    cos, sin = (f(torch.cat([angles, angles], -1)).float() for f in (torch.cos, torch.sin))
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def attended(q, k, v, mask=0.0):
    return (softmax(q @ k.mT / math.sqrt(q.shape[-1]) + mask, -1) @ v).transpose(0, 1).flatten(1)


def see(w, pixels, grid):
    """What the picture is to the language model, (tokens, WIDTH): patches come token by token."""
    tall, wide = grid
    rows = torch.arange(tall).view(tall // 2, 2, 1, 1).expand(-1, -1, wide // 2, 2).permute(0, 2, 1, 3).flatten()
    columns = torch.arange(wide).view(1, 1, wide // 2, 2).expand(tall // 2, 2, -1, -1).permute(0, 2, 1, 3).flatten()
    steps = rounded(1e4, SEEN // 2 // 2)
    angles = torch.cat([axis[:, None].bfloat16() * steps for axis in (rows, columns)], -1)

    def norm(name, x):
        return layer_norm(x, (SEEN,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def dense(name, x):
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = pixels @ w["visual.patch_embed.proj.weight"].flatten(1).T
    for i in range(2):
        block = f"visual.blocks.{i}."
        qkv = dense(f"{block}attn.qkv", norm(f"{block}norm1", x))
        q, k, v = qkv.unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)
        x = x + dense(f"{block}attn.proj", attended(turned(q, angles), turned(k, angles), v))
        inner = dense(f"{block}mlp.fc1", norm(f"{block}norm2", x))
        x = x + dense(f"{block}mlp.fc2", inner * (1.702 * inner).sigmoid())
    merged = norm("visual.merger.ln_q", x).view(-1, 4 * SEEN)
    return dense("visual.merger.mlp.2", gelu(dense("visual.merger.mlp.0", merged)))


def published(w, image, prompt):
    """Mean and logarithm of the deviation, of one picture."""
    pixels, grid = seen(image, least=200704, most=200704)
    before, after = QUESTION.replace("{text_prompt}", "\0").split("\0")
    message = spelled(before + "\1" + after, grid[0])
    head, tail = message.split("\1")
    tokens = WORDS(head.removesuffix(before))["input_ids"]
    told, rest = tail.split(MARK)
    tokens += WORDS(before + prompt + told, split_special_tokens=True)["input_ids"] + WORDS(MARK + rest)["input_ids"]
    tokens = torch.tensor(tokens)
    x = w["model.embed_tokens.weight"][tokens]
    x[tokens == CONFIG["image_token_id"]] = see(w, pixels, grid[0, 1:].tolist())
    angles = (
        torch.arange(len(tokens))[:, None] * rounded(1e6, WIDTH // HEADS).float()
    )  # one after the other, pictures too
    mask = torch.full((len(tokens),) * 2, -math.inf).triu(1)
    for i in range(2):
        layer = f"model.layers.{i}."
        normed = rms_norm(x, (WIDTH,), w[f"{layer}input_layernorm.weight"], 1e-6)
        q, k, v = (
            linear(normed, w[f"{layer}self_attn.{p}_proj.weight"], w[f"{layer}self_attn.{p}_proj.bias"])
            .unflatten(-1, (-1, WIDTH // HEADS))
            .transpose(0, 1)
            for p in "qkv"
        )
        k, v = (part.repeat_interleave(HEADS // GROUPS, 0) for part in (turned(k, angles), v))
        x = x + attended(turned(q, angles), k, v, mask) @ w[f"{layer}self_attn.o_proj.weight"].T
        normed = rms_norm(x, (WIDTH,), w[f"{layer}post_attention_layernorm.weight"], 1e-6)
        gate, up = (normed @ w[f"{layer}mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        x = x + (silu(gate) * up) @ w[f"{layer}mlp.down_proj.weight"].T
    x = rms_norm(x, (WIDTH,), w["model.norm.weight"], 1e-6)[tokens == WORDS.convert_tokens_to_ids(MARK)][0]
    for i in (0, 3, 5):
        x = linear(x if i == 0 else x.relu(), w[f"rm_head.{i}.weight"], w[f"rm_head.{i}.bias"])
    return x


def test_it_is_the_published_mean_and_deviation(score):
    images = [picture(40, 90, 0), picture(40, 90, 1), picture(40, 90, 2)]
    w = {name: weight.float() for name, weight in weights().items()}
    expected = torch.stack([published(w, image, prompt) for image, prompt in zip(images, PROMPTS, strict=True)])
    assert expected.std(0).min() > 0.01  # else anything would do
    samples = to_samples(*images)
    mean, deviation = score.distribution(samples, PROMPTS)
    assert torch.allclose(mean[:, 0], expected[:, 0], atol=3e-3)
    assert torch.allclose(deviation[:, 0].log(), expected[:, 1], atol=3e-3)
    assert torch.allclose(score(samples, PROMPTS), mean[:, 0], atol=1e-5)


def test_the_question_is_the_published_one():
    digest = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"  # of that in hpsv3 1.0.0
    assert hashlib.sha256(QUESTION.encode()).hexdigest() == digest


def test_names_of_transformers_since_4_52_are_known_too(score, tmp_path):
    def now(name):
        return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else f"model.{name}"

    renamed = {name if "_head" in name else now(name): weight for name, weight in weights().items()}
    other = HpsV3(save(tmp_path, renamed), tmp_path, dtype=torch.float32, device="cpu")
    samples = to_samples(picture(30, 30))
    assert torch.equal(other(samples, PROMPTS[:1]), score(samples, PROMPTS[:1]))


def test_a_video_has_the_mean_of_its_frames_in_one_pass_and_a_bad_sample_none(score):
    sizes = []
    hook = score.weights()[0].model.register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    samples = to_samples(*(picture(30, 30, seed) for seed in range(4)))
    alone = score(samples, [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2)
    samples[3, 0, 0, 0] = torch.nan
    found = score(samples.unflatten(0, (2, 2)), PROMPTS[:2])
    hook.remove()
    assert sizes == [4, 4]
    assert torch.allclose(found[0], alone[:2].mean(), atol=1e-4) and found[1].isnan()
    assert score(samples[:0], []).shape == (0,)


def test_it_has_a_gradient_that_points_up(score):
    samples = (0.25 + 0.5 * to_samples(picture(30, 30))).requires_grad_()
    value = score(samples, PROMPTS[:1])
    (gradient,) = torch.autograd.grad(value.sum(), samples)
    with torch.no_grad():
        assert score(samples + 2 * gradient / gradient.norm(), PROMPTS[:1]) > value
    assert score.differentiable


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("visual.merger.mlp.0.bias", "visual.merger.mlp.0.bias"),
        ("model.layers.1.self_attn.q_proj.bias", "model.layers.1.self_attn.q_proj.bias"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("rm_head.5.bias", "rm_head.5.bias"),
    ],
)
def test_a_missing_weight_is_named_as_published(tmp_path, missing, named):
    found = weights()
    del found[missing]
    save(tmp_path, found)
    with pytest.raises(ValueError) as caught:
        HpsV3(tmp_path, tmp_path).weights()
    assert str(caught.value) == f"checkpoint {tmp_path / FILE} has no weight for {named}; is it the published file?"


def test_the_tokenizer_must_be_that_of_the_checkpoint(place, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    WORDS.save_pretrained(tmp_path)
    assert HpsV3(place, tmp_path)  # which knows the mark already
    tokenizer("other").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"^tokenizer of .* must know {len(WORDS)} words as the model does, got"):
        HpsV3(place, tmp_path).weights()


def test_it_is_known_by_name_and_says_what_it_lacks():
    with pytest.raises(ValueError, match=r"^HPSv3.safetensors of model 'MizzenAI/HPSv3' cannot be had: .*; check"):
        rewards.load("hps-v3")
