"""Ctrl-C and SIGTERM: the micro-batch at hand is finished first, so that it is not lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the run is to end.

    Attributes:
        asked: By which signal; None as long as it is not.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._ended = False

    def check(self) -> None:
        """End here, if that was asked for.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self.asked is not None or self._ended:
            raise KeyboardInterrupt

    def end(self) -> None:
        """End what goes by this, at its next micro-batch, without a signal."""
        self._ended = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: the first one waits for `check`, a second one does not."""
        del frame
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        print("\nevosearch: finishing the micro-batch at hand; once more to stop at once", file=sys.stderr)


@contextmanager
def stopping() -> Generator[Stop]:
    """Within, Ctrl-C and SIGTERM wait for `Stop.check`. In threads other than the main one they are as they were."""
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) in (signal.default_int_handler, signal.SIG_DFL):  # others have their reasons
                before[each] = signal.signal(each, stop.handle)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
