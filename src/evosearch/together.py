"""Several prompts at a time: each search in a thread of its own, where workers do the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from evosearch.interrupts import Stop, stopping

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T, Stop | None], R], of: Sequence[T], at_a_time: int) -> list[R]:
    """Do some work for each of several.

    Args:
        work: What is to be done, until it is told to stop; without a `Stop` it sees to signals by itself.
        of: For each of these.
        at_a_time: How many may be under way.

    Returns:
        What came of each, in order.

    Raises:
        BaseException: The first that any of them raised, once those under way have stopped.
    """
    if at_a_time == 1 or len(of) == 1:
        return [work(one, None) for one in of]
    with stopping() as stop, ThreadPoolExecutor(at_a_time, "search") as threads:
        under_way = [threads.submit(work, one, stop) for one in of]
        try:
            wait(under_way, return_when=FIRST_EXCEPTION)
            for future in under_way:
                if future.done():
                    future.result()
        except BaseException:
            for future in under_way:
                future.cancel()
            stop.end()
            raise
    return [future.result() for future in under_way]
