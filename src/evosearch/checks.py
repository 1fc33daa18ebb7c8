"""Arguments looked at once, at the boundary: what is wrong is said in one sentence."""

from __future__ import annotations

import linecache
import math
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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


def above_zero(name: str, value: Any) -> float:
    """A number above 0; ValueError otherwise."""
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return value


def at_least_zero(name: str, value: Any) -> float:
    """A number of at least 0; ValueError otherwise."""
    if not is_number(value) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False; ValueError otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """One of these words; ValueError otherwise."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """A precision by its name; ValueError where it is none that models run in."""
    import torch

    known = {
        torch.float32: ("float32", "fp32"), torch.float16: ("float16", "fp16"), torch.bfloat16: ("bfloat16", "bf16")
    }  # fmt: skip
    for found, names in known.items():
        if dtype == found or dtype in names:
            return found
    raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")


def differentiable(name: str, reward: Any) -> None:
    """A reward that a search can ask for its gradient; ValueError otherwise."""
    if not getattr(reward, "differentiable", False):
        raise ValueError(
            f"reward must be differentiable for {name}, which climbs its gradient; take one that says so (shapes_clip, "
            "shapes_quality, or your own with differentiable = True), or a search that needs no gradient"
        )


def is_number(value: Any) -> bool:
    """Whether this is a number that is not NaN; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def samples_and_prompts(samples: Tensor, prompts: Any, least: int = 1) -> None:
    """Float samples (N, [F,] 3, H, W), sides of at least ``least`` pixels, and N prompts; ValueError otherwise."""
    got = f"got {samples.dtype} {tuple(samples.shape)}"
    if samples.ndim not in (4, 5) or samples.shape[-3] != 3 or not samples.is_floating_point():
        raise ValueError(
            f"samples: expected a float tensor (N, 3, H, W), or (N, F, 3, H, W) for video, in [0, 1], {got}; "
            "move the channels before height and width, and divide bytes by 255"
        )
    if min(samples.shape[-2:]) < least:
        raise ValueError(
            f"samples: expected sides of at least {least} pixels, {got}; "
            "generate larger images, shapes cannot be told apart in these"
        )
    if isinstance(prompts, str) or len(prompts) != len(samples):
        raise ValueError(
            f"prompts: expected a list of {len(samples)} strings, one for each sample, got {prompts!r}; "
            "repeat a prompt that all samples share"
        )


def is_refusal(error: Exception) -> bool:
    """Whether an error speaks of the user's arguments, which we and diffusers check, and not of a defect."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").partition(".")[0] in ("evosearch", "diffusers")
    # A sentence meant for people was raised by a statement; what Python itself objects to is our mistake.
    return ours and linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")


def first_line(error: Exception) -> str:
    """Of what an error says, without its full stop; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def barred(name: str, error: BaseException) -> str | None:
    """Why the hub gives nothing of a model to this user, and what to do; None where that is not what went wrong."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    found = tuple(causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in found):
        page = f"https://huggingface.co/{name}"
        return f"model {name!r} is gated: accept its terms at {page}, then log in with 'hf auth login'"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in found):
        return f"model {name!r} is not on the hub, or is private: check its spelling, or log in with 'hf auth login'"
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
