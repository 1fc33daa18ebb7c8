"""A Qwen-VL by batch: pictures, and a text to each, as its chat has them. Not a reward; several are made of it.

Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024,
arXiv:2409.12191; Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv:2502.13923. Pictures are resized as by the
package qwen-vl-utils, with which the rewards were made, and with a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evosearch.rewards.checkpoints import pretrained, tokenizer_of
from evosearch.rewards.clip import device_of
from evosearch.rewards.pixels import eight_bit, finite, normalised, resized

LEAST_PIXELS, MOST_PIXELS = 4 * 28**2, 16384 * 28**2
"""Of a picture that Qwen-VL sees, unless it is told otherwise."""

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_BEGIN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_OPEN, _PICTURE, _CLOSE = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
_END = "<|im_end|>\n<|im_start|>assistant\n"


class QwenVL:
    """Scores of pictures and texts, by a Qwen2-VL or Qwen2.5-VL of transformers.

    Args:
        model: Of one of the `FAMILIES`; its config says how large patches and tokens are.
        tokenizer: The model's.
        device: Where it computes; None: the GPU if there is one.
        batch_size: Messages at a time.
        least: Pixels of a picture; smaller ones are enlarged.
        most: Pixels of a picture; larger ones are made smaller.

    Raises:
        ValueError: The tokenizer is another model's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str | None,
        batch_size: int,
        least: int = LEAST_PIXELS,
        most: int = MOST_PIXELS,
    ) -> None:
        self.device = device_of(device)
        self.model, self.tokenizer = model.to(self.device), tokenizer
        self._batch_size, self._least, self._most = batch_size, least, most
        vision = model.config.vision_config
        self._patch: int = vision.patch_size
        self._merge: int = vision.spatial_merge_size
        self._times: int = vision.temporal_patch_size
        self._image: int = model.config.image_token_id
        if tokenizer.convert_tokens_to_ids(_PICTURE) != self._image:
            raise ValueError(
                f"tokenizer must know {_PICTURE} as word {self._image}, as the model does; are all of its files there?"
            )

    def stills(
        self, judge: Callable[[dict[str, Tensor]], Tensor], samples: Tensor, texts: Sequence[str], end: str = ""
    ) -> Tensor:
        """What ``judge`` says of each frame of samples (N, [F,] 3, H, W), asked with its sample's text: (N, F, ...)."""
        count = samples.shape[1] if samples.ndim == 5 else 1
        each = [text for text in texts for _ in range(count)]
        return self.judged(judge, samples.flatten(0, -4)[:, None], each, end).unflatten(0, (len(samples), count))

    def judged(
        self, judge: Callable[[dict[str, Tensor]], Tensor], pictures: Tensor, texts: Sequence[str], end: str = ""
    ) -> Tensor:
        """What ``judge`` says of messages, batch by batch, on the samples' device; NaN where a picture is not finite.

        Args:
            judge: Given what `inputs` makes of some messages; returns float32 numbers, (n, ...) for n messages.
            pictures: (N, P, 3, H, W) in [0, 1], P of a message.
            texts: N of them.
            end: See `inputs`.
        """
        whole = finite(pictures)
        starts = range(0, len(pictures), self._batch_size)
        parts = (slice(start, start + self._batch_size) for start in starts)
        found = [judge(self.inputs(pictures[part], texts[part], end)) for part in parts]
        scores = (torch.cat(found) if found else torch.zeros(0)).to(pictures.device)
        return scores.masked_fill(~whole.view(-1, *[1] * (scores.ndim - 1)), torch.nan)

    def inputs(self, pictures: Tensor, texts: Sequence[str], end: str = "") -> dict[str, Tensor]:
        """What the model is given of messages, each of pictures and then a text, before it answers.

        Args:
            pictures: (N, P, 3, H, W) in [0, 1], P of a message.
            texts: N of them. What is spelled like a mark of the chat in them is text like any other.
            end: The same for all, after the texts; here marks are marks.

        Returns:
            Tokens, padded on the left, their mask, patches and their grid, by transformers' names.
        """
        pixels, grid = self._patches(pictures.flatten(0, 1).to(self.device, torch.float32))
        tokens = math.prod(grid) // self._merge**2
        begin = self._marked(_BEGIN + (_OPEN + _PICTURE * tokens + _CLOSE) * pictures.shape[1])
        close = self._marked(end + _END)
        told = {text: self._told(text) for text in dict.fromkeys(texts)}
        rows = [begin + told[text] + close for text in texts]
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._image).int(),
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, *grid]] * pictures.shape[0] * pictures.shape[1], device=self.device),
        }

    def _patches(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches of frames (N, 3, H, W), token by token, each as a still clip; and how many down and across."""
        _, _, height, width = frames.shape
        height, width = sized(height, width, self._patch * self._merge, self._least, self._most)
        pixels = normalised(resized(eight_bit(frames), height, width))
        down, across = height // self._patch, width // self._patch
        parts = (side for length in (down, across) for side in (length // self._merge, self._merge, self._patch))
        pixels = pixels.reshape(len(frames), 3, *parts).permute(0, 2, 5, 3, 6, 1, 4, 7)
        still = pixels[..., None, :, :].expand(*pixels.shape[:-2], self._times, *pixels.shape[-2:])
        return still.reshape(len(frames) * down * across, -1), (down, across)

    def _marked(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _told(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def chat(
    model: str | Path,
    device: torch.device | str | None,
    dtype: torch.dtype,
    batch_size: int,
    least: int = LEAST_PIXELS,
    most: int = MOST_PIXELS,
) -> QwenVL:
    """A Qwen-VL that answers, from a local folder or a hub id; see `QwenVL`.

    Raises:
        ValueError: It cannot be had, or is of another family.
    """
    from transformers import AutoModelForImageTextToText

    made = pretrained(AutoModelForImageTextToText, model, dtype=dtype)
    if made.config.model_type not in FAMILIES:
        raise ValueError(f"model must be one of {', '.join(FAMILIES)}, got {made.config.model_type} in {str(model)!r}")
    return QwenVL(made, tokenizer_of(model), device, batch_size, least, most)


def sized(height: int, width: int, token: int, least: int, most: int) -> tuple[int, int]:
    """The size of a picture in whole tokens, of as nearly its shape and of ``least`` to ``most`` pixels.

    >>> sized(1080, 1920, 28, LEAST_PIXELS, MOST_PIXELS), sized(30, 50, 28, LEAST_PIXELS, MOST_PIXELS)
    ((1092, 1932), (56, 84))
    """
    sides = [max(token, round(side / token) * token) for side in (height, width)]
    if math.prod(sides) > most:
        shrink = math.sqrt(height * width / most)
        sides = [max(token, math.floor(side / shrink / token) * token) for side in (height, width)]
    elif math.prod(sides) < least:
        grow = math.sqrt(least / (height * width))
        sides = [math.ceil(side * grow / token) * token for side in (height, width)]
    return sides[0], sides[1]
