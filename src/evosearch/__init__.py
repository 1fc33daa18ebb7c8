"""Inference-time search for diffusion and flow models: better images and videos for more compute, with no training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evosearch import models, rewards, searches
    from evosearch.budget import Budget, Cost
    from evosearch.executors.hiring import Workers, hire
    from evosearch.models import load
    from evosearch.pipeline import PipelineSampler
    from evosearch.result import Result, Scored
    from evosearch.resuming import resume
    from evosearch.run import Estimate, estimate, search
    from evosearch.sampler import DenoiserSampler
    from evosearch.session import InvalidReward
    from evosearch.types import Population

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Cost",
    "DenoiserSampler",
    "Estimate",
    "InvalidReward",
    "PipelineSampler",
    "Population",
    "Result",
    "Scored",
    "Workers",
    "estimate",
    "hire",
    "load",
    "models",
    "resume",
    "rewards",
    "search",
    "searches",
]

# torch and diffusers take seconds to import, and `evosearch --help` needs neither.
_HOMES = {
    "Budget": "budget",
    "Cost": "budget",
    "DenoiserSampler": "sampler",
    "Estimate": "run",
    "InvalidReward": "session",
    "PipelineSampler": "pipeline",
    "Population": "types",
    "Result": "result",
    "Scored": "result",
    "Workers": "executors.hiring",
    "estimate": "run",
    "hire": "executors.hiring",
    "load": "models",
    "resume": "resuming",
    "search": "run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"evosearch.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"evosearch.{name}")
    raise AttributeError(f"module 'evosearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
