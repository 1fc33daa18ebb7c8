"""One HTTP request that ends in time and in bounds, whatever the other side does: stay silent, dribble, send gigabytes.

By the standard library, whose sockets can be held to a deadline: where each read has its own time-out, a server that
sends a byte now and then goes on for ever. Looking up a name in the DNS is the system's, and takes as long as it takes.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from socket import socket
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit


class NoAnswer(Exception):
    """There was no whole answer; says why."""


@dataclass(frozen=True)
class Answer:
    """Status, headers by their names in lower case, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def endpoint(url: str) -> SplitResult:
    """The chat-completions address of an API's base address, or of itself.

    >>> endpoint("https://example.com/v1/").geturl()
    'https://example.com/v1/chat/completions'

    Raises:
        ValueError: It is no http address, or has a user or password in it.
    """
    wanted = "url must be the http or https address of an API, for instance https://example.com/v1"
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{wanted}, got {type(url).__name__ if not isinstance(url, str) else ascii(url)}")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:  # not shown: it would go into logs
        raise ValueError(f"{wanted}, without user and password; name the variable that holds the key by key=")
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        valid = False
    if not valid:
        raise ValueError(f"{wanted}, got {url!r}")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions", fragment="")


def shown(url: SplitResult) -> str:
    """An address without its query, which may hold a key."""
    return url._replace(query="").geturl()


def private(url: SplitResult) -> bool:
    """Whether nobody on the way can read what is sent there."""
    host = url.hostname or ""
    return url.scheme == "https" or host in ("localhost", "::1") or host.startswith("127.")


def post(
    url: SplitResult, body: bytes, headers: Mapping[str, str], *, connect: float, total: float, largest: int
) -> Answer:
    """Send a request; redirects are not followed, since they would take the key elsewhere.

    Args:
        url: Where to.
        body: What to send.
        headers: With what.
        connect: Seconds until the connection must stand.
        total: Seconds until the last byte must be there.
        largest: Most bytes of an answer.

    Raises:
        NoAnswer: There was none, or not in time or not in bounds.
    """
    until = time.monotonic() + total
    connection = _connection(url, min(connect, total))
    try:
        connection.connect()
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
        connection.close()
        raise NoAnswer(f"no connection: {_said(error)}") from None
    wire = connection.sock
    connection.sock = cast(Any, _Timed(wire, until))
    try:
        connection.request("POST", url.path + (f"?{url.query}" if url.query else ""), body, dict(headers))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, _body(response, largest))
    except TimeoutError:
        raise NoAnswer("time-out") from None
    except (OSError, HTTPException) as error:
        raise NoAnswer(f"connection lost: {_said(error)}") from None
    finally:
        wire.close()


def _body(response: HTTPResponse, largest: int) -> bytes:
    length = response.getheader("Content-Length", "")
    told = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0
    body = b"" if told > largest else response.read(largest + 1)
    if max(told, len(body)) > largest:
        raise NoAnswer(f"answer of more than {largest:,} bytes")
    if len(body) < told:  # which http.client passes over where a number of bytes is asked for
        raise NoAnswer(f"connection lost: {len(body):,} of {told:,} bytes came")
    return body


def _connection(url: SplitResult, timeout: float) -> HTTPConnection:
    if url.scheme == "https":
        return HTTPSConnection(url.hostname or "", url.port, timeout=timeout, context=_trust())
    return HTTPConnection(url.hostname or "", url.port, timeout=timeout)


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all certificates, so once


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


class _Timed:
    """As much of a socket as http.client uses, each call within what is left of the time."""

    def __init__(self, wire: socket, until: float) -> None:
        self._wire, self._until = wire, until

    def sendall(self, data: Any) -> None:
        self.hurry()
        self._wire.sendall(data)  # its time-out is for all of it

    def makefile(self, mode: str) -> BufferedReader:
        del mode
        return BufferedReader(_Reader(self, self._wire))

    def close(self) -> None:
        """Nothing: http.client closes before it reads."""

    def hurry(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._wire.settimeout(left)


class _Reader(RawIOBase):
    def __init__(self, timed: _Timed, wire: socket) -> None:
        self._timed, self._wire = timed, wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._timed.hurry()
        return self._wire.recv_into(buffer)
