"""Latents of training samples with their captions' tokens, encoded once and kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loop import ahead, save_tensors
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

EXAMPLES = 48_000
_BATCH = 64


def examples(
    path: Path,
    seed: int,
    draw: Callable[[int, int, int], tuple[Tensor, list[str]]],
    autoencoder: nn.Module,
    encode: Callable[[Any, Tensor], Tensor],
    tokenize: Callable[[list[str]], dict[str, list[list[int]]]],
    count: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents (count, ...) in half precision, and tokens (count, length) by tokenizer, made once.

    Args:
        path: Where they are kept; they are made anew where those there are of another seed, number or autoencoder.
        seed: Of the samples.
        draw: Seed, start and number to pictures or clips and their captions.
        autoencoder: What encodes them.
        encode: Autoencoder and samples to latents.
        tokenize: Captions to token numbers, by the tokenizer's name.
        count: How many; EXAMPLES by default.
    """
    count = count or EXAMPLES
    facts = {"seed": str(seed), "count": str(count), "autoencoder": _fingerprint(autoencoder)}
    if _facts(path) != facts:
        latents: list[Tensor] = []
        captions: list[str] = []
        batches = ahead(lambda step: draw(seed, step * _BATCH, _BATCH), 0)
        for step, (samples, texts) in zip(range(count // _BATCH), batches, strict=False):
            latents.append(encode(autoencoder, samples).half().cpu())
            captions += texts if step % 5 else [_spoken(text) for text in texts]
        tokens = {name: torch.tensor(rows, dtype=torch.int16) for name, rows in tokenize(captions).items()}
        save_tensors(path, {"latents": torch.cat(latents), **tokens}, facts)
    stored = load_file(path)
    return stored.pop("latents"), stored


def _facts(path: Path) -> dict[str, str] | None:
    """What the latents in a file were made from; None where there is no file."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return file.metadata()


def _fingerprint(model: nn.Module) -> str:
    """First digits of the SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _spoken(caption: str) -> str:
    """The same caption with "one" for "a"."""
    return " ".join("one" if word == "a" else word for word in caption.split(" "))
