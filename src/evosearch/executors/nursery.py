"""The process that this machine's workers are forked from: it has imported what they need, once for all of them.

It never touches a device, so that those which are forked may.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple, NoReturn


class Place(NamedTuple):
    """Where a worker finds itself.

    Attributes:
        environment: Variables of its environment.
        path: Where its modules are.
        folder: Its working directory.
    """

    environment: dict[str, str]
    path: list[str]
    folder: str


class Nursery:
    """Starts workers; it ends with this process, and they end with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            handle = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(handle)],
                pass_fds=[handle],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # who asks for devices as it is imported must not wake them
                },
                start_new_session=True,  # Ctrl-C is for who searches
            )
        self._pipe, self._lock, self._owner = Connection(ours.detach()), threading.Lock(), os.getpid()
        atexit.register(self._close)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it is up, and this process's own: one that was forked has another."""
        return self._owner == os.getpid() and self._process.poll() is None

    def start(self, handle: int, place: Place) -> int:
        """A worker that talks over a socket; its process id.

        Raises:
            OSError: This is no longer up.
        """
        try:
            with self._lock:
                self._pipe.send(place)
                send_handle(self._pipe, handle, self.pid)
                return self._pipe.recv()
        except EOFError as error:
            raise OSError("the process that workers are forked from has ended") from error

    def end(self, pid: int) -> int | None:
        """Kill a worker, if it is up, and say what its process ended with; None where nobody knows."""
        try:
            with self._lock:
                self._pipe.send(pid)
                return self._pipe.recv()
        except (EOFError, OSError):
            return None

    def _close(self) -> None:
        if self.usable:
            self._pipe.close()
            self._process.wait()


_own: Nursery | None = None
_making = threading.Lock()


def nursery() -> Nursery:
    """That of this process."""
    global _own
    with _making:
        if _own is None or not _own.usable:
            _own = Nursery()
        return _own


def main(handle: int) -> None:
    """Be a nursery, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from evosearch.executors import processes

    ended = dict[int, int]()
    with suppress(EOFError, OSError), Connection(handle) as asks:
        while True:
            asked: Place | int = asks.recv()
            if isinstance(asked, int):
                if asked not in ended:  # until then its number is no other process's
                    os.kill(asked, signal.SIGKILL)
                    ended[asked] = os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1])
                asks.send(ended[asked])
                continue
            theirs = recv_handle(asks)
            pid = os.fork()
            if not pid:
                asks.close()
                _be_worker(processes.main, theirs, asked)
            os.close(theirs)
            asks.send(pid)


def _be_worker(work: Any, handle: int, place: Place) -> NoReturn:
    code = 1
    try:
        os.environ.clear()
        os.environ.update(place.environment)
        sys.path[:] = place.path
        os.chdir(place.folder)
        work(handle)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
