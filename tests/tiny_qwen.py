"""A small Qwen2-VL and Qwen2.5-VL in the published formats, and what their authors' code makes of a video."""

import json
import math
from functools import cache
from itertools import product

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}  # fmt: skip
VISION = {
    "depth": 2,
    "num_heads": 2,
    "in_chans": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


@cache
def words(text):
    """Byte pairs of a text, and the digits."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def tokenizer(text):
    """Qwen's, with what is between a chat's parts as marks."""
    vocab, merges = words(text)
    made = Qwen2Tokenizer(vocab=dict(vocab), merges=list(merges))
    made.add_tokens(list(MARKS), special_tokens=True)
    return made


def flat(tokenizer, words):
    """A config as those before transformers 5 are on the hub: the language model's settings lie among the others."""
    image, video = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    start, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "torch_dtype": "bfloat16",
        "vocab_size": words, "image_token_id": image, "video_token_id": video, "vision_start_token_id": start,
        "vision_end_token_id": end, "bos_token_id": start, "eos_token_id": end, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6, **TEXT,
        "vision_config": {**VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "model_type": "qwen2_vl"},
    }  # fmt: skip


def shaken(model, seed=0, size=0.5):
    """Random weights so large that videos and prompts differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = weight.ndim == 1 and name.endswith("weight")
            scale = 0.2 if weight.ndim == 1 else size / math.sqrt(weight[0].numel()) * 2
            weight.copy_(float(norm) + torch.randn(weight.shape, generator=generator) * scale)
    return model.eval()


def clip(frames, height, width, seed=0):
    """A video (F, 3, H, W) of coarse noise, 8 bits, that changes from frame to frame."""
    rng = np.random.default_rng([frames, height, width, seed])
    coarse = rng.integers(0, 256, (frames, -(-height // 5), -(-width // 5), 3), dtype=np.uint8)
    pixels = np.repeat(np.repeat(coarse, 5, 1), 5, 2)[:, :height, :width]
    return torch.from_numpy(pixels.copy()).movedim(-1, 1).float() / 255


def smart_size(height, width, least, most):
    """qwen_vl_utils's smart_resize, of factor 28."""
    tall, wide = max(28, round(height / 28) * 28), max(28, round(width / 28) * 28)
    if tall * wide > most:
        beta = math.sqrt(height * width / most)
        return math.floor(height / beta / 28) * 28, math.floor(width / beta / 28) * 28
    if tall * wide < least:
        beta = math.sqrt(least / (height * width))
        return math.ceil(height * beta / 28) * 28, math.ceil(width * beta / 28) * 28
    return tall, wide


def resized(frame, height, width):
    """A frame (3, H, W) of 8 bits by the weights of a bicubic resize with antialias, written out; rounded once."""

    def weights(before, after):
        scale = before / after
        support = 2 * max(scale, 1)
        rows = np.zeros((after, before))
        for k in range(after):
            centre = (k + 0.5) * scale
            first, last = max(0, int(centre - support + 0.5)), min(before, int(centre + support + 0.5))
            x = np.abs((np.arange(first, last) + 0.5 - centre) / max(scale, 1))
            near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            cubic = np.where(x < 1, near, np.where(x < 2, far, 0))
            rows[k, first:last] = cubic / cubic.sum()
        return rows

    pixels = np.round(frame.double().numpy() * 255)
    down, across = weights(pixels.shape[1], height), weights(pixels.shape[2], width)
    return np.clip(np.round(down @ pixels @ across.T), 0, 255)


def cut(frames):
    """Frames (F, 3, H, W) in [0, 255] as rows of patches, token by token: of two frames, two by two of 14 pixels."""
    pixels = (frames / 255 - MEAN[:, None, None]) / STD[:, None, None]
    rows = []
    for time in range(0, len(pixels), 2):
        for down in range(0, pixels.shape[2], 28):
            for across in range(0, pixels.shape[3], 28):
                for top in (down, down + 14):
                    for left in (across, across + 14):
                        patch = pixels[time : time + 2, :, top : top + 14, left : left + 14]
                        rows.append(patch.transpose(1, 0, 2, 3).reshape(-1))
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def prepared(video, rate, most, fps=2, whole=round):
    """Patches and grid of a video (F, 3, H, W), as qwen_vl_utils and Qwen's processor make them."""
    total = len(video)
    least, top = 4, math.floor(min(768, total) / 2) * 2
    count = whole(min(max(total / rate * fps, least), top) / 2) * 2
    chosen = [round(k * (total - 1) / (count - 1)) for k in range(count)]
    height, width = smart_size(*video.shape[-2:], 128 * 28 * 28, most)
    frames = np.stack([resized(video[k], height, width) for k in chosen])
    return cut(frames), torch.tensor([[count // 2, height // 14, width // 14]])


def text_of(question, tokens):
    """The chat's template with the video's marks put in."""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|video_pad|>" * tokens
        + f"<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def answering(question, answer):
    """A Qwen2.5-VL of random weights that is pushed to answer, but free to choose among five digits for each rating.

    Its generation config pushes: after the last words of the chat, or of the answer, the next one is made likely.

    Args:
        question: From which the tokenizer has its words.
        answer: With places for ratings.
    """
    words = tokenizer(question)
    config = flat(words, len(words) + 9)
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    ids = {name: value for name, value in config.items() if name.endswith("token_id")}
    end, text = ids["eos_token_id"], {**TEXT, "vocab_size": config["vocab_size"], "rms_norm_eps": 1e-6}
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**text, "bos_token_id": None, "eos_token_id": end},
            vision_config={**VISION, **vision, "tokens_per_second": 2, "window_size": 112},
            **ids,
        )
    )
    said = words(f"assistant\n{answer.replace('{}', '3')}")["input_ids"]
    three, begun = words.convert_tokens_to_ids("3"), len(words("assistant\n")["input_ids"])
    digits = words.convert_tokens_to_ids(list("12345"))
    pushed = set()
    for k in range(begun, len(said)):
        choices = [digits if token == three else [token] for token in said[max(0, k - 5) : k + 1]]
        pushed |= set(product(*choices))
    model.generation_config.update(
        eos_token_id=end, pad_token_id=end, repetition_penalty=1.05, sequence_bias=[[list(row), 12.0] for row in pushed]
    )
    return shaken(model)
