"""PickScore: which picture people would pick for a prompt.

Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", 2023, arXiv:2305.01569.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import pretrained, tokenizer_of
from evosearch.rewards.clip import Clip, device_of
from evosearch.rewards.facts import CLIP_MODEL, CLIP_TOKENIZER, Facts, Source
from evosearch.rewards.pixels import cropped, normalised
from evosearch.rewards.weights import Weights

FACTS = Facts(
    "about 18 to 24",
    "MIT",
    "a prompt",
    (
        Source("yuvalkirstain/PickScore_v1", 3.9e9, CLIP_MODEL),
        Source("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 4e6, CLIP_TOKENIZER),
    ),
)


class PickScore:
    """How likely people are to pick a picture for its prompt, by a CLIP ViT-H/14 trained on their choices.

    Checkpoint: ``yuvalkirstain/PickScore_v1``, MIT licence. The score is cosine · exp(logit scale), about 18 to 24; of
    two pictures of one prompt, the first is picked with probability sigmoid(difference). Scores of different prompts do
    not compare. Differentiable in the samples. A video has the mean of its frames. Pictures are resized to 224 pixels
    along the short side, bicubic, and cropped to the square in the middle, so what is at the ends of a wide picture is
    not seen; of a prompt, the first 75 tokens are read.

    Args:
        model: A local folder or a hub id of a ``CLIPModel``.
        tokenizer: A local folder or a hub id of its tokenizer, which the published checkpoint takes from another.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model; scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The model or its tokenizer cannot be had.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "yuvalkirstain/PickScore_v1",
        tokenizer: str | Path = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model, tokenizer)

        def load() -> tuple[Clip, float]:
            from transformers import CLIPModel

            made = pretrained(CLIPModel, model, dtype=torch.float32)
            scale: float = made.logit_scale.exp().item()  # half precision would change it by a percent
            side: int = made.config.vision_config.image_size
            words = tokenizer_of(tokenizer, made.config.text_config.vocab_size)
            return Clip(
                made.to(dtype), lambda frames: normalised(cropped(frames, side, "transformers")), self.device,
                batch_size, words,
            ), scale  # fmt: skip

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        clip, scale = self.weights()
        return identity("pick_score", clip.model, scale=scale, words=clip.words)

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
        clip, scale = self.weights()
        return scale * clip.cosines(samples, prompts).mean(1).to(samples.device)
