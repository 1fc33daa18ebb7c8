"""VideoScore2: a model that thinks in words about a video's quality, likeness to the prompt and physics, then rates it.

He et al., "VideoScore2: Think before You Score in Generative Video Evaluation", 2025, arXiv:2509.22799. The question is
that of the model's card. Two things differ from the authors' code: it draws the words at random, so that a video has
another score each time, where here each word is the likeliest; and it looks for the ratings in all that was written, in
a format that the model often does not keep, where here they are what follows each name in the answer, after the
thoughts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evosearch.checks import dtype_of, one_of, whole_number
from evosearch.rewards.facts import CLIP_MODEL, QWEN_TOKENIZER, Facts, Source
from evosearch.rewards.qwen_video import QwenVideo, sampled
from evosearch.rewards.qwen_vl import chat
from evosearch.rewards.video_rating import VideoRating
from evosearch.rewards.weights import Weights

FACTS = Facts(
    "0.2 to 5",
    "Apache-2.0",
    "a prompt, and a video of at least 2 frames",
    (Source("TIGER-Lab/VideoScore2", 16.6e9, (*CLIP_MODEL, *QWEN_TOKENIZER)),),
)
VARIANTS = ("published", "expected")
NAMES = {
    "VQ": "visual quality",
    "TA": "text-to-video alignment",
    "PC": "physical/common-sense consistency",
}
"""What is rated, and what the model calls it."""
_QUESTION = """
You are an expert for evaluating AI-generated videos from three dimensions:
(1) visual quality \N{EN DASH} clarity, smoothness, artifacts;
(2) text-to-video alignment \N{EN DASH} fidelity to the prompt;
(3) physical/common-sense consistency \N{EN DASH} naturalness and physics plausibility.

Video prompt: {}

Please output in this format:
visual quality: <v_score>;
text-to-video alignment: <t_score>,
physical/common-sense consistency: <p_score>
"""
_FPS = 2.0
_MOST_PIXELS, _ALL_PIXELS = 768 * 28**2, 230_400 * 28**2  # of a frame; of all of them
_TEMPERATURE = 0.7  # at which the authors draw words, and so how sure a rating is
_THOUGHT = "</think>"


class VideoScore2(VideoRating):
    """Rating of a video that a Qwen2.5-VL-7B gives after it has thought about it in words.

    Checkpoint: ``TIGER-Lab/VideoScore2``, Apache-2.0 licence. Scores are at 0.2 to 5; better videos score higher. It
    writes hundreds of words on a video, so it suits a last ranking better than a search; it has no gradient. Two frames
    a second are looked at, at least 4, each resized to at most 602112 pixels in its own shape, bicubic. A video whose
    ratings are not found in what it writes is NaN. Images are refused. A prompt's text never becomes a mark of the
    chat.

    Args:
        model: A local folder or a hub id of a ``Qwen2_5_VLForConditionalGeneration`` with its tokenizer.
        dimension: ``VQ``, visual quality; ``TA``, text alignment; ``PC``, physical and common-sense consistency;
            ``Overall``, their mean.
        variant: ``published`` is the likeliest rating times its probability among the five, which falls where the model
            is torn between 4 and 5; ``expected`` their mean, which does not.
        frame_rate: Of the videos, per second; None: of the pipeline in a run, else 16.
        most_tokens: Most that it may write about a video, 1024 as its authors have it.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model, bfloat16 as its authors have it; scores are float32.
        batch_size: Videos at a time.

    Raises:
        ValueError: The model cannot be had, or there is no such dimension or variant.
    """

    name, ratings = "video_score2", tuple(NAMES)

    def __init__(
        self,
        model: str | Path = "TIGER-Lab/VideoScore2",
        dimension: str = "Overall",
        variant: str = "published",
        frame_rate: float | None = None,
        most_tokens: int = 1024,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.bfloat16,
        batch_size: int = 4,
    ) -> None:
        super().__init__(dimension, frame_rate, device, batch_size)
        dtype = dtype_of(dtype)
        self._variant = one_of("variant", variant, VARIANTS)
        self._most_tokens = whole_number("most_tokens", most_tokens, least=1)
        FACTS.check(model)
        self.weights = Weights(
            lambda: QwenVideo(*chat(model, dtype, ["qwen2_5_vl"]), self.device, batch_size, _MOST_PIXELS, _ALL_PIXELS)
        )

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return self._identity(variant=self._variant, tokens=self._most_tokens)

    @property
    def _qwen(self) -> QwenVideo:
        return self.weights()

    @property
    def _digits(self) -> list[int]:
        return self._qwen.tokenizer.convert_tokens_to_ids([*"12345"])

    def _chosen(self, frames: int) -> list[int]:
        return sampled(frames, self._shown_at, _FPS, math.floor)

    @torch.no_grad()
    def _rate(self, videos: Tensor, prompts: list[str]) -> Tensor:
        inputs, listener = self._qwen.inputs(videos, _QUESTION, prompts), _Listener(self._digits)
        seconds = torch.full((len(videos),), 2 / _FPS, device=self.device)  # from one pair of frames to the next
        written = self._qwen.written(inputs, self._most_tokens, second_per_grid_ts=seconds, logits_processor=[listener])
        heard = torch.stack(listener.heard, 1).float().cpu()
        return torch.stack([self._read(*row) for row in zip(written.tolist(), heard, strict=True)])

    def _whole(self, rated: Tensor) -> Tensor:
        return rated.mean(1)

    def _read(self, written: Sequence[int], logits: Tensor) -> Tensor:
        """The scores in what was written, (3,), by the logits that ratings had for each of its words, (words, 5)."""
        decode, digits = self._qwen.tokenizer.decode, self._digits
        thought = decode(written).rfind(_THOUGHT)
        before = {k: decode(written[:k]) for k, token in enumerate(written) if token in digits}
        answers = {k: text for k, text in before.items() if len(text) > thought}
        scores = torch.full((len(NAMES),), torch.nan)
        for part, name in enumerate(NAMES.values()):
            named = re.compile(rf"{re.escape(name)}[^:\n]*:[\s*]*$", re.IGNORECASE)
            for k in [k for k, text in answers.items() if named.search(text)][:1]:
                scores[part] = self._soft(logits[k])
        return scores

    def _soft(self, logits: Tensor) -> Tensor:
        sure = (logits / _TEMPERATURE).softmax(-1)
        ratings = torch.arange(1, len(sure) + 1, device=sure.device)
        return ratings[sure.argmax()] * sure.max() if self._variant == "published" else (ratings * sure).sum()


class _Listener:
    """Keeps of all logits, which take gigabytes, those of digits.

    Args:
        digits: Their tokens.
    """

    def __init__(self, digits: list[int]) -> None:
        self._digits = digits
        self.heard: list[Tensor] = []

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """As transformers calls what may change the logits of the next word; here they stay what they are."""
        del ids
        self.heard.append(logits[:, self._digits])
        return logits
