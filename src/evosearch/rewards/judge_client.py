"""Asks an endpoint until it answers: retries, a limit on concurrency, a circuit breaker, and the bill."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from evosearch.checks import above_zero, whole_number
from evosearch.rewards.judge_answers import Unreadable, parse
from evosearch.rewards.judge_bill import Bill
from evosearch.rewards.judge_breaker import Breaker, JudgeError
from evosearch.rewards.judge_http import Answer, NoAnswer, endpoint, post, shown
from evosearch.rewards.judge_lanes import Lanes

T = TypeVar("T")

_AGAIN = {408, 409, 425, 429}  # and 500 to 599: may work in a while
_REFUSED = {401, 402, 403, 404, 405, 407}  # whoever is asked, unless it has worked before


class Failure(Exception):
    """A call came to nothing.

    Attributes:
        again: Whether to try again.
        after: Seconds that the endpoint wants to be left alone.
        answered: Whether there was an answer, only of no use.
        crowded: Whether there were too many at once.
    """

    def __init__(
        self,
        why: str,
        again: bool = True,
        after: float | None = None,
        answered: bool = False,
        crowded: bool = False,
    ) -> None:
        super().__init__(why)
        self.again, self.after, self.answered, self.crowded = again, after, answered, crowded


@dataclass(frozen=True)
class Patience:
    """How long a client bears with an endpoint; what is seldom changed.

    Attributes:
        connect: Seconds until the connection must stand.
        first: Longest wait before the first retry, in seconds; twice as long before each further one.
        longest: Longest of all waits, those that the endpoint asks for included.
        failures: In a row, after which all calls wait but one now and then.
        cool: Seconds until that one; twice as long after each that fails.
        probes: Of those, after which it is an error.
        largest: Bytes of an answer.
    """

    connect: float = 10.0
    first: float = 1.0
    longest: float = 60.0
    failures: int = 10
    cool: float = 5.0
    probes: int = 5
    largest: int = 2**18

    def __post_init__(self) -> None:
        for name in ("connect", "first", "longest", "cool"):
            above_zero(f"patience: {name}", getattr(self, name))
        for name in ("failures", "probes", "largest"):
            whole_number(f"patience: {name}", getattr(self, name), 1)


class Client:
    """An endpoint of chat completions.

    Args:
        url: Base address of the API, or the address of its chat completions.
        bill: What to charge.
        key: Name of the environment variable that holds the key, read at every call and kept nowhere; none is sent
            without.
        timeout: Seconds of one request, from the first byte sent to the last byte read.
        deadline: Seconds of one call with all its retries; waiting for the breaker or for others does not count.
        retries: Of one call.
        concurrency: Requests on their way at once, at most; fewer where the endpoint says that they are too many.
        patience: The rest.

    Raises:
        ValueError: An argument is wrong, or there is no such variable.
    """

    def __init__(
        self,
        url: str,
        bill: Bill,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        deadline: float = 120.0,
        retries: int = 4,
        concurrency: int = 8,
        patience: Patience | None = None,
    ) -> None:
        self._url, self._bill, self._key = endpoint(url), bill, key
        self._timeout, self._deadline = above_zero("timeout", timeout), above_zero("deadline", deadline)
        self._retries, self.concurrency = (
            whole_number("retries", retries, 0),
            whole_number("concurrency", concurrency, 1),
        )
        self._patience = patience = patience or Patience()
        self.url = shown(self._url)
        self._breaker = Breaker(
            patience.failures, patience.cool, patience.longest, patience.probes, f"the judge at {self.url}"
        )
        self.lanes = Lanes(concurrency)
        self._jitter = random.Random()  # its own: the user's random numbers stay what they are
        self._lock = threading.Lock()
        self._worked = False
        self.retried = 0
        self.failures = Counter[str]()
        self._headers()

    def ask(self, body: bytes, read: Callable[[Any], T], stop: threading.Event) -> T:
        """What `read` makes of the answer to a request.

        Args:
            body: Of the request, JSON.
            read: Takes the decoded answer; raises `Unreadable` where it is of no use, which is tried again.
            stop: Set, no more is tried.

        Raises:
            Failure: This call came to nothing.
            JudgeError: All calls would.
            Stopped: `stop` was set.
        """
        until, tries = time.monotonic() + self._deadline, 0
        while True:
            start = time.monotonic()
            ahead = self._breaker.enter(stop)
            with self.lanes.lane() as lane:
                asked = time.monotonic()
                until += asked - start
                try:
                    value = self._once(body, read, until - asked)
                except Failure as caught:
                    failure = caught
                    self._breaker.failed(ahead, str(failure))
                    if failure.crowded:
                        self.lanes.refused(lane)
                except BaseException:
                    self._breaker.left(ahead)
                    raise
                else:
                    self._breaker.worked()
                    self.lanes.answered()
                    return value
            with self._lock:
                self.failures[str(failure)] += 1
            if not failure.again:
                raise failure
            # What goes ahead while all is down is no fault of this call's; the breaker waits for it, too.
            if ahead and not failure.answered:
                until += time.monotonic() - asked
            else:
                tries += 1
                self._wait(tries, failure, until, stop)
            with self._lock:
                self.retried += 1

    def _wait(self, tries: int, failure: Failure, until: float, stop: threading.Event) -> None:
        """Full jitter (Brooker, "Exponential backoff and jitter", 2015), on top of what the endpoint asks for."""
        if tries > self._retries:
            raise failure
        longest = self._patience.longest
        asked = min(failure.after or 0.0, longest)
        pause = asked + self._jitter.uniform(0, min(longest, self._patience.first * 2 ** min(tries - 1, 30)))
        if time.monotonic() + pause >= until:
            raise Failure(f"deadline of {self._deadline:g} s; before that, {failure}")
        stop.wait(pause)  # enough for the breaker or the next request to see it, too

    def _once(self, body: bytes, read: Callable[[Any], T], left: float) -> T:
        headers = self._headers()
        self._bill.open()
        try:
            answer = post(
                self._url, body, headers, connect=self._patience.connect, total=max(min(self._timeout, left), 1e-3),
                largest=self._patience.largest,
            )  # fmt: skip
        except NoAnswer as none:
            self._bill.close()
            raise Failure(str(none)) from None
        except BaseException:
            self._bill.close()
            raise
        if answer.status != 200:
            self._bill.close(free=True)
            raise self._refusal(answer)
        try:
            decoded = parse(answer.body)
        except Unreadable as unreadable:
            self._bill.close()
            raise Failure(str(unreadable), answered=True) from None
        self._bill.close(decoded)
        try:
            value = read(decoded)
        except Unreadable as unreadable:
            raise Failure(str(unreadable), answered=True) from None
        self._worked = True
        return value

    def _refusal(self, answer: Answer) -> Exception:
        status = answer.status
        said = self._said(answer.body)
        if status in _AGAIN or status >= 500:
            # What it says differs from call to call: kept out of the reason, which is counted.
            after = _retry_after(answer.headers.get("retry-after"))
            return Failure(f"HTTP {status}", after=after, crowded=status == 429)
        if not self._worked and (status in _REFUSED or status < 400):
            what = {
                401: f"check the key, of {self._key}" if self._key else "name the variable that holds the key by key=",
                403: "check the key and what it may do",
                404: "check url and model",
            }.get(status, "check url")
            return JudgeError(f"the judge at {self.url} refuses calls, HTTP {status}{said}; {what}")
        return Failure(f"HTTP {status}{said}", again=False)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "evosearch"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {_secret(self._key)}"
        return headers

    def _said(self, body: bytes) -> str:
        """What an endpoint says of its refusal, fit for a message."""
        text = body[:4096].decode(errors="replace")
        try:
            error = parse(body)["error"]
            text = error["message"] if isinstance(error, Mapping) else error
        except (Unreadable, KeyError, TypeError):
            pass
        if self._key is not None:  # some say which key was wrong
            text = str(text).replace(_secret(self._key), "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
        return f" ({text[:200]})" if text else ""


def _secret(name: str) -> str:
    """The key in an environment variable.

    Raises:
        ValueError: There is none, or none that can be sent.
    """
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(f"key must name an environment variable that holds the judge's key; {name} is not set")
    if not key.isascii() or not key.isprintable() or " " in key:  # not shown
        raise ValueError(
            f"the key in {name} has characters that no key has; set it again, without spaces and line ends"
        )
    return key


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a number of them or an HTTP date; None where it is neither."""
    value = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
