"""Decoding as a run does it: samples of 8 bits, told apart by digests, and those that are not finite found out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evosearch.digests import digest
from evosearch.types import Population, Sampler


class Decoded(NamedTuple):
    """What particles were decoded to.

    Attributes:
        samples: (N, [F,] 3, H, W) uint8; None where they are not at hand.
        digests: Of each.
        whole: (N,) bool, which of them have finite numbers alone; the others are no samples.
        thumbnails: Small pictures of each, as they are shown; none where nobody made them.
    """

    samples: Tensor | None
    digests: list[bytes]
    whole: Tensor
    thumbnails: list[bytes] | None = None


def eight_bit(samples: Tensor) -> Tensor:
    """Samples in [0, 1] as uint8."""
    return (samples.detach() * 255).round().to(torch.uint8)


def exactly(sampler: Sampler, p: Population, again: bool = True) -> tuple[Tensor, Tensor]:
    """Samples in [0, 1], 0 where they are not finite, and which are, (N,) bool.

    Args:
        sampler: Decodes; where it can do so more precisely, it does where a finite state gave something that is not.
        p: Finished particles, or such with x0.
        again: Whether it may.
    """
    state = p.x if p.i == sampler.steps or p.x0 is None else p.x0
    sound, exact = _finite(state), sampler.decode(p)
    whole = _finite(exact)
    precisely = getattr(sampler, "decode_precisely", None)
    lost = sound & ~whole & ~torch.isin(p.id, torch.tensor([*getattr(sampler, "left_out", ())], dtype=torch.int64))
    if lost.any() and precisely is not None and again:
        exact = exact.clone()
        exact[lost] = precisely(p[lost.nonzero()[:, 0]])
        whole = _finite(exact)
    return exact.nan_to_num(0.0, 0.0, 0.0) if not whole.all() else exact, whole & sound


def told_apart(exact: Tensor, whole: Tensor) -> Decoded:
    """Samples in [0, 1] as they are kept."""
    samples = eight_bit(exact)
    return Decoded(samples, list(map(digest, samples)), whole)


def _finite(x: Tensor) -> Tensor:
    """Which rows (N, ...) have finite numbers alone, (N,) bool."""
    return x.detach().isfinite().flatten(1).all(1)
