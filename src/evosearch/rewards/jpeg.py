"""Compressibility: pictures that JPEG stores in few bytes score high.

A reward that needs no model and has a value for every picture, so it serves to test a search. It is the
"compressibility" reward of Black et al., "Training Diffusion Models with Reinforcement Learning" (DDPO), 2023,
arXiv 2305.13301: minus the file size in kB.
"""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evosearch.checks import samples_and_prompts
from evosearch.rewards.cache import identity
from evosearch.rewards.facts import Facts

FACTS = Facts("below 0, in kB", "Apache-2.0", "no prompt")

_QUALITY = 95


def jpeg(samples: Tensor, prompts: Sequence[str]) -> Tensor:
    """Minus the size in kB (1000 bytes) of each sample's JPEG file at quality 95.

    Args:
        samples: ``(N, 3, H, W)`` images or ``(N, F, 3, H, W)`` videos, floats in [0, 1], rounded to 8 bits.
        prompts: N of them; not used.

    Returns:
        ``(N,)`` float32, below 0; of a video, the mean over its frames. NaN for a sample that holds NaN or
        infinity.

    Raises:
        ValueError: `samples` is not of that shape, does not hold floats, or has another number of prompts.

    Example:
        >>> jpeg(torch.zeros(2, 3, 64, 64), ["", ""])
        tensor([-0.6910, -0.6910])
    """
    samples_and_prompts(samples, prompts)
    return torch.tensor([-_kilobytes(sample) for sample in samples], dtype=torch.float32, device=samples.device)


def _kilobytes(sample: Tensor) -> float:
    """Mean file size over the frames of one sample, ``([F,] 3, H, W)``."""
    if not sample.isfinite().all():
        return float("nan")
    frames = sample.reshape(-1, *sample.shape[-3:]).clamp(0, 1).mul(255).round().byte().movedim(1, -1)
    return float(np.mean([_size(frame) for frame in frames.numpy(force=True)])) / 1000


def _size(frame: np.ndarray) -> int:
    file = BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=_QUALITY)
    return file.tell()


jpeg.cache_key = identity("jpeg")  # pyright: ignore[reportFunctionMemberAccess]
