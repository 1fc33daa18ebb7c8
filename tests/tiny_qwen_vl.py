"""Small Qwen-VLs in the published formats, and what their authors' code gives them, one message at a time."""

import json
import math

import torch
from PIL import Image
from tiny_clip import shaken
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
SPARE = 9  # words that the model has room for, and the tokenizer does not know
HEADS, GROUPS, WIDTH, SEEN = 4, 2, 32, 32


def tokenizer(*texts, extra=()):
    """Qwen's, of bytes and a few hundred pairs of them that occur in texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    made.train_from_iterator([*texts, *["Yes", "No", "yes", "no", " Yes", " no"] * 50], trainer)
    learnt = json.loads(made.to_str())["model"]
    found = Qwen2Tokenizer(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]])
    found.add_tokens([*MARKS, *extra], special_tokens=True)
    found.pad_token, found.eos_token = MARKS[0], MARKS[2]
    return found


def ids(words):
    return {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": len(words) + 5,
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }


def text_config(words, **changed):
    return {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS, "vocab_size": len(words) + SPARE, "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, **changed,
    }  # fmt: skip


def qwen2_5(words, tied=False, **changed):
    vision = {
        "depth": 2, "hidden_size": SEEN, "intermediate_size": 40, "num_heads": 2, "out_hidden_size": WIDTH,
        "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text_config(words, **changed), vision_config=vision, tie_word_embeddings=tied, **ids(words)
    )
    return shaken(Qwen2_5_VLForConditionalGeneration(config))


def qwen2(words, tied=False, **changed):
    vision = {"depth": 2, "embed_dim": SEEN, "num_heads": 2, "hidden_size": WIDTH, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=text_config(words, **changed), vision_config=vision, tie_word_embeddings=tied, **ids(words)
    )
    return shaken(Qwen2VLForConditionalGeneration(config))


def folder(path, model, words):
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def smart_size(height, width, least, most, factor=28):
    """As qwen-vl-utils has it."""
    tall, wide = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
    if tall * wide > most:
        beta = math.sqrt(height * width / most)
        tall, wide = math.floor(height / beta / factor) * factor, math.floor(width / beta / factor) * factor
    elif tall * wide < least:
        beta = math.sqrt(least / (height * width))
        tall, wide = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return tall, wide


def seen(image, least=3136, most=16384 * 784):
    """What transformers' processor makes of a picture that qwen-vl-utils has resized: patches and their grid."""
    tall, wide = smart_size(image.height, image.width, least, most)
    resized = image.convert("RGB").resize((wide, tall), Image.BICUBIC)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 16384 * 784})
    found = processor(images=[resized], return_tensors="pt")
    return found["pixel_values"], found["image_grid_thw"]


def spelled(text, *grids):
    """A message with its pictures, and the beginning of an answer, as the published template has it."""
    pictures = "".join(f"<|vision_start|>{'<|image_pad|>' * int(g.prod() // 4)}<|vision_end|>" for g in grids)
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{pictures}{text}<|im_end|>\n<|im_start|>assistant\n"
    )


def given(words, text, *images, **sizes):
    """What a model is given of one message."""
    pixels, grids = zip(*(seen(image, **sizes) for image in images), strict=True)
    tokens = torch.tensor([words(spelled(text, *(g[0] for g in grids)))["input_ids"]])
    return {
        "input_ids": tokens,
        "mm_token_type_ids": (tokens == words.convert_tokens_to_ids("<|image_pad|>")).int(),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.cat(grids),
    }
