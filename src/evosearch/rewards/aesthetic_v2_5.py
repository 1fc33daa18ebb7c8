"""Aesthetic Predictor V2.5: how much people like the look of a picture, drawings and renderings among them.

discus0434, "Aesthetic Predictor V2.5", 2024, github.com/discus0434/aesthetic-predictor-v2-5, on the SigLIP of Zhai et
al., 2023, arXiv:2303.15343. Its code and its head come under the AGPL, so that both are for the user to install:
nothing of them is here, and the head is made by the user's package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import fill, pretrained, tensors
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import CLIP_MODEL, Facts, Source
from evosearch.rewards.packages import required, version_of
from evosearch.rewards.pixels import by_batch, eight_bit, finite, resized
from evosearch.rewards.places import locate
from evosearch.rewards.weights import Weights

_FILE, _PACKAGE = "aesthetic_predictor_v2_5.pth", "aesthetic_predictor_v2_5"
_URL = f"https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/{_FILE}"
FACTS = Facts(
    "1 to 10, 5.5 and more is good",
    "AGPL-3.0, its SigLIP Apache-2.0",
    "no prompt",
    (Source("google/siglip-so400m-patch14-384", 3.5e9, CLIP_MODEL), Source(_URL, 5e6, (_FILE,))),
    package=_PACKAGE,
)


class AestheticV25:
    """Mark that people would give a picture for its look, from 1 to 10, by a head on Google's SigLIP so400m.

    Checkpoint: ``aesthetic_predictor_v2_5.pth`` of the package aesthetic_predictor_v2_5, which makes the head and has
    to be installed, AGPL-3.0 licence, on ``google/siglip-so400m-patch14-384``, Apache-2.0 licence. Pictures at 5.5 and
    more are good. It knows no prompt. Differentiable in the samples. A video has the mean of its frames. Pictures are
    resized to 384 x 384 pixels, bicubic, whatever their shape: a wide one is squeezed, and seen whole.

    Args:
        model: A local folder or a hub id of a SigLIP.
        head: A local path or a URL of the head, or a folder or a hub id that has it under its published name.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the SigLIP; the head and scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The package is not installed, the SigLIP or the head cannot be had, or they do not fit.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "google/siglip-so400m-patch14-384",
        head: str | Path = _URL,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        self._batch_size = whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        package = required(_PACKAGE, "aesthetic_v2_5", "AGPL-3.0 licence")
        FACTS.check(model, head)

        def load() -> tuple[Any, Any]:
            from transformers import SiglipModel

            path = locate(head, _FILE)
            sees = pretrained(SiglipModel, model, dtype=dtype).vision_model.to(self.device)
            marks = package.AestheticPredictorV2_5Head(sees.config)
            fill(marks, tensors(path), path)
            return sees, marks.to(self.device).eval().requires_grad_(False)

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return identity("aesthetic_v2_5", *self.weights(), package=version_of(_PACKAGE))

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1], rounded to 8 bits.
            prompts: N of them; not looked at.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        if not len(samples):
            return samples.new_zeros(0, dtype=torch.float32)
        scores = by_batch(self._judge, samples.flatten(0, -4), self._batch_size).view(len(samples), -1).mean(1)
        return scores.to(samples.device).masked_fill(~finite(samples), torch.nan)

    def _judge(self, frames: Tensor) -> Tensor:
        sees, head = self.weights()
        side: int = sees.config.image_size
        pixels = resized(eight_bit(frames.to(self.device, torch.float32)), side, side) * 2 - 1
        seen = sees(pixels.to(sees.dtype)).pooler_output
        return head(functional.normalize(seen.float(), dim=-1))[:, 0]
