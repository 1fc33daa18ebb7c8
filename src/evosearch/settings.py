"""The settings of a run: all that it depends on, as plain data."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

import diffusers
import torch
from torch import nn

from evosearch import models
from evosearch.budget import describe
from evosearch.features import plain
from evosearch.media import frame_rate
from evosearch.resolve import defaults_of

if TYPE_CHECKING:
    from evosearch.session import Session

_PROBED = 64  # numbers of each weight


def settings_of(session: Session, budget: Any, given: Collection[str]) -> dict[str, Any]:
    """All that the run depends on, as plain data."""
    from evosearch import __version__

    own, plan = cast(Any, session.own), getattr(session.algorithm, "plan", None)
    settings: dict[str, Any] = {
        "prompt": session.prompt,
        "algorithm": session.algorithm.__name__,
        "knobs": {name: plain(value) for name, value in (defaults_of(session.algorithm) | session.knobs).items()},
        "budget": describe(session.meter.budget),
        "asked": None if budget is None else str(budget),
        "steps": own.steps,
        "eta": own.eta if session.eta is None and hasattr(own, "eta") else session.eta,
        "seed": session.seed,
        "batch_size": own.batch_size,
        "nfe": session.total,
        "plan": None if plan is None else plan(own.steps, given, **session.knobs),
        "sampler": type(own).__name__,
        "order": own.path.order,
        **(own.facts if hasattr(own, "facts") else facts_of_pipe(own)),
    }
    versions = {"evosearch": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return settings | {
        "versions": versions | {"python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }


def facts_of_pipe(sampler: Any) -> dict[str, Any]:
    """What a run depends on of a sampler's pipeline, if it has one."""
    pipe = getattr(sampler, "pipe", None)
    if pipe is None:
        return {}
    return {
        "model": models.name_of(pipe),
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "scheduler_config": {k: _plain(v) for k, v in pipe.scheduler.config.items() if not k.startswith("_")},
        "dtype": _precisions(pipe),
        "weights": {name: fingerprint(part) for name, part in networks(pipe).items()},
        "frame_rate": models.frame_rate(pipe),
        "pipeline_kwargs": {name: _plain(value) for name, value in sampler.kwargs.items()},
    }


def networks(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline by name."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def rate_of(sampler: Any) -> float:
    """At which a sampler's videos are saved, and judged, per second."""
    if hasattr(sampler, "frame_rate"):
        return sampler.frame_rate
    pipe = getattr(sampler, "pipe", None)
    own = None if pipe is None else models.frame_rate(pipe)
    return frame_rate({"pipeline_kwargs": getattr(sampler, "kwargs", {}), "frame_rate": own})


def _precisions(pipe: Any) -> dict[str, str]:
    """The type that most of the numbers of each part of a pipeline have: its precision, or that of its quantisation."""
    found: dict[str, str] = {}
    for name, part in networks(pipe).items():
        sizes = Counter[str]()
        for weight in part.parameters():
            sizes[str(weight.dtype).removeprefix("torch.")] += weight.numel()
        if sizes:
            found[name] = sizes.most_common(1)[0][0]
    return found


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(list[Any], value)]
    return type(value).__name__


def fingerprint(part: nn.Module) -> str:
    """A few characters that tell a network from others.

    They are made of the names, shapes and types of its weights, and of some of their numbers, evenly spread, so that it
    takes milliseconds whatever its size.
    """
    whole = blake2b(digest_size=8)
    for name, weight in sorted(part.state_dict().items()):
        whole.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.numel() and not weight.is_meta:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, weight.numel() // _PROBED)][:_PROBED].cpu().contiguous()
            whole.update(some.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
