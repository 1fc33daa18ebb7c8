"""What suits each family of models: the table behind `evosearch.load`.

A row holds only what differs from the defaults of the pipeline's own ``__call__``, or what a user should see at a
glance. Values are those that the families' authors or diffusers' examples recommend, at the smaller of the sizes they
name, since a search generates many times.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any

_WAN_NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three "
    "legs, many people in the background, walking backwards"
)
_LTX_NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"


@dataclass(frozen=True)
class Family:
    """Models that are called alike.

    Attributes:
        name: What people call it.
        pipeline: Class of the pipeline.
        steps: Denoising steps.
        call: Arguments of the pipeline's ``__call__``.
        where: What marks it among pipelines of the class: configuration values by dotted name, such as
            ``transformer.num_layers``, or ``pipe.`` and a name for the pipeline's own.
        named: Pattern in its own name, that of the repository or folder, where configurations are alike.
        half: Name of the half precision that it runs in on an accelerator.
        full: Parts that need single precision.
        scheduler: Settings of the scheduler, as they come with the weights and as they should be; a copy that was saved
            with others keeps its own.
        frame_rate: Of its videos, per second.
    """

    name: str
    pipeline: str
    steps: int
    call: Mapping[str, Any] = field(default_factory=dict[str, Any])
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    named: str = ""
    half: str = "bfloat16"
    full: tuple[str, ...] = ()
    scheduler: Mapping[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    frame_rate: int | None = None

    @property
    def suited(self) -> dict[str, Any]:
        """Steps, and arguments of the call."""
        return {"steps": self.steps, **self.call}

    def fits(self, setting: Callable[[str], Any]) -> bool:
        """Whether configuration values, looked up by dotted name, are those that mark it."""
        return all(setting(key) == value for key, value in self.where.items())


_SD = "StableDiffusionPipeline"
_SDXL = "StableDiffusionXLPipeline"
_SD3 = "StableDiffusion3Pipeline"
_WAN = "WanPipeline"

FAMILIES = (
    # Images.
    Family("SD Turbo", _SD, 1, {"guidance_scale": 0.0}, named="turbo", half="float16"),
    Family("SD 2.1", _SD, 50, {"guidance_scale": 7.5}, where={"unet.cross_attention_dim": 1024}, half="float16"),
    Family("SD 1.5", _SD, 50, {"guidance_scale": 7.5}, where={"unet.cross_attention_dim": 768}, half="float16"),
    Family("SDXL Turbo", _SDXL, 4, {"guidance_scale": 0.0}, named="turbo", half="float16"),
    Family("SDXL", _SDXL, 30, {"guidance_scale": 5.0}, half="float16"),
    Family("SD 3.5 Large Turbo", _SD3, 4, {"guidance_scale": 0.0}, named="turbo"),
    Family(
        "SD 3.5 Medium", _SD3, 40, {"guidance_scale": 4.5},
        where={"transformer.num_layers": 24, "transformer.qk_norm": "rms_norm"},
    ),
    Family("SD 3.5 Large", _SD3, 28, {"guidance_scale": 3.5}, where={"transformer.num_layers": 38}),
    Family("SD 3", _SD3, 28, {"guidance_scale": 7.0}),
    Family(
        "FLUX.1-dev", "FluxPipeline", 28, {"guidance_scale": 3.5},
        where={"transformer.num_layers": 19, "transformer.guidance_embeds": True},
    ),
    Family(
        "FLUX.1-schnell", "FluxPipeline", 4, {"guidance_scale": 0.0, "max_sequence_length": 256},
        where={"transformer.num_layers": 19, "transformer.guidance_embeds": False},
    ),
    Family("FLUX.2-dev", "Flux2Pipeline", 28, {"guidance_scale": 4.0}),
    Family("FLUX.2-klein", "Flux2KleinPipeline", 4, {"guidance_scale": 1.0}, where={"pipe.is_distilled": True}),
    Family("FLUX.2-klein-base", "Flux2KleinPipeline", 50, {"guidance_scale": 4.0}),
    Family("Qwen-Image", "QwenImagePipeline", 50, {"true_cfg_scale": 4.0, "negative_prompt": " "}),
    Family("Z-Image-Turbo", "ZImagePipeline", 8, {"guidance_scale": 0.0}, named="turbo"),
    Family("Z-Image", "ZImagePipeline", 50, {"guidance_scale": 4.0}),
    # Videos.
    Family(
        "Wan 2.2 A14B", _WAN, 40,
        {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 4.0, "guidance_scale_2": 3.0,
         "negative_prompt": _WAN_NEGATIVE},
        where={"transformer_2.num_layers": 40}, full=("vae",), scheduler={"flow_shift": (3.0, 12.0)}, frame_rate=16,
    ),
    Family(
        "Wan 2.2 TI2V 5B", _WAN, 50,
        {"height": 704, "width": 1280, "num_frames": 121, "guidance_scale": 5.0, "negative_prompt": _WAN_NEGATIVE},
        where={"pipe.expand_timesteps": True}, full=("vae",), scheduler={"flow_shift": (3.0, 5.0)}, frame_rate=24,
    ),
    Family(  # at 480 lines the authors' code shifts by 5, diffusers' example by 3
        "Wan 2.1 14B", _WAN, 50,
        {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0, "negative_prompt": _WAN_NEGATIVE},
        where={"transformer.num_layers": 40}, full=("vae",), scheduler={"flow_shift": (3.0, 5.0)}, frame_rate=16,
    ),
    Family(
        "Wan 2.1 1.3B", _WAN, 50,
        {"height": 480, "width": 832, "num_frames": 81, "guidance_scale": 6.0, "negative_prompt": _WAN_NEGATIVE},
        where={"transformer.num_layers": 30}, full=("vae",), scheduler={"flow_shift": (3.0, 8.0)}, frame_rate=16,
    ),
    Family(
        "HunyuanVideo 13B", "HunyuanVideoPipeline", 30,
        {"height": 544, "width": 960, "num_frames": 61, "guidance_scale": 6.0}, frame_rate=24,
    ),
    Family("HunyuanVideo 1.5", "HunyuanVideo15Pipeline", 50, {"num_frames": 121}, frame_rate=24),
    Family(
        "LTX-2.3", "LTX2Pipeline", 30,
        {"height": 512, "width": 768, "num_frames": 121, "guidance_scale": 3.0, "guidance_rescale": 0.7,
         "stg_scale": 1.0, "spatio_temporal_guidance_blocks": [28], "modality_scale": 3.0,
         "audio_guidance_scale": 7.0, "use_cross_timestep": True, "negative_prompt": _LTX_NEGATIVE},
        where={"transformer.cross_attn_mod": True}, frame_rate=24,
    ),
    Family(
        "LTX-2", "LTX2Pipeline", 30,
        {"height": 512, "width": 768, "num_frames": 121, "guidance_scale": 3.0,
         "spatio_temporal_guidance_blocks": [29], "use_cross_timestep": False, "negative_prompt": _LTX_NEGATIVE},
        frame_rate=24,
    ),
    Family(
        "CogVideoX 2B", "CogVideoXPipeline", 50, {"guidance_scale": 6.0, "num_frames": 49},
        where={"transformer.num_layers": 30}, half="float16",
        scheduler={"timestep_spacing": ("linspace", "trailing")}, frame_rate=8,
    ),
    Family(
        "CogVideoX 1.5 5B", "CogVideoXPipeline", 50,
        {"height": 768, "width": 1360, "num_frames": 81, "guidance_scale": 6.0},
        where={"transformer.patch_size_t": 2}, scheduler={"timestep_spacing": ("linspace", "trailing")}, frame_rate=16,
    ),
    Family(
        "CogVideoX 5B", "CogVideoXPipeline", 50, {"guidance_scale": 6.0, "num_frames": 49},
        scheduler={"timestep_spacing": ("linspace", "trailing")}, frame_rate=8,
    ),
    # Bundled; small enough to be told by their sizes.
    Family("shapes-diffusion", _SD, 20, {"guidance_scale": 3.0}, where={"unet.cross_attention_dim": 128}),
    Family(
        "shapes-flow", "FluxPipeline", 20,
        {"height": 64, "width": 64, "max_sequence_length": 24, "true_cfg_scale": 3.0, "negative_prompt": ""},
        where={"transformer.joint_attention_dim": 128},
    ),
    Family(
        "shapes-video", _WAN, 20,
        {"height": 64, "width": 64, "num_frames": 9, "max_sequence_length": 24, "guidance_scale": 2.0},
        where={"transformer.text_dim": 128}, frame_rate=8,
    ),
)  # fmt: skip
"""Rows are tried from above; the first that fits is taken."""


def family_of(pipe: Any, name: str) -> Family | None:
    """The row that fits a pipeline of this hub id, folder or bundled name; None where there is none."""
    setting = partial(_setting, pipe)
    return next((family for family in _rows(type(pipe).__name__, name) if family.fits(setting)), None)


def half_of(pipeline: str, name: str, setting: Callable[[str], Any]) -> tuple[str, tuple[str, ...]]:
    """The half precision of a pipeline that is not loaded yet, and the parts that need single precision.

    Args:
        pipeline: Its class.
        name: Hub id or folder.
        setting: From the dotted name of a configuration value, as in `Family.where`, to the value.
    """
    rows = list(_rows(pipeline, name))
    family = next((row for row in rows if row.fits(setting)), rows[0] if rows else None)
    return ("bfloat16", ()) if family is None else (family.half, family.full)


def _rows(pipeline: str, name: str) -> Iterator[Family]:
    cached = re.search(r"models--([^/]+)", name)  # as the hub's cache names folders: models--owner--name
    own = cached[1].rpartition("--")[2] if cached else PurePath(os.path.abspath(name)).name  # of "." as well
    for family in FAMILIES:
        if family.pipeline == pipeline and re.search(family.named, own, re.IGNORECASE):
            yield family


def _setting(pipe: Any, key: str) -> Any:
    part, name = key.split(".")
    owner = pipe if part == "pipe" else getattr(pipe, part, None)
    return getattr(getattr(owner, "config", None), name, None)
