"""No network and one thread, in every test and in every program that a test starts."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import signal
import socket

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is deaf, and so is what it starts


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse every connection beyond this machine, and fail the test that tried, even if it swallowed the refusal."""
    tried = []

    def guarded(function):
        def call(*args, **kwargs):
            host = next((a[0] if isinstance(a, tuple) else a for a in args if isinstance(a, str | tuple)), None)
            if isinstance(host, str) and not host.startswith(("127.", "::1", "localhost", "/")):
                tried.append(host)
                raise OSError(f"tests have no network, but {host} was asked for")
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(socket, "getaddrinfo", guarded(socket.getaddrinfo))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield
    assert not tried, f"network access: {tried}"
