"""A small CLIP in the published formats, and what its authors' code makes of a picture, one PIL image at a time."""

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

SIDE, CONTEXT = 32, 24
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = (
    "a red circle",
    "two blue stars and a very long tail of words that no model reads to its end",
    "",
    "A RED circle",
)
SIZES = [(32, 32), (64, 96), (97, 64), (45, 130), (301, 200), (7, 5), (1, 1), (1, 9)]


def tokenizer():
    """CLIP's, of single letters; a word's last letter is a token of its own, as with the published one."""
    letters = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(vocab={token: i for i, token in enumerate(letters)}, merges=[])
    made.model_max_length = CONTEXT
    return made


def shaken(model, seed=0):
    """Random weights so large that pictures and prompts differ; new models' are nearly the same for all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim:  # the logit scale is what it is
                norm = weight.ndim == 1 and name.endswith("weight")
                weight.copy_(float(norm) + torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


def clip(eos=None, **vision):
    """Published configs say that the last token's id is 2, and are read as "the highest"."""
    words = len(LETTERS) * 2 + 2
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": words - 2, "eos_token_id": words - 1 if eos is None else eos, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**text, "vocab_size": words, "max_position_embeddings": CONTEXT, **tokens},
        vision_config={**text, "hidden_size": 24, "image_size": SIDE, "patch_size": 8, **vision},
        projection_dim=12,
    )
    return shaken(CLIPModel(config))


def folder(path, **options):
    """Where it is saved by transformers, with its tokenizer."""
    clip(**options).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def picture(height, width, seed=0):
    """Coarse noise: its edges overshoot when they are resized."""
    rng = np.random.default_rng([height, width, seed])
    coarse = rng.integers(0, 256, (-(-height // 3), -(-width // 3), 3), dtype=np.uint8)
    return Image.fromarray(np.repeat(np.repeat(coarse, 3, 0), 3, 1)[:height, :width].copy())


def to_samples(*images):
    return torch.stack([torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0) / 255 for image in images])


def reference(image, crop="torchvision", side=SIDE):
    """Resize, CenterCrop, ToTensor and Normalize, as torchvision and transformers have them for PIL images."""
    image = image.convert("RGB")
    width, height = image.size
    if width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    pixels = np.asarray(image.resize((width, height), Image.BICUBIC))
    rounded = {"torchvision": lambda x: round(x / 2.0), "transformers": lambda x: x // 2}[crop]
    top, left = rounded(height - side), rounded(width - side)
    pixels = pixels[top : top + side, left : left + side]
    return torch.from_numpy((pixels / 255 - MEAN) / STD).movedim(-1, 0).float()


def embedded(path, images, prompts, crop="torchvision"):
    """What the saved model says by plain transformers, one at a time: unit vectors of pictures and prompts."""
    model, words = CLIPModel.from_pretrained(path), CLIPTokenizer.from_pretrained(path)
    seen, read = [], []
    for image, prompt in zip(images, prompts, strict=True):
        tokens = words([prompt], padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with torch.no_grad():
            output = model(pixel_values=reference(image, crop)[None], **tokens)
        seen.append(output.image_embeds[0])
        read.append(output.text_embeds[0])
    return torch.stack(seen), torch.stack(read)
