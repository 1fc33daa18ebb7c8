"""Pictures as a judge is sent them, and how large they may be: asked before anything is decoded or encoded."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

MOST_PIXELS = 50_000_000
"""Of one picture. A file of 160 KiB can hold ten times as many."""

_QUALITY = 95
_FORMATS = ("PNG", "JPEG", "WEBP")


def check_size(height: int, width: int, what: str) -> None:
    """ValueError for a picture of more than `MOST_PIXELS`."""
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{what}: expected at most {MOST_PIXELS // 10**6} megapixels, got {height} x {width} "
            f"({height * width / 1e6:.0f} megapixels); make it smaller"
        )


def read_picture(path: Path | str) -> Tensor:
    """A PNG, JPEG or WebP file as a sample (3, H, W) in [0, 1]; its header is looked at before it is decoded.

    Grey is the same in all channels, of 8 bits or 16; what is transparent has the colour that the file gives it.

    Raises:
        ValueError: It is none of these, is broken, or has more than `MOST_PIXELS`.
        OSError: There is no such file, or it cannot be read.
    """
    name = Path(path).name
    with open(path, "rb") as file, warnings.catch_warnings():
        # Pillow only warns of what is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(file, formats=_FORMATS)
        except Image.DecompressionBombError:
            raise ValueError(f"{name}: expected at most {MOST_PIXELS // 10**6} megapixels, got far more") from None
        except UnidentifiedImageError:
            raise ValueError(f"{name}: expected a PNG, JPEG or WebP file, got another kind of file") from None
        check_size(picture.height, picture.width, name)
        try:
            if picture.mode.startswith("I;16"):  # which Pillow would cut off at 255
                return torch.from_numpy(np.array(picture) / np.float32(65535)).expand(3, -1, -1).clone()
            pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: the picture is broken ({error}); save it again") from None
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


def spread(frames: int, most: int) -> list[int]:
    """Evenly spread frames of a video, the first and the last among them; the middle one where it is to be one.

    >>> spread(9, 3), spread(9, 1), spread(2, 4)
    ([0, 4, 8], [4], [0, 1])
    """
    if frames <= most:
        return list(range(frames))
    return [frames // 2] if most == 1 else [round(k * (frames - 1) / (most - 1)) for k in range(most)]


def data_urls(frames: Tensor, kind: str) -> Sequence[str]:
    """Frames (F, 3, H, W) uint8 as data URLs of PNG or JPEG files."""
    urls: list[str] = []
    for frame in frames.movedim(1, -1).numpy():
        file = BytesIO()
        Image.fromarray(frame).save(file, kind.upper(), **({"quality": _QUALITY} if kind == "jpeg" else {}))
        urls.append(f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}")
    return urls
