"""How many requests may be on their way at once, found by what the endpoint bears.

Additive increase, multiplicative decrease: Chiu and Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks", 1989; TCP does the same.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Lanes:
    """Half as many once the endpoint says that it is too many, and one more after as many answers as there are.

    Args:
        most: To begin with, and at any time.
    """

    def __init__(self, most: int) -> None:
        self._most, self._wide = most, float(most)
        self._free = threading.Condition()
        self._taken = self._halved = 0

    @property
    def open(self) -> int:
        """How many there are now."""
        return int(self._wide)

    @contextmanager
    def lane(self) -> Generator[int]:
        """Wait for one, and have it within; gives what `refused` wants to know."""
        with self._free:
            self._free.wait_for(lambda: self._taken < self.open)
            self._taken += 1
            before = self._halved
        try:
            yield before
        finally:
            with self._free:
                self._taken -= 1
                self._free.notify_all()

    def answered(self) -> None:
        """A request was answered."""
        with self._free:
            self._wide = min(self._most, self._wide + 1 / self._wide)
            self._free.notify_all()

    def refused(self, before: int) -> None:
        """One was too many; of those that set out before lanes were last halved, nothing more is learnt."""
        with self._free:
            if before == self._halved:
                self._wide, self._halved = max(1.0, self._wide / 2), before + 1
