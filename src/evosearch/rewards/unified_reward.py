"""UnifiedReward: a vision-language model that writes down scores for what it sees, of pictures and of videos.

Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", 2025, arXiv:2503.05236, and
github.com/CodeGoat24/UnifiedReward, whose questions these are, word for word (MIT licence). What cannot be read in the
answer is no score: such a sample is NaN, never 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evosearch.checks import dtype_of, one_of, samples_and_prompts, whole_number
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import CLIP_MODEL, QWEN_TOKENIZER, Facts, Source
from evosearch.rewards.qwen_vl import LEAST_PIXELS, MOST_PIXELS, QwenVL, chat
from evosearch.rewards.weights import Weights

FACTS = Facts(
    "1 to 5",
    "MIT",
    "a prompt",
    (Source("CodeGoat24/UnifiedReward-2.0-qwen-7b", 16.6e9, (*CLIP_MODEL, *QWEN_TOKENIZER)),),
)
DIMENSIONS = ("mean", "alignment", "coherence", "style", "final")
_SCORES = (
    "You are presented with a generated {kind} and its associated text caption. "
    "Your task is to analyze the {kind} across multiple dimensions in relation to the caption. Specifically:\n"
    "Provide overall assessments for the {kind} along the following axes (each rated from 1 to 5):\n"
    "- Alignment Score: How well the {kind} matches the caption in terms of content.\n"
    "- {axis} Score: {sound}\n"
    "- Style Score: How {pleasing} the {kind} looks, regardless of caption accuracy.\n\n"
    "Output your evaluation using the format below:\n\n"
    "Alignment Score (1-5): X\n"
    "{axis} Score (1-5): Y\n"
    "Style Score (1-5): Z\n\n"
)
_GLITCHES = "How logically consistent the image is (absence of visual glitches, object distortions, etc.)."
_PHYSICS = "How well the gravity, movements, collisions, and interactions make physical sense."
_OF_PICTURE = _SCORES.format(kind="image", axis="Coherence", sound=_GLITCHES, pleasing="aesthetically appealing")
_OF_VIDEO = _SCORES.format(kind="video", axis="Physics", sound=_PHYSICS, pleasing="visually appealing")
_FINAL = (
    "You are given a text caption and a generated image based on that caption. "
    "Your task is to evaluate this image based on two key criteria:\n"
    "1. Alignment with the Caption: Assess how well this image aligns with the provided caption. "
    "Consider the accuracy of depicted objects, their relationships, and attributes as described in the caption.\n"
    "2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, "
    "color accuracy, and overall aesthetic appeal.\n"
    "Extract key elements from the provided text caption, evaluate their presence in the generated image using the "
    "format: 'element (type): value' (where value=0 means not generated, and value=1 means generated), "
    "and assign a score from 1 to 5 after 'Final Score:'.\n"
)
_TASK = "Your task is provided as follows:\nText Caption: [{}]"
_FRAMES = 8  # of a video


class UnifiedReward:
    """Marks from 1 to 5 that a Qwen2.5-VL writes for how a picture or video fits its prompt, holds together and looks.

    Checkpoint: ``CodeGoat24/UnifiedReward-2.0-qwen-7b``, MIT licence. The model answers in words, greedily, and its
    marks are read out of them; where one is missing, out of range, given twice but not the same, or the answer is cut
    off, the sample is NaN. So it costs tens of passes of the model a sample, and has no gradient. A video is shown
    whole, by 8 frames evenly spread, and its coherence is that of its physics. Pictures are resized to sides of whole
    28 pixels, bicubic, and seen whole. A prompt's text never becomes a mark of the chat.

    Args:
        model: A local folder or a hub id of a UnifiedReward made of Qwen2.5-VL or Qwen2-VL, with its tokenizer.
        dimension: ``mean`` of the three marks, or one of them: ``alignment``, ``coherence``, ``style``; ``final`` is
            the one mark of version 1 (``CodeGoat24/UnifiedReward-qwen-7b``), which knows pictures alone.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model; scores are float32.
        batch_size: Samples at a time.
        max_pixels: Of a picture as the model sees it; larger ones are made smaller, and cost less.
        max_tokens: Of an answer.

    Raises:
        ValueError: The model cannot be had, or there is no such dimension.
    """

    differentiable = False

    def __init__(
        self,
        model: str | Path = "CodeGoat24/UnifiedReward-2.0-qwen-7b",
        dimension: str = "mean",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.bfloat16,
        batch_size: int = 8,
        max_pixels: int = MOST_PIXELS,
        max_tokens: int = 512,
    ) -> None:
        self._dimension = one_of("dimension", dimension, DIMENSIONS)
        whole_number("batch_size", batch_size, least=1)
        whole_number("max_pixels", max_pixels, least=LEAST_PIXELS)
        self._length = whole_number("max_tokens", max_tokens, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model)
        self.weights = Weights(lambda: QwenVL(*chat(model, dtype), self.device, batch_size, most=max_pixels))

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return self.weights().identity("unified_reward", dimension=self._dimension, tokens=self._length)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples against their prompts.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1], rounded to 8 bits.
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity, and where the answer holds no score.

        Raises:
            ValueError: `samples` is not of that shape, has another number of prompts, or is a video for ``final``.
        """
        samples_and_prompts(samples, prompts)
        video = samples.ndim == 5
        self.check("", video)
        shown = samples[:, looked_at(samples.shape[1])] if video else samples[:, None]
        question, names = self._asked(video)

        def judge(inputs: dict[str, Tensor]) -> Tensor:
            return torch.tensor([read(answer, names) for answer in self._answers(inputs)])

        with torch.no_grad():
            return self.weights().judged(judge, shown, question, prompts)

    def check(self, prompt: str, video: bool | None = None) -> None:
        """ValueError for a video where the dimension is of pictures alone."""
        del prompt
        if video and self._dimension == "final":
            raise ValueError("dimension final of unified_reward is of pictures; for a video take mean, or per_frame")

    def _asked(self, video: bool) -> tuple[str, Sequence[str]]:
        """The question, and the scores that are wanted of the answer."""
        if self._dimension == "final":
            return _FINAL + _TASK, ["Final"]
        marks = ["Alignment", "Physics" if video else "Coherence", "Style"]
        question = _OF_VIDEO if video else _OF_PICTURE
        return question + _TASK, marks if self._dimension == "mean" else [marks[DIMENSIONS.index(self._dimension) - 1]]

    def _answers(self, inputs: dict[str, Tensor]) -> list[str]:
        """What the model writes; nothing where it did not come to an end."""
        qwen = self.weights()
        made = qwen.written(inputs, self._length)
        ends = torch.tensor(qwen.model.generation_config.eos_token_id, device=made.device).flatten()
        texts: list[str] = qwen.tokenizer.batch_decode(made, skip_special_tokens=True)
        ended = torch.isin(made, ends).any(1).tolist()
        return [text if whole else "" for text, whole in zip(texts, ended, strict=True)]


