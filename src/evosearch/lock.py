"""The lock of a run folder: one process writes a run, and the lock ends with it, however it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # the last of Windows


class Taken(ValueError):
    """Another process writes this run."""


def locked(folder: Path) -> int:
    """A handle that holds the folder's lock until it is closed.

    Raises:
        Taken: Another one holds it.
        ValueError: There are no locks here.
    """
    handle = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle)
    except OSError as error:
        os.close(handle)
        if error.errno not in _HELD:
            raise ValueError(
                f"run folder {folder} lies where files cannot be locked ({error.strerror}); mount that with locks, or "
                "name a folder on another disk"
            ) from error
        raise Taken(f"run {folder} is being written by another process; wait for it, or name another folder") from error
    return handle


if os.name == "nt":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
