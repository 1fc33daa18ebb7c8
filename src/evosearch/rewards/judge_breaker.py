"""A circuit breaker: where nothing works any more, calls wait for one that goes ahead to see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_GLANCE = 0.05  # seconds between looks at whether to stop


class JudgeError(ValueError):
    """No sample can be judged: a wrong key, an endpoint that is down, money that is spent."""


class Stopped(Exception):
    """The batch was given up meanwhile."""


class Breaker:
    """Opens after so many failures in a row; open, it lets one call through now and then, and closes if that works.

    Args:
        after: Failures in a row.
        cool: Seconds from opening to the first call that goes ahead; twice as long after each that fails.
        longest: Seconds between two of them at the most.
        probes: After so many of them have failed, waiting calls raise. A later one may still go ahead.
        who: Of what, for the error.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        after: int,
        cool: float,
        longest: float,
        probes: int,
        who: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._after, self._cool, self._longest, self._probes = after, cool, longest, probes
        self._who, self._clock = who, clock
        self._changed = threading.Condition()
        self._row = self._failed = 0  # failures, and of those ahead
        self._next = 0.0
        self._probing = False
        self.open = False

    def enter(self, stop: threading.Event) -> bool:
        """Wait until a call may be made; True where it goes ahead to see.

        Raises:
            JudgeError: It has stayed open.
            Stopped: `stop` was set.
        """
        with self._changed:
            while not stop.is_set():
                if not self.open:
                    return False
                wait = self._next - self._clock()
                if wait <= 0 and not self._probing:
                    self._probing = True
                    return True
                if self._failed >= self._probes and not self._probing:
                    raise JudgeError(
                        f"{self._who} has answered nothing for {self._row} calls in a row, the last after a wait of "
                        f"{self._pause(self._failed - 1):.3g} s ({self._why}); see to it and start again"
                    )
                self._changed.wait(_GLANCE if self._probing else min(wait, _GLANCE))
            raise Stopped

    def worked(self) -> None:
        """A call was answered."""
        with self._changed:
            self.open = self._probing = False
            self._row = self._failed = 0
            self._changed.notify_all()

    def failed(self, ahead: bool, why: str) -> None:
        """A call was not answered; `ahead` is what `enter` said of it."""
        with self._changed:
            self._row += 1
            self._why = why
            if ahead:
                self._failed += 1
                self._probing = False
            if ahead or (self._row >= self._after and not self.open):
                self._next = self._clock() + self._pause(self._failed)
                self.open = True
            self._changed.notify_all()

    def left(self, ahead: bool) -> None:
        """A call was not made after all."""
        with self._changed:
            self._probing = self._probing and not ahead
            self._changed.notify_all()

    def _pause(self, failed: int) -> float:
        return min(self._longest, self._cool * 2**failed)
