"""Arguments looked at once, at the boundary: what is wrong is said in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast


def whole_number(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``; ValueError otherwise."""
    if not _is_whole(value):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def whole_numbers(name: str, values: Any) -> list[int]:
    """A sequence of whole numbers as a list; ValueError otherwise."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(map(_is_whole, values)):
        raise ValueError(f"{name} must be a list of whole numbers, got {values!r}")
    return list(cast(Sequence[int], values))


def share(name: str, value: Any) -> float:
    """A number in [0, 1]; ValueError otherwise."""
    if not is_number(value):
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return value


def is_number(value: Any) -> bool:
    """Whether this is a number that is not NaN; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
