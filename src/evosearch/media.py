"""Pictures and videos as files, and what a picture's file says about its making."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evosearch import genome, strict_json
from evosearch.budget import Cost
from evosearch.result import Scored
from evosearch.types import Sample

_FPS = 16  # where neither the pipeline was told a frame rate nor we know its own
_SMALL_VIDEO = 256  # pixels; video codecs smear what is smaller


def picture(sample: Sample) -> Image.Image:
    """The image itself; of a video, the frame in the middle."""
    return sample[len(sample) // 2] if isinstance(sample, list) else sample


def contact_sheet(frames: Sequence[Image.Image], most: int = 8, side: int = 128) -> Image.Image:
    """Frames of a video side by side, evenly from its first to its last.

    Args:
        frames: All of them, of one size.
        most: How many to show at the most.
        side: Longer side of a frame there, in pixels; smaller ones stay as they are.
    """
    chosen = [frames[round(k)].copy() for k in np.linspace(0, len(frames) - 1, min(most, len(frames)))]
    for frame in chosen:
        frame.thumbnail((side, side))
    width, height = chosen[0].size
    sheet = Image.new("RGB", (len(chosen) * (width + 1) - 1, height))
    for k, frame in enumerate(chosen):
        sheet.paste(frame, (k * (width + 1), 0))
    return sheet


def png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """An image as a PNG file with texts in it."""
    info = PngInfo()
    for name, text in texts.items():
        # Lone surrogates have no encoding, and NUL ends a text in this format.
        info.add_text(name, text.encode(errors="replace").decode().replace("\0", ""))
    stream = BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def texts(scored: Scored, settings: Mapping[str, Any], cost: Cost) -> dict[str, str]:
    """What a picture's file says: ``parameters`` for image viewers, ``evosearch`` to make it again.

    Args:
        scored: The sample.
        settings: Of its run, see `Result.settings`.
        cost: Of its run.
    """
    ours = {
        **settings,
        "model": model_name(settings),
        "id": scored.id,
        "genome": genome.to_json(scored.genome),
        "reward_value": scored.reward,
        "reward_parts": scored.parts,
        "held_out_values": scored.held_out,
        "found_at_nfe": scored.nfe,
        "cost": asdict(cost),
    }
    return {"parameters": _parameters(scored, settings), "evosearch": strict_json.dumps(ours)}


def write_video(path: Path, frames: Sequence[Image.Image], settings: Mapping[str, Any]) -> None:
    """Write an mp4 file; small frames are enlarged.

    Raises:
        OSError: It could not be written whole.
    """
    factor = max(1, _SMALL_VIDEO // min(frames[0].size))
    size = (frames[0].width * factor, frames[0].height * factor)
    fps: Any = frame_rate(settings)  # may be a fraction, whatever its annotation there says
    # The codec needs even sides.
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, quality=8, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame.convert("RGB").resize(size, Image.Resampling.NEAREST)))
    writer.close()
    # The encoder runs in a process of its own, whose failure at the end would go unheard.
    try:
        written, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError:
        written = 0
    if written != len(frames):
        raise OSError(f"video was not written whole: {written} of {len(frames)} frames in {path}")


def frame_rate(settings: Mapping[str, Any]) -> float:
    """Frames per second of a run's videos: as the pipeline was told, or else its own."""
    asked = settings.get("pipeline_kwargs", {})
    return asked.get("frame_rate") or asked.get("fps") or settings.get("frame_rate") or _FPS


def _parameters(scored: Scored, settings: Mapping[str, Any]) -> str:
    """The infotext that image viewers and web interfaces read: prompt, negative prompt, then named values."""
    asked = settings.get("pipeline_kwargs", {})
    image = picture(scored.sample)
    named = {
        "Steps": settings.get("steps"),
        "Sampler": str(settings.get("scheduler", settings.get("sampler"))).removesuffix("Scheduler"),
        "CFG scale": asked.get("true_cfg_scale", asked.get("guidance_scale")),
        "Seed": settings.get("seed"),
        "Size": f"{image.width}x{image.height}",
        "Model": model_name(settings),
        "Search": settings.get("algorithm"),
        "Reward": f"{settings.get('reward')} {scored.reward:.4f}",
        "NFE": scored.nfe,
        "Version": f"evosearch {settings.get('versions', {}).get('evosearch', '')}".strip(),
    }
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in named.items() if value is not None)
    negative = asked.get("negative_prompt")
    return "\n".join([str(settings.get("prompt")), *([f"Negative prompt: {negative}"] if negative else []), line])


def model_name(settings: Mapping[str, Any]) -> str:
    """What to call the model in what people pass on: of a folder somewhere on this machine, its own name."""
    name = str(settings.get("model", settings.get("sampler", "")))
    return Path(name).name if Path(name).is_absolute() else name


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text
