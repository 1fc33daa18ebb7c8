"""Latents of training pictures with their captions' tokens, encoded once and kept."""

from collections.abc import Callable
from pathlib import Path

import torch
from autoencoder import encode
from diffusers import AutoencoderKL
from loop import ahead, save_tensors
from safetensors.torch import load_file
from shapes_data import pictures
from torch import Tensor

EXAMPLES = 48_000
_BATCH = 64


def examples(
    path: Path,
    autoencoder: AutoencoderKL,
    tokenize: Callable[[list[str]], dict[str, list[list[int]]]],
    seed: int,
    most_relations: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (EXAMPLES, 8, 8, 8) in half precision, and tokens (EXAMPLES, length) by tokenizer, made once.

    Args:
        path: Where they are kept.
        autoencoder: Encodes the pictures.
        tokenize: Captions to token numbers, by the tokenizer's name.
        seed: Names the pictures; others than those the autoencoder was trained on.
        most_relations: Relations in a caption, at the most.
    """
    if not path.exists():
        latents: list[Tensor] = []
        captions: list[str] = []
        batches = ahead(lambda step: pictures(seed + 1000, step * _BATCH, _BATCH, most_relations), 0)
        for step, (images, texts) in zip(range(EXAMPLES // _BATCH), batches, strict=False):
            latents.append(encode(autoencoder, images).half().cpu())
            captions += texts if step % 5 else [_spoken(text) for text in texts]
        tokens = {name: torch.tensor(rows, dtype=torch.int16) for name, rows in tokenize(captions).items()}
        save_tensors(path, {"latents": torch.cat(latents), **tokens})
    stored = load_file(path)
    return stored.pop("latents"), stored


def _spoken(caption: str) -> str:
    """The same caption with "one" for "a"."""
    return " ".join("one" if word == "a" else word for word in caption.split(" "))