def looked_at(frames: int) -> list[int]:
    """Frames of a video that are shown: 8 evenly spread from the first on, or all there are.

    >>> looked_at(81), looked_at(3)
    ([0, 10, 20, 30, 40, 50, 60, 70], [0, 1, 2])
    """
    return sorted({k * frames // _FRAMES for k in range(_FRAMES)})


def read(answer: str, names: Sequence[str]) -> float:
    r"""The mean of the scores of these names, each from 1 to 5, in an answer; NaN unless there is one of each.

    >>> read("Alignment Score (1-5): 2.5\nStyle Score (1-5): 3", ["Alignment", "Style"])
    2.75
    >>> read("Alignment Score (1-5): 2.5", ["Alignment", "Style"]), read("Final Score: 7", ["Final"])
    (nan, nan)
    """
    return sum(_score(answer, name) for name in names) / len(names)


def _score(answer: str, name: str) -> float:
    # Of what may follow the number, "out of 5" is fine, and a digit, a letter, a percent sign or a range is not.
    pattern = (
        rf"\b{name}\s+score\W*?(?:\(1\s*[-\u2013]\s*5\))?[\s*]*[:=][\s*]*([+-]?\d+(?:\.\d+)?)(?![\w%]|\.\d|\s*-\s*\d)"
    )
    found = {float(number) for number in re.findall(pattern, answer, re.IGNORECASE)}
    if len(found) != 1:
        return math.nan
    (score,) = found
    return score if 1 <= score <= 5 else math.nan
