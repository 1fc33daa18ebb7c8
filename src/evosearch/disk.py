"""The disk that a run is written to: whether it is of this machine, and whether there is room."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/mounts")
_SHARED = (
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs", "gpfs", "glusterfs", "lustre", "ncpfs", "nfs", "ocfs", "orangefs",
    "panfs", "pvfs", "quobyte", "smb", "sshfs", "wekafs",
)  # fmt: skip


def shared(path: Path) -> str | None:
    """The kind of file system that a path lies on, where it is one of a network; None where that cannot be told."""
    found, depth = "", -1
    place = path.absolute()
    with suppress(OSError):
        place = path.resolve()
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            mount = Path(point.encode().decode("unicode_escape"))  # a space is \040 there
            if place.is_relative_to(mount) and len(mount.parts) >= depth:  # of two on one point, the later hides
                found, depth = kind, len(mount.parts)
    return found if found.removeprefix("fuse.").startswith(_SHARED) else None


def check_room(folder: Path, needed: int) -> None:
    """See that there is room for what a run may write to its folder, beside what it holds already.

    Raises:
        OSError: There is not.
    """
    place = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        free = shutil.disk_usage(place).free
        free += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:  # who cannot say it may have room
        return
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"run folder {folder} has room for {_size(free)}, and the search may write {_size(needed)}; make room, "
            "name a folder on another disk, or give a smaller budget",
        )


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
