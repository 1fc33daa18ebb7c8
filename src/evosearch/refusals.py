"""What cannot be searched, and why: pipelines and arguments that are refused by name."""

from __future__ import annotations

import inspect
from typing import Any

_OURS = {
    "latents": "the search makes them",
    "generator": "noise is keyed; set seed= instead",
    "eta": "it is the sampler's; set eta= instead",
    "num_inference_steps": "set steps= instead",
    "output_type": "use decode() or Result",
    "return_dict": "use decode() or Result",
    "num_images_per_prompt": "set batch_size= instead",
    "num_videos_per_prompt": "set batch_size= instead",
    "callback_on_step_end": "the search listens there itself",
    "callback_on_step_end_tensor_inputs": "the search listens there itself",
}
# The pipeline works these out from the step's index in the call, and one call is only a part of a trajectory.
_BY_INDEX = (
    "control_guidance_start",
    "control_guidance_end",
    "skip_guidance_layers",
    "denoising_start",
    "denoising_end",
)
# Its autoencoder attends over one video; several in a batch fail in diffusers itself.
_ONE_AT_A_TIME = ("HunyuanVideo15Pipeline",)


def one_at_a_time(pipe: Any) -> bool:
    """Whether a pipeline can decode but one sample at a time."""
    return type(pipe).__name__ in _ONE_AT_A_TIME


def check_class(kind: type) -> dict[str, inspect.Parameter]:
    """The parameters of such pipelines' call; ValueError where none of them can be searched."""
    if kind.__name__.startswith("LTX2") or "audio_scheduler" in inspect.signature(kind).parameters:
        raise ValueError(f"{kind.__name__} denoises two latents at once (video, audio), which cannot be searched yet")
    accepts = dict(inspect.signature(kind.__call__).parameters)
    if "num_inference_steps" not in accepts:
        raise ValueError(f"{kind.__name__} has no num_inference_steps: it does not denoise step by step")
    return accepts


def check_arguments(pipe: Any, kwargs: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """The parameters of the pipeline's call; ValueError where it, or an argument for it, cannot be searched."""
    name = type(pipe).__name__
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ValueError(f"pipe must be a diffusers pipeline with a scheduler, got {name}")
    accepts = check_class(type(pipe))
    if getattr(pipe, "free_init_enabled", False):
        raise ValueError(f"{name} denoises several times with FreeInit on; call pipe.disable_free_init() first")
    for given in kwargs:
        if given in _OURS:
            raise ValueError(f"{given} must not be among the pipeline's arguments: {_OURS[given]}")
        if given not in accepts:
            raise ValueError(
                f"{name} takes no argument {given!r}; it takes {', '.join(k for k in accepts if k != 'self')}"
            )
        if given in _BY_INDEX and kwargs[given] not in (None, accepts[given].default):
            raise ValueError(
                f"{given} cannot be searched with: {name} applies it by the step's index in the call, and a search "
                "calls it for parts of a trajectory"
            )
    return accepts
