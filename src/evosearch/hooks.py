"""What `PipelineSampler` puts around a pipeline's own methods and networks for the length of a call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from evosearch.seam import Leg, Probe, Reached, visible


def denoisers(pipe: Any) -> list[nn.Module]:
    """The pipeline's networks that may be hooked; one compiled in place would compile again for it."""
    parts = [getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2", "prior", "denoiser")]
    found = [m for m in parts if isinstance(m, nn.Module)]
    return [m for m in found if getattr(m, "_compiled_call_impl", None) is None]


def forget_features(pipe: Any) -> None:
    """Empty diffusers' feature caches, where the user has switched them on: what they hold is of other particles."""
    for module in denoisers(pipe):
        if getattr(module, "is_cache_enabled", False):
            cast(Any, module)._reset_stateful_cache()


def rows_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Rows of a denoiser's input: its first batch, or list of states."""
    batches = (v for v in (*args, *kwargs.values()) if isinstance(v, list) or (isinstance(v, Tensor) and v.ndim > 1))
    return len(next(batches, ()))


@contextmanager
def halted(pipe: Any) -> Generator[None]:
    """End the call at the denoiser's door, at no cost, where the latents are known by then."""

    def stop(module: nn.Module, args: Any) -> None:
        del module, args
        raise Reached

    hooks = [m.register_forward_pre_hook(stop) for m in denoisers(pipe)] if hasattr(pipe, "prepare_latents") else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def frozen(pipe: Any) -> Generator[None]:
    """Gradients of states alone: no weight asks for one.

    Raises:
        ValueError: A part of the pipeline is offloaded or quantised.
    """
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    for name, part in parts.items():
        if getattr(part, "_hf_hook", None) is not None or any(hasattr(m, "_hf_hook") for m in part.modules()):
            raise ValueError(
                f"the pipeline's {name} is offloaded, which lets no gradient through; load it without offload"
            )
        if getattr(part, "hf_quantizer", None) is not None or getattr(part, "is_quantized", False):
            raise ValueError(f"the pipeline's {name} is quantised, which lets no gradient through; load it as it is")
    asking = [weight for part in parts.values() for weight in part.parameters() if weight.requires_grad]
    for weight in asking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)


def memoised(own: Callable[..., Any], results: dict[Any, Any]) -> Callable[..., Any]:
    """A method that gives out what it returned before for the same arguments, kept in ``results``."""

    @functools.wraps(own)
    def encode(*args: Any, **kwargs: Any) -> Any:
        key = (own.__name__, _fingerprint(args), _fingerprint(kwargs))
        if key not in results:
            results[key] = (own(*args, **kwargs), args, kwargs)  # holding the arguments keeps their ids theirs
        return results[key][0]

    return encode


def _fingerprint(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((k, _fingerprint(v)) for k, v in cast(dict[str, Any], value).items())
    if isinstance(value, list | tuple):
        return tuple(_fingerprint(v) for v in cast(list[Any], value))
    if value is None or isinstance(value, str | int | float | bool | torch.device | torch.dtype):
        return value
    return id(value)


def cut_by_strength(own: Any, leg: Leg | Probe, asked: int) -> Any:
    """Image-to-image pipelines cut the schedule by their strength; the path is what they leave of it."""

    @functools.wraps(own)
    def get_timesteps(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(*args, **kwargs)
        if isinstance(leg, Leg):
            given.arguments["num_inference_steps"] = asked  # some pipelines count what they see, in a decode none
        timesteps, *rest = own(*given.args, **given.kwargs)
        if isinstance(leg, Leg):
            return (visible(leg).to(timesteps.device), *rest)
        assert leg.path is not None
        leg.path = leg.path.cut(leg.path.steps - len(timesteps), leg.path.steps)
        return (timesteps, *rest)

    return get_timesteps


def noted_packing(own: Any, probe: Probe) -> Any:
    """The pipeline's own packing of latents, noting for the probe how to do it again, and the shape before."""

    @functools.wraps(own)
    def pack(latents: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        n = len(latents)

        def again(x: Tensor) -> Tensor:
            # FLUX and Qwen-Image name the batch size among the arguments, first.
            sizes = (len(x), *args[1:]) if args and args[0] == n and len(args) > 2 else args
            return own(x, *sizes, **kwargs)

        probe.packing = (again, tuple(latents.shape[1:]))
        return own(latents, *args, **kwargs)

    return pack
