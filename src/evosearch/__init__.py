"""Inference-time search for diffusion and flow models: better images and videos for more compute, with no training."""

from evosearch.budget import Budget, Cost
from evosearch.models import load
from evosearch.pipeline import PipelineSampler
from evosearch.result import Result, Scored
from evosearch.run import estimate, search
from evosearch.sampler import DenoiserSampler
from evosearch.session import InvalidReward
from evosearch.types import Population

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Cost",
    "DenoiserSampler",
    "InvalidReward",
    "PipelineSampler",
    "Population",
    "Result",
    "Scored",
    "estimate",
    "load",
    "search",
]
