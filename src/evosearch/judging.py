"""What a reward says of samples, at what price, and where it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evosearch.rewards import TensorReward, scores
from evosearch.rewards.cache import leaves
from evosearch.rewards.combined import Combined


def spent(reward: Any) -> float:
    """Money that a reward, or what it is made of, knows to have spent so far: its ``usd_spent``."""
    return sum(float(getattr(part, "usd_spent", None) or 0.0) for part in leaves(reward))


def is_priced(reward: Any) -> bool:
    """Whether a reward, or what it is made of, says what it has spent."""
    return any(getattr(part, "usd_spent", None) is not None for part in leaves(reward))


def heard(reward: TensorReward, samples: Tensor, prompts: list[str], name: str = "") -> Tensor:
    """What all says that a reward is made of, (N, R); of one that is made of none, its scores, (N,)."""
    if isinstance(reward, Combined):
        return reward.each(samples, prompts)
    return scores(reward, samples, prompts, name)


def brought_together(
    reward: TensorReward, found: Tensor, *, learn: bool = True
) -> tuple[Tensor, list[dict[str, float]]]:
    """A reward's scores by what `heard` gave, (N,) or (N, R); and of each what it is made of, if it is.

    Args:
        reward: The reward.
        found: What was heard.
        learn: Whether these are of the search, by whose samples, in turn, some rewards measure.
    """
    if not isinstance(reward, Combined):
        return found, []
    values = reward.combine(found) if learn else reward.value(found)
    names, shown = (list(reward.parts), values) if reward.apart else (reward.names, found)
    return values, [dict(zip(names, row, strict=True)) for row in shown.tolist()]


def judged(
    reward: TensorReward, samples: Tensor, prompts: list[str], *, learn: bool = True, name: str = ""
) -> tuple[Tensor, list[dict[str, float]]]:
    """Both: what a reward says of samples (N, [F,] 3, H, W), and what that is made of.

    Args:
        reward: The reward.
        samples: In [0, 1].
        prompts: N of them.
        learn: See `brought_together`.
        name: Of the reward, for errors.
    """
    return brought_together(reward, heard(reward, samples, prompts, name), learn=learn)


def elsewhere(reward: Any, device: torch.device) -> bool:
    """Whether a reward leaves this device to others: it is ``remote``, or its ``device`` is another one."""
    if getattr(reward, "remote", False):
        return True
    own = torch.device(getattr(reward, "device", None) or device)
    return (own.type, own.index or 0) != (device.type, device.index or 0)
