"""Workers as processes of this machine, one for each of its devices; and such a process itself."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from evosearch.executors.nursery import Place, nursery
from evosearch.executors.pool import Lane, WorkerLost
from evosearch.executors.worker import Desk, Setup

_BEAT = b""
_EVERY = 0.5  # seconds between signs of life, at least


class ProcessLane:
    """One process, which ends with this one.

    Args:
        setup: What it is to load, pickled.
        environment: Its environment.
    """

    def __init__(self, setup: bytes, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._nursery = nursery()
            try:
                self._number = self._nursery.start(theirs.fileno(), Place(environment, sys.path, os.getcwd()))
            except OSError as error:
                ours.close()
                raise WorkerLost(str(error)) from error
        self._pipe = Connection(ours.detach())
        self._pipe.send_bytes(setup)

    def ask(self, question: bytes, patience: float) -> tuple[bytes, float]:
        """See `evosearch.executors.pool.Lane`."""
        silence, last = 0.0, time.monotonic()
        try:
            self._pipe.send_bytes(question)
            while True:
                if not self._pipe.poll(max(0.0, last + patience - time.monotonic())):
                    self.close()
                    raise WorkerLost(f"no sign of life for {patience:.0f} s")
                said = self._pipe.recv_bytes()
                now = time.monotonic()
                silence, last = max(silence, now - last), now
                if said != _BEAT:
                    return said, silence
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerLost(f"its process ended with {self._nursery.code(self._number)}") from error

    def stop(self) -> None:
        """See `evosearch.executors.pool.Lane`."""
        self._nursery.kill(self._number)

    def close(self) -> None:
        """See `evosearch.executors.pool.Lane`."""
        self.stop()
        self._pipe.close()


def hire(setup: Setup, devices: int) -> Any:
    """What makes the k-th worker of a pool.

    Args:
        setup: What it is to load.
        devices: Accelerators to share out among them.
    """
    packed = cloudpickle.dumps(setup)
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else [str(k) for k in range(devices)]

    def make(number: int) -> Lane:
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = names[number % devices]
        return ProcessLane(packed, environment)

    return make


class _Beats:
    """Tells who waits that there is life, and ends this process where nobody waits any more."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._last = pipe, 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._pipe.send_bytes(_BEAT)


def main(handle: int) -> None:
    """Be a worker, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(handle)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with suppress(EOFError, OSError):
        desk = Desk(pipe.recv_bytes(), _Beats(pipe))
        while True:
            pipe.send_bytes(desk(pipe.recv_bytes()))


def _end_with_parent(parent: int) -> None:
    """A long micro-batch of which nobody waits for the end is not brought to it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)
