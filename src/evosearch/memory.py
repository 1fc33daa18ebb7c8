"""Memory that does not suffice: the same again with half as many at a time, and again, down to one."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_SAID = (  # by libraries that raise a plain RuntimeError
    "CUDA out of memory",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


class OutOfMemory(RuntimeError):
    """There is too little memory, however few particles are taken at a time."""


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID)


def within(work: Callable[[], T], shrink: Callable[[], bool]) -> T:
    """Do some work, and again whenever memory did not suffice and it could be made smaller.

    Args:
        work: What is to be done.
        shrink: Makes it smaller; false where that cannot be.

    Raises:
        OutOfMemory: It could not be made small enough.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not exhausted(error):
                raise
            said = str(error).partition("\n")[0]
        # Only here: as long as the error is handled, its traceback holds what the attempt has made.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not shrink():
            raise OutOfMemory(
                f"memory does not suffice for one particle at a time ({said}); load it with offload= or quantize="
            )


def half(size: int) -> int:
    """The largest power of two below a size above 1."""
    return 1 << ((size - 1).bit_length() - 1)
