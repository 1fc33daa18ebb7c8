"""Scoring: decode and judge a micro-batch at a time, so that decoded samples never pile up."""

from __future__ import annotations

from dataclasses import replace

import torch

from evosearch.types import Population, Reward, Sampler


def score(p: Population, sampler: Sampler, reward: Reward) -> Population:
    """The same particles with their rewards: of finished samples, or of x0 where predicted."""
    rewards = [reward(sampler.decode(batch)) for batch in p.split(sampler.batch_size)]
    return replace(p, reward=torch.cat(rewards).float())
