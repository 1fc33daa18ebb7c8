"""LAION's aesthetic score, version 2: how much people like the look of a picture, whatever it shows.

C. Schuhmann, "Improved Aesthetic Predictor", 2022, github.com/christophschuhmann/improved-aesthetic-predictor. It chose
the pictures of LAION-Aesthetics, on which Stable Diffusion was trained (Schuhmann et al., 2022, arXiv:2210.08402).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import fill, pretrained, tensors
from evosearch.rewards.clip import Clip, device_of
from evosearch.rewards.facts import CLIP_MODEL, Facts, Source
from evosearch.rewards.pixels import cropped, normalised
from evosearch.rewards.places import locate
from evosearch.rewards.weights import Weights

_FILE = "sac+logos+ava1-l14-linearMSE.pth"
_URL = f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{_FILE.replace('+', '%2B')}"
FACTS = Facts(
    "1 to 10, most at 4 to 7",
    "Apache-2.0, its CLIP MIT",
    "no prompt",
    (Source("openai/clip-vit-large-patch14", 1.7e9, CLIP_MODEL), Source(_URL, 4e6, (_FILE,))),
)


class Aesthetic:
    """Mark that people would give a picture for its look, from 1 to 10, by a linear head on OpenAI's CLIP ViT-L/14.

    Checkpoint: ``sac+logos+ava1-l14-linearMSE.pth`` of LAION's improved aesthetic predictor, Apache-2.0 licence, on
    ``openai/clip-vit-large-patch14``, MIT licence. Most pictures are at 4 to 7. It knows no prompt. Differentiable in
    the samples. A video has the mean of its frames. Pictures are resized to 224 pixels along the short side, bicubic,
    and cropped to the square in the middle, so what is at the ends of a wide picture is not seen.

    Args:
        model: A local folder or a hub id of a CLIP.
        head: A local path or a URL of the head, or a folder or a hub id that has it under its published name.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the CLIP; the head and scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The CLIP or the head cannot be had, or they do not fit.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "openai/clip-vit-large-patch14",
        head: str | Path = _URL,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model, head)

        def load() -> tuple[Clip, nn.Module]:
            from transformers import CLIPModel

            path = locate(head, _FILE)
            made = pretrained(CLIPModel, model, dtype=dtype)
            del made.text_model, made.text_projection
            side: int = made.config.vision_config.image_size
            marks = linear_head(tensors(path), made.config.projection_dim, path).to(self.device)
            clip = Clip(made, lambda frames: normalised(cropped(frames, side, "torchvision")), self.device, batch_size)
            return clip, marks

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return identity("aesthetic", self.weights()[0].model, self.weights()[1])

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
        clip, head = self.weights()
        return head(clip.pictures(samples))[..., 0].mean(1).to(samples.device)


def linear_head(weights: Mapping[str, Tensor], width: int, source: Path, prefix: str = "") -> nn.Module:
    """Five linear layers from ``width`` to one number, of weights named ``layers.N.weight`` and so on, after a prefix.

    Between them there was dropout in training, and nothing ever that is not linear.
    """
    sizes = (width, 1024, 128, 64, 16, 1)
    layers = {str(place): nn.Linear(sizes[i], sizes[i + 1]) for i, place in enumerate((0, 2, 4, 6, 7))}
    fill(nn.ModuleDict({"layers": nn.ModuleDict(layers)}), weights, source, lambda name: f"{prefix}{name}")
    return nn.Sequential(*layers.values()).eval().requires_grad_(False)
