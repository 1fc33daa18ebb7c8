"""A CLIP by batch: what it sees in pictures and reads in prompts. Not a reward; several are made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.rewards.pixels import by_batch, finite


def device_of(device: torch.device | str | None) -> torch.device:
    """This device; the GPU if there is one and none is named. ValueError for what torch knows no device by."""
    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f"device must be one that torch knows, as 'cpu' or 'cuda:1', got {device!r}") from None


class Clip:
    """Unit vectors of pictures and prompts, by a CLIP of transformers.

    Args:
        model: A ``CLIPModel``; where no prompts are read, it needs no text model.
        prepare: What to make of frames (N, 3, H, W) in [0, 1] before the model sees them.
        device: Where it computes; None: the GPU if there is one.
        batch_size: Pictures or prompts at a time.
        tokenizer: The model's.
    """

    def __init__(
        self,
        model: Any,
        prepare: Callable[[Tensor], Tensor],
        device: torch.device | str | None,
        batch_size: int,
        tokenizer: Any = None,
    ) -> None:
        self.device = device_of(device)
        self.model, self._prepare, self._tokenizer = model.to(self.device), prepare, tokenizer
        self._batch_size = batch_size
        self._known: dict[str, Tensor] = {}

    @property
    def words(self) -> dict[str, int]:
        """What it reads, by the numbers that they have."""
        return {} if self._tokenizer is None else self._tokenizer.get_vocab()

    def pictures(self, samples: Tensor) -> Tensor:
        """What it sees in the frames of samples (N, [F,] 3, H, W): (N, F, D) float32; NaN in one that is not finite."""
        if not len(samples):
            return torch.zeros(0, 1, self.model.config.projection_dim, device=self.device)
        seen = by_batch(self._see, samples.flatten(0, -4), self._batch_size)
        seen = seen.unflatten(0, (len(samples), samples.shape[1] if samples.ndim == 5 else 1))
        return seen.masked_fill(~finite(samples).to(seen.device)[:, None, None], torch.nan)

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """What it reads in prompts, (N, D) float32; each is read once, and no more of it than the model can take."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        for start in range(0, len(new), self._batch_size):
            some = new[start : start + self._batch_size]
            self._known.update(zip(some, self._read(some), strict=True))
        read = [self._known[prompt] for prompt in prompts]
        return torch.stack(read) if read else torch.zeros(0, self.model.config.projection_dim, device=self.device)

    def cosines(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """Similarity of each frame of samples (N, [F,] 3, H, W) and its prompt in [-1, 1], (N, F)."""
        return (self.pictures(samples) * self.prompts(prompts)[:, None]).sum(-1)

    def _see(self, frames: Tensor) -> Tensor:
        pixels = self._prepare(frames.to(self.device, torch.float32))
        seen = self.model.vision_model(pixels).pooler_output  # which takes them to its own precision
        return functional.normalize(self.model.visual_projection(seen).float(), dim=-1)

    def _read(self, prompts: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        read = self.model.text_model(**tokens.to(self.device)).pooler_output
        return functional.normalize(self.model.text_projection(read).float(), dim=-1)
