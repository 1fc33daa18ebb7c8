"""Keyed noise: what a particle meets depends on its key, never on its batch, its order or its worker."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(*event: int | str) -> int:
    """63-bit seed of an event, from its description."""
    digest = blake2b("|".join(map(str, event)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def normal(seed: int, keys: Tensor, level: int, purpose: str, shape: Sequence[int]) -> Tensor:
    """Unit Gaussian noise, one generator an event, always drawn on the CPU.

    A CUDA generator gives other numbers on other GPU models; the CPU's gives the same everywhere.

    Args:
        seed: Run seed.
        keys: (N,) int64.
        level: Level at which the noise enters.
        purpose: ``prior``, ``mutation``, ``step`` or ``renoise``.
        shape: Shape of one particle, D.

    Returns:
        (N, *D) float32.
    """
    noise = torch.empty(len(keys), *shape)
    for row, key in zip(noise, keys.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed_of(seed, key, level, purpose))
        row.normal_(generator=generator)
    return noise
