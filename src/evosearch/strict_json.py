"""JSON that every reader takes, of values that may be anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast


def dumps(value: Any, indent: int | None = None) -> str:
    """Write a value as strict JSON, in ASCII, so that it is safe to show in a terminal.

    What JSON has no form for becomes null (NaN, infinity) or text (paths, functions, tensors).

    >>> dumps({"rate": float("nan"), "schedule": (0, 5)})
    '{"rate": null, "schedule": [0, 5]}'
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """The value in mappings, lists, text, numbers, truth values and None alone."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in cast(list[Any], value)]
    return getattr(value, "__name__", str(value))
