"""Latents of training samples with their captions' tokens, encoded once and kept."""

from collections.abc import Callable
from pathlib import Path

import torch
from loop import ahead, save_tensors
from safetensors.torch import load_file
from torch import Tensor

EXAMPLES = 48_000
_BATCH = 64


def examples(
    path: Path,
    draw: Callable[[int, int], tuple[Tensor, list[str]]],
    encode: Callable[[Tensor], Tensor],
    tokenize: Callable[[list[str]], dict[str, list[list[int]]]],
    count: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (count, ...) in half precision, and tokens (count, length) by tokenizer, made once.

    Args:
        path: Where they are kept.
        draw: Start and number to pictures or clips and their captions.
        encode: Samples to latents.
        tokenize: Captions to token numbers, by the tokenizer's name.
        count: How many; EXAMPLES by default.
    """
    if not path.exists():
        latents: list[Tensor] = []
        captions: list[str] = []
        batches = ahead(lambda step: draw(step * _BATCH, _BATCH), 0)
        for step, (samples, texts) in zip(range((count or EXAMPLES) // _BATCH), batches, strict=False):
            latents.append(encode(samples).half().cpu())
            captions += texts if step % 5 else [_spoken(text) for text in texts]
        tokens = {name: torch.tensor(rows, dtype=torch.int16) for name, rows in tokenize(captions).items()}
        save_tensors(path, {"latents": torch.cat(latents), **tokens})
    stored = load_file(path)
    return stored.pop("latents"), stored


def _spoken(caption: str) -> str:
    """The same caption with "one" for "a"."""
    return " ".join("one" if word == "a" else word for word in caption.split(" "))
