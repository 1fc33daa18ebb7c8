"""A Qwen-VL by batch: pictures, and a question about them, as its chat has them. Not a reward; several are made of it.

Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024,
arXiv:2409.12191; Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv:2502.13923. Pictures are resized as by the
package qwen-vl-utils, with which the rewards were made, and with a gradient. Of videos, see `qwen_video`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import pretrained, tokenizer_of
from evosearch.rewards.clip import device_of
from evosearch.rewards.pixels import eight_bit, finite, normalised, resized

LEAST_PIXELS, MOST_PIXELS = 4 * 28**2, 16384 * 28**2
"""Of a picture that Qwen-VL sees, unless it is told otherwise."""

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_BEGIN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_OPEN, _CLOSE = "<|vision_start|>", "<|vision_end|>"
_END = "<|im_end|>\n<|im_start|>assistant\n"
_PLACE = "{}"  # of the prompt in a question


class QwenVL:
    """What there is to say of pictures and prompts, by a Qwen2-VL or Qwen2.5-VL of transformers.

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

    mark, kind = "<|image_pad|>", 1
    names = ("image_token_id", "pixel_values", "image_grid_thw")
    """What transformers calls, of pictures: the mark in its config, their patches, and the grid of these."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str | None,
        batch_size: int,
        least: float = LEAST_PIXELS,
        most: float = MOST_PIXELS,
    ) -> None:
        self.device = device_of(device)
        self.model, self.tokenizer = model.to(self.device), tokenizer
        self._batch_size, self._least, self._most = batch_size, least, most
        vision = model.config.vision_config
        self._patch: int = vision.patch_size
        self._merge: int = vision.spatial_merge_size
        self._times: int = vision.temporal_patch_size
        self._seen: int = getattr(model.config, self.names[0])
        if tokenizer.convert_tokens_to_ids(self.mark) != self._seen:
            raise ValueError(
                f"tokenizer must know {self.mark} as word {self._seen}, as the model does; are all of its files there?"
            )

    def identity(self, name: str, *others: nn.Module, **settings: Any) -> str:
        """The `evosearch.rewards.cache.identity` of a reward that is made of it, and of other models."""
        sizes = [self._least, self._most]
        return identity(name, self.model, *others, words=self.tokenizer.get_vocab(), sizes=sizes, **settings)

    def stills(
        self, judge: Callable[[dict[str, Tensor]], Tensor], samples: Tensor, question: str, prompts: Sequence[str]
    ) -> Tensor:
        """What ``judge`` says of each frame of samples (N, [F,] 3, H, W), with its prompt: (N, F, ...)."""
        count = samples.shape[1] if samples.ndim == 5 else 1
        each = [prompt for prompt in prompts for _ in range(count)]
        found = self.judged(judge, samples.flatten(0, -4)[:, None], question, each)
        return found.unflatten(0, (len(samples), count))

    def judged(
        self, judge: Callable[[dict[str, Tensor]], Tensor], pictures: Tensor, question: str, prompts: Sequence[str]
    ) -> Tensor:
        """What ``judge`` says of messages, batch by batch, on the samples' device; NaN where a picture is not finite.

        Args:
            judge: Given what `inputs` makes of some messages; returns float32 numbers, (n, ...) for n messages.
            pictures: (N, P, 3, H, W) in [0, 1], P of a message.
            question: See `inputs`.
            prompts: N of them.
        """
        whole = finite(pictures)
        starts = range(0, len(pictures), self._batch_size)
        parts = (slice(start, start + self._batch_size) for start in starts)
        found = [judge(self.inputs(pictures[part], question, prompts[part])) for part in parts]
        scores = (torch.cat(found) if found else torch.zeros(0)).to(pictures.device)
        return scores.masked_fill(~whole.view(-1, *[1] * (scores.ndim - 1)), torch.nan)

    def inputs(self, pictures: Tensor, question: str, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the model is given of messages, each of pictures and then a question, before it answers.

        Args:
            pictures: (N, P, 3, H, W) in [0, 1], P of a message.
            question: With ``{}`` where the prompt goes. Its marks are marks.
            prompts: N of them. What is spelled like a mark in them is text like any other.

        Returns:
            Tokens, padded on the left, their mask, patches and their grid, by transformers' names.
        """
        clips = self._clips(pictures.to(self.device, torch.float32))
        rows, grid = patches(clips, self._patch, self._merge, self._times)
        shown = _OPEN + self.mark * (math.prod(grid) // self._merge**2) + _CLOSE
        begin, end = self._marked(_BEGIN + shown * (len(clips) // len(pictures))), self._marked(_END)
        asked = {prompt: self._asked(question, prompt) for prompt in dict.fromkeys(prompts)}
        messages = [begin + asked[prompt] + end for prompt in prompts]
        length = max(map(len, messages))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in messages], device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in messages], device=self.device)
        _, pixels, places = self.names
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": self.kind * (ids == self._seen).int(),
            pixels: rows,
            places: torch.tensor([grid] * len(clips), device=self.device),
        }

    def written(self, inputs: dict[str, Tensor], most: int, **options: Any) -> Tensor:
        """What the model writes to messages, in tokens, ``most`` at most: the likeliest each time, never by chance.

        Args:
            inputs: As `inputs` makes them.
            most: Tokens of an answer.
            **options: Further ones of transformers' ``generate``.
        """
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        found = self.model.generate(**inputs, max_new_tokens=most, **greedy, **options)
        return found[:, inputs["input_ids"].shape[1] :]

    def _clips(self, pictures: Tensor) -> Tensor:
        """Clips (n, F, 3, h, w) of whole tokens, as many as come in all messages together; here one of each picture."""
        frames = eight_bit(pictures.flatten(0, 1))
        *_, height, width = frames.shape
        size = sized(height, width, self._patch * self._merge, self._least, self._most)
        return resized(frames, *size)[:, None]

    def _asked(self, question: str, prompt: str) -> list[int]:
        marks = self.tokenizer.added_tokens_encoder
        tokens: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, marks))})", question):
            tokens += self._marked(part) if part in marks else self._plain(part.replace(_PLACE, prompt))
        return tokens

    def _marked(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def chat(model: str | Path, dtype: torch.dtype, families: Sequence[str] = FAMILIES) -> tuple[Any, Any]:
    """A Qwen-VL that answers, and its tokenizer, from a local folder or a hub id.

    Raises:
        ValueError: They cannot be had, or are of another family.
    """
    from transformers import AutoModelForImageTextToText

    made = pretrained(AutoModelForImageTextToText, model, dtype=dtype)
    if made.config.model_type not in families:
        raise ValueError(f"model must be one of {', '.join(families)}, got {made.config.model_type} in {str(model)!r}")
    return made, tokenizer_of(model)


def sized(height: int, width: int, token: int, least: float, most: float) -> tuple[int, int]:
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


def patches(clips: Tensor, patch: int, merge: int, times: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Clips as the model sees them.

    Args:
        clips: (N, F, 3, H, W) in [0, 1], sides of whole tokens, F a multiple of ``times``; or one frame, a still.
        patch: Pixels along the side of a patch.
        merge: Patches along the side of a token.
        times: Frames in a patch.

    Returns:
        Patches (N * P, 3 * times * patch * patch), those of a token together, and how many there are of each clip in
        time, down and across.
    """
    pixels = normalised(clips)
    if clips.shape[1] == 1:
        pixels = pixels.expand(-1, times, -1, -1, -1)
    count, length, _, height, width = pixels.shape
    grid = (length // times, height // patch, width // patch)
    sides = (part for side in grid[1:] for part in (side // merge, merge, patch))
    cut = pixels.reshape(count, grid[0], times, 3, *sides).permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return cut.reshape(count * math.prod(grid), -1), grid
