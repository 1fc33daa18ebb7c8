"""Negatives: particles that were scored, with their samples, or with what those are decoded from.

A run that is resumed knows what its samples were worth without having them. Only those that it keeps are decoded again,
and have to be the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from evosearch.decoding import eight_bit
from evosearch.digests import digest
from evosearch.types import Population, concat


class Undeveloped(ValueError):
    """A sample is decoded to other bits than it was when it was scored."""


class Negative:
    """One scored particle.

    Args:
        p: A population of one, finished or with its x0.
        sample: ([F,] 3, H, W) uint8; None where it has not been decoded here.
        digest: Of the sample, where that is known.

    Attributes:
        id: Who it is.
    """

    def __init__(self, p: Population, sample: Tensor | None, digest: bytes | None = None) -> None:
        self.p, self.digest, self._sample = p, digest, sample
        self.id = int(p.id)

    @property
    def sample(self) -> Tensor:
        """([F,] 3, H, W) uint8."""
        assert self._sample is not None, "develop it first"
        return self._sample

    @property
    def developed(self) -> bool:
        """Whether its sample is at hand."""
        return self._sample is not None

    def show(self, sample: Tensor) -> None:
        """Give it its sample.

        Raises:
            Undeveloped: It had another one when it was scored.
        """
        if self.digest is not None and digest(sample) != self.digest:
            raise Undeveloped(
                f"particle {self.id:016x} is decoded to another sample than it was scored by, so that the run cannot "
                "go on; resume it with the same model, on the machine that it began on"
            )
        self._sample = sample


def develop(negatives: Iterable[Negative], decode: Callable[[Population], Tensor]) -> None:
    """Decode those whose sample is not at hand.

    Args:
        negatives: Some may come more than once.
        decode: States to samples in [0, 1].
    """
    by_level = dict[int, list[Negative]]()
    for negative in dict.fromkeys(negatives):
        if not negative.developed:
            by_level.setdefault(negative.p.i, []).append(negative)
    for group in by_level.values():
        samples = eight_bit(decode(concat(*(negative.p for negative in group))))
        for negative, sample in zip(group, samples, strict=True):
            negative.show(sample)
