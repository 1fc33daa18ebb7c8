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
import time
import traceback
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple, NoReturn

_LOOKS = 1.0  # seconds between looks at whether the process that searches is there
_DYING = 2.0  # seconds that a worker's end is waited for, to say what it ended with


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
        return self._owner == os.getpid() and not self._pipe.closed and self._process.poll() is None

    def start(self, handle: int, place: Place) -> int:
        """A worker that talks over a socket; the number by which it is known here.

        Raises:
            OSError: It could not be started.
        """
        told = self._asked(("start", place), handle)
        if isinstance(told, str):
            raise OSError(told)
        return told

    def kill(self, worker: int) -> None:
        """End a worker, if it is up; its end is not waited for."""
        with suppress(OSError):
            self._asked(("kill", worker))

    def code(self, worker: int) -> int | None:
        """What a worker's process has ended with; None where it does not end, or nobody knows."""
        with suppress(OSError):
            return self._asked(("code", worker))
        return None

    def _asked(self, question: Any, handle: int | None = None) -> Any:
        with self._lock:
            try:
                self._pipe.send(question)
                if handle is not None:
                    send_handle(self._pipe, handle, self.pid)
                return self._pipe.recv()
            except BaseException as error:  # the answer that is still to come would be taken for another's
                self._pipe.close()
                if isinstance(error, EOFError):
                    raise OSError("the process that workers are forked from has ended") from error
                raise

    def _close(self) -> None:
        if self._owner != os.getpid():
            return
        self._pipe.close()
        try:
            self._process.wait(2 * _DYING)
        except subprocess.TimeoutExpired:
            self._process.kill()


_own: Nursery | None = None
_making = threading.Lock()


def nursery() -> Nursery:
    """That of this process."""
    global _own
    with _making:
        if _own is None or not _own.usable:
            _own = Nursery()
        return _own


def main(handle: int, parent: int) -> None:
    """Be a nursery, as long as the process that searches is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from evosearch.executors import processes

    numbers, up, ended = count(1), dict[int, int](), dict[int, int]()
    with suppress(EOFError, OSError), Connection(handle) as asks:
        while True:
            while not asks.poll(_LOOKS):
                _reap(up, ended)
                if os.getppid() != parent:  # another process may have a copy of the pipe
                    return
            what, about = asks.recv()
            if what == "start":
                theirs = recv_handle(asks)
                try:
                    pid = os.fork()
                except OSError as error:
                    asks.send(f"no worker can be started ({error.strerror})")
                else:
                    if not pid:
                        asks.close()
                        _be_worker(processes.main, theirs, about)
                    number = next(numbers)
                    up[number] = pid
                    asks.send(number)
                os.close(theirs)
                continue
            _reap(up, ended)
            if what == "kill":
                if about in up:  # as long as it is not reaped, its process id is no other's
                    os.kill(up[about], signal.SIGKILL)
                asks.send(None)
            else:
                until = time.monotonic() + _DYING
                while about in up and time.monotonic() < until:
                    time.sleep(0.01)
                    _reap(up, ended)
                asks.send(ended.get(about))


def _reap(up: dict[int, int], ended: dict[int, int]) -> None:
    for number, pid in list(up.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended[number] = os.waitstatus_to_exitcode(status)
            del up[number]


def _be_worker(work: Any, handle: int, place: Place) -> NoReturn:
    code = 1
    try:
        os.environ.clear()
        os.environ.update(place.environment)
        sys.path[:] = place.path
        os.chdir(place.folder)
        work(handle)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), os.getppid())
