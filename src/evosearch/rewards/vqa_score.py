"""VQAScore: how surely a vision-language model says yes when it is asked whether the picture shows the prompt.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation", 2024, arXiv:2404.01291. Their own
model, CLIP-FlanT5, needs an old world; as their package does by now, a Qwen-VL is asked in its place, and what it
says compares with no score of another model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evosearch.checks import dtype_of, one_of, samples_and_prompts, whole_number
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import CLIP_MODEL, QWEN_TOKENIZER, Facts, Source
from evosearch.rewards.qwen_vl import LEAST_PIXELS, MOST_PIXELS, QwenVL, chat
from evosearch.rewards.weights import Weights

FACTS = Facts(
    "0 to 1",
    "Apache-2.0",
    "a prompt",
    (Source("Qwen/Qwen2.5-VL-7B-Instruct", 16.6e9, (*CLIP_MODEL, *QWEN_TOKENIZER)),),
)
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
VARIANTS = ("vqascore", "yes_no")
_YES, _NO = ("Yes", "yes", "YES", " Yes", " yes"), ("No", "no", "NO", " No", " no")


class _Weights(NamedTuple):
    """The model, and its words for yes and no."""

    qwen: QwenVL
    yes: list[int]
    no: list[int]


class VqaScore:
    """Probability that a Qwen2.5-VL says yes to 'Does this figure show "..."? Please answer yes or no.'.

    Checkpoint: ``Qwen/Qwen2.5-VL-7B-Instruct``, Apache-2.0 licence; the one of 3B is for research alone. From 0 to 1.
    Differentiable in the samples. A video has the mean of its frames; of long ones, ask fewer by `per_frame`. Pictures
    are resized to sides of whole 28 pixels, bicubic, and seen whole. A prompt's text never becomes a mark of the chat.

    Args:
        model: A local folder or a hub id of a Qwen2-VL or Qwen2.5-VL that answers, with its tokenizer.
        variant: ``vqascore`` is the published P("Yes") among all words; ``yes_no`` is P(yes) / (P(yes) + P(no)), each
            in all its spellings, which does not fall where the model would say neither.
        question: With ``{}`` where the prompt goes.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model; scores are float32.
        batch_size: Pictures at a time, frames of videos among them.
        max_pixels: Of a picture as the model sees it; larger ones are made smaller, and cost less.

    Raises:
        ValueError: The model cannot be had or has no word for yes, there is no such variant, or the question has no
            place for a prompt.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "Qwen/Qwen2.5-VL-7B-Instruct",
        variant: str = "vqascore",
        question: str = QUESTION,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.bfloat16,
        batch_size: int = 8,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        self._variant = one_of("variant", variant, VARIANTS)
        whole_number("batch_size", batch_size, least=1)
        whole_number("max_pixels", max_pixels, least=LEAST_PIXELS)
        if question.count("{}") != 1:
            raise ValueError(f"question must have {{}} once, where the prompt goes, got {question!r}")
        self._question = question
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model)

        def load() -> _Weights:
            qwen = QwenVL(*chat(model, dtype), self.device, batch_size, most=max_pixels)
            return _Weights(qwen, _words(qwen.tokenizer, _YES), _words(qwen.tokenizer, _NO))

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return self.weights().qwen.identity("vqa_score", variant=self._variant, question=self._question)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples against their prompts.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1], rounded to 8 bits.
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        return self.weights().qwen.stills(self._sure, samples, self._question, prompts).mean(1)

    def _sure(self, inputs: dict[str, Tensor]) -> Tensor:
        qwen, yes_words, no_words = self.weights()
        logits = qwen.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        if self._variant == "vqascore":
            return logits.softmax(-1)[:, yes_words[0]]
        yes, no = (logits[:, words].logsumexp(-1) for words in (yes_words, no_words))
        return (yes - no).sigmoid()


def _words(tokenizer: Any, spellings: tuple[str, ...]) -> list[int]:
    """Those spellings that are one word to the model, the first one for certain."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in spellings]
    if len(ids[0]) != 1:
        raise ValueError(f"model must have a word for {spellings[0]!r}, got {len(ids[0])}; take another Qwen-VL")
    return list(dict.fromkeys(word[0] for word in ids if len(word) == 1))
