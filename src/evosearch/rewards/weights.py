"""Weights that a reward loads when it needs them: a typo elsewhere is told before gigabytes are read or fetched.

Whoever makes a reward is told at once of what is missing (`evosearch.rewards.facts.Facts.check`). A search loads
what its rewards have put off after it has looked at all that it was given, and before its first step
(`evosearch.rewards.prepare`), so that neither an hour of denoising nor a budget's seconds go into it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Weights(Generic[T]):
    """What a reward computes with, loaded when it is first asked for: once, whichever thread or copy asks.

    Args:
        load: Makes it. Where it fails, the next to ask tries again.
    """

    def __init__(self, load: Callable[[], T]) -> None:
        self._load, self._lock = load, Lock()
        self._loaded: list[T] = []

    def __call__(self) -> T:
        """Load it, unless that was done."""
        with self._lock:
            if not self._loaded:
                # Weights that are made in inference mode would give no gradient to a later call.
                with torch.inference_mode(False), torch.no_grad():
                    self._loaded.append(self._load())
        return self._loaded[0]
