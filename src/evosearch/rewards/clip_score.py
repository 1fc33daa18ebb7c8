"""CLIPScore: how near CLIP puts picture and prompt.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", 2021, arXiv:2104.08718, with the
CLIP of Radford et al., 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evosearch.checks import dtype_of, one_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import pretrained, tokenizer_of
from evosearch.rewards.clip import Clip, device_of
from evosearch.rewards.facts import CLIP_MODEL, CLIP_TOKENIZER, Facts, Source
from evosearch.rewards.pixels import cropped, normalised
from evosearch.rewards.weights import Weights

FACTS = Facts(
    "-1 to 1, most at 0.15 to 0.35",
    "MIT",
    "a prompt",
    (Source("openai/clip-vit-large-patch14", 1.7e9, (*CLIP_MODEL, *CLIP_TOKENIZER)),),
)
VARIANTS = ("cosine", "hessel", "torchmetrics")


class ClipScore:
    """Cosine similarity of picture and prompt, by OpenAI's CLIP ViT-L/14.

    Checkpoint: ``openai/clip-vit-large-patch14``, MIT licence. Differentiable in the samples. A video has the mean of
    its frames. Pictures are resized to 224 pixels along the short side, bicubic, and cropped to the square in the
    middle, so what is at the ends of a wide picture is not seen; of a prompt, the first 75 tokens are read.

    Args:
        model: A local folder or a hub id of a ``CLIPModel`` with its tokenizer, which takes pictures as OpenAI's do.
        variant: ``cosine``, in [-1, 1] and about 0.15 to 0.35, is what EvoSearch's paper reports; ``hessel`` is
            CLIPScore's own 2.5 · max(cosine, 0), ``torchmetrics`` that package's max(100 · cosine, 0).
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model; scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The model cannot be had, or there is no such variant.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "openai/clip-vit-large-patch14",
        variant: str = "cosine",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        self._variant = one_of("variant", variant, VARIANTS)
        whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model)

        def load() -> Clip:
            from transformers import CLIPModel

            made = pretrained(CLIPModel, model, dtype=dtype)
            side: int = made.config.vision_config.image_size
            tokenizer = tokenizer_of(model, made.config.text_config.vocab_size)
            return Clip(
                made,
                lambda frames: normalised(cropped(frames, side, "torchvision")),
                self.device,
                batch_size,
                tokenizer,
            )

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        clip = self.weights()
        return identity("clip_score", clip.model, variant=self._variant, words=clip.words)

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
        cosines = self.weights().cosines(samples, prompts)
        if self._variant != "cosine":
            cosines = (2.5 if self._variant == "hessel" else 100) * cosines.clamp(min=0)
        return cosines.mean(1).to(samples.device)
