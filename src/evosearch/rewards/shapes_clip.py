"""A learned reward of the shapes world: how near the bundled `shapes-clip` puts picture and prompt.

Trained on pictures and captions alone, it is imperfect as learned rewards are, and can be fooled; the rules of
`evosearch.rewards.shapes` are there to judge what it led to.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.checks import samples_and_prompts
from evosearch.rewards.cache import identity
from evosearch.rewards.facts import Facts
from evosearch.shapes import Scene, parse

FACTS = Facts("-1 to 1", "Apache-2.0", "prompts of the shapes world, no motion", bundled=True)
_FOLDER = Path(__file__).parents[1] / "models" / "shapes-clip"


class ShapesClip:
    """Cosine similarity of picture and prompt in [-1, 1], by a small CLIP trained on the shapes world.

    Differentiable in the samples. A video has the mean of its frames, each against what a picture can show of the
    prompt: it is blind to motion, as rewards made for pictures are.

    Args:
        folder: A CLIPModel with its tokenizer and image processor.
        device: Where it computes.

    Example:
        >>> from evosearch.shapes import layout, parse, render
        >>> import numpy as np
        >>> picture = torch.tensor(render(layout(parse("two red circles"), np.random.default_rng(0))) / 255)
        >>> samples = picture.movedim(-1, 0).float().expand(2, -1, -1, -1)
        >>> right, wrong = ShapesClip()(samples, ["two red circles", "a blue star"])
        >>> bool(right > wrong)
        True
    """

    differentiable = True

    def __init__(self, folder: Path | str = _FOLDER, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.device = torch.device(device)
        model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        self._model: Any = model.to(self.device).eval().requires_grad_(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._size: int = self._model.config.vision_config.image_size
        processor = json.loads((Path(folder) / "preprocessor_config.json").read_text())
        self._mean, self._std = (torch.tensor(processor[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
        self._prompts: dict[str, Tensor] = {}

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        words, scale = self._tokenizer.get_vocab(), [self._mean.tolist(), self._std.tolist()]
        return identity("shapes_clip", self._model, words=words, scale=scale)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples (N, [F,] 3, H, W) in [0, 1] against N prompts; returns (N,) float32.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        asked = torch.stack([self._embedded(prompt) for prompt in prompts])
        return (self.embed(samples) * asked[:, None]).sum(-1).mean(1).to(samples.device)

    def embed(self, samples: Tensor) -> Tensor:
        """What it sees in the frames of samples (N, [F,] 3, H, W): unit vectors, (N, F, D)."""
        frames = samples.flatten(0, -4).to(self.device, torch.float32)
        if frames.shape[-2:] != (self._size, self._size):
            side = (self._size, self._size)
            frames = functional.interpolate(frames, side, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (frames - self._mean.to(self.device)) / self._std.to(self.device)
        found = functional.normalize(self._model.get_image_features(pixels).pooler_output, dim=-1)
        return found.view(len(samples), -1, found.shape[-1])

    def _embedded(self, prompt: str) -> Tensor:
        if prompt not in self._prompts:
            tokens = self._tokenizer([_as_trained(prompt)], padding="max_length", truncation=True, return_tensors="pt")
            with torch.inference_mode(False), torch.no_grad():
                features = self._model.get_text_features(**tokens.to(self.device)).pooler_output
            self._prompts[prompt] = functional.normalize(features[0], dim=-1)
        return self._prompts[prompt]


def _as_trained(prompt: str) -> str:
    """A caption in the words of training, without what its groups do; other prompts as they are."""
    try:
        scene = parse(prompt)
    except ValueError:
        return prompt
    return Scene(tuple(replace(group, motion=None) for group in scene.groups), scene.relations).caption
