"""The pool: hands micro-batches to workers, and sees to it that each is done, whoever dies or hangs on the way.

What a worker is asked depends on nothing but the question, so that another may be asked the same. A question counts as
answered once; a worker that is given up is stopped first.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import count
from typing import Any, Protocol, TypeVar, cast

import cloudpickle

from evosearch.executors.worker import About

DEADLINE = 600.0  # seconds without a sign of life, as long as it is not known how long anything takes
STARTING = 1800.0  # of a worker that loads a model
_LEAST, _TIMES = 60.0, 20  # a deadline is so many times the longest silence of those that came to an end
_COMPUTES = ("run", "decode", "score", "judge")  # questions that a deadline is for
_PARTING = 15.0  # seconds until one that does not end is left to the end of this process
_TRIES = 3  # workers that one question may cost, and workers in a row that do not start

T = TypeVar("T")
R = TypeVar("R")


class WorkerLost(RuntimeError):
    """A worker is gone, or was given up."""


class Deadly(WorkerLost):
    """A question that costs every worker that is asked it its life."""


class Lane(Protocol):
    """The way to one worker."""

    def ask(self, question: bytes, patience: float) -> tuple[bytes, float]:
        """Its answer, and the longest silence before; `WorkerLost` where none comes, and it is stopped then."""
        ...

    def stop(self) -> None:
        """End it, whatever it does; whoever waits for an answer gets `WorkerLost`."""
        ...

    def close(self) -> None:
        """Stop it, and let go of what it takes here."""
        ...


class _Job:
    def __init__(self, method: str, args: tuple[Any, ...], about: tuple[str, ...], soon: bool = False) -> None:
        self.method, self.args, self.about, self.soon = method, args, about, soon
        self.asker = threading.get_ident()
        self.future = Future[Any]()
        self.deaths = 0


class Pool:
    """Workers of one pipeline, and what they are to do.

    Args:
        hire: Makes the way to the k-th worker; may take as long as a model takes to load.
        width: How many to hire; or what says so whenever it is asked, as where machines come and go.
        deadline: Seconds without a sign of life after which a worker is given up; by how long things take by default.
        mixed: Whether workers may compute on devices of several kinds, by which bits go.

    Raises:
        Exception: What went wrong with all of the first ones.
    """

    def __init__(
        self,
        hire: Callable[[int], Lane],
        width: int | Callable[[], int],
        *,
        deadline: float | None = None,
        mixed: bool = False,
    ) -> None:
        self._hire, self._wanted, self._mixed = hire, width if callable(width) else lambda: width, mixed
        self._deadline, self._longest = deadline, 0.0
        self._jobs, self._changed = deque[_Job](), threading.Condition()
        self._definitions, self._names = dict[str, bytes](), count()
        self._listeners: list[Callable[[str, Mapping[str, Any]], None]] = []
        self._about: About | None = None
        self._error: BaseException | None = None
        self._closed, self._alive = False, 0
        self._lanes, self._threads = dict[int, Lane](), list[threading.Thread]()
        self.width = max(1, self._wanted())
        with self._changed:
            self._fill()
            self._changed.wait_for(lambda: self._about is not None or self._error is not None)
        if self._about is None:
            self.close()
            assert self._error is not None
            raise self._error

    @property
    def about(self) -> About:
        """What the first of them says of itself."""
        assert self._about is not None
        return self._about

    def define(self, value: Any) -> str:
        """A name for something that questions are about; it goes to each worker once."""
        name = f"d{next(self._names)}"
        try:
            self._definitions[name] = cloudpickle.dumps(value)
        except Exception as error:
            raise ValueError(
                f"workers must be sent what they are asked for, but it cannot be copied ({error}); give pipelines and "
                "rewards by name, or leave out workers"
            ) from error
        return name

    def submit(self, method: str, *args: Any, about: tuple[str, ...], soon: bool = False) -> Future[Any]:
        """Have a method of some worker called.

        Args:
            method: Of `evosearch.executors.worker.Worker`.
            *args: For it.
            about: What `define` has named, and they go by; the first is asked of who knows it already, if free.
            soon: Before all that is not: it ends what was begun earlier. What follows an answer (see `followed`) goes
                to who gave it, if it can.
        """
        job = _Job(method, args, about, soon)
        with self._changed:
            if self._error is not None and not self._alive:
                raise self._error
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def ask(self, method: str, *args: Any, about: tuple[str, ...]) -> Any:
        """The same, and wait for what it gives."""
        return awaited(self.submit(method, *args, about=about))

    def listen(self, listener: Callable[[str, Mapping[str, Any]], None]) -> Callable[[], None]:
        """Have what befalls workers told to a run; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def refresh(self) -> None:
        """Hire more where more are wanted by now."""
        wanted = self._wanted()
        with self._changed:
            self.width = max(self.width, wanted)
            self._fill()

    def close(self) -> None:
        """Let all of them go; what has not begun is left, and what has is lost."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            for lane in self._lanes.values():
                lane.stop()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_PARTING)

    def _fill(self) -> None:
        while self._alive < self.width and not self._closed:
            self._alive += 1
            thread = threading.Thread(target=self._work, args=(len(self._threads),), name="worker", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, number: int) -> None:
        """Keep one place filled: hire, hand out work, and hire again where a worker is lost."""
        failed = 0
        while failed < _TRIES and not self._closed:
            lane = None
            try:
                lane, known = self._hire(number), set[str]()
                with self._changed:
                    self._lanes[number] = lane
                    if self._closed:
                        break
                self._check(self._asked(lane, _Job("about", (), ()), known))
                failed = 0
                self._serve(lane, known)
                break
            except WorkerLost as error:
                failed += 1
                if not self._closed:
                    self._tell("worker lost", worker=number, reason=str(error))
                lost: BaseException = error
            except BaseException as error:  # it is told to who waits for the first of them
                failed, lost = _TRIES, error
                self._tell("worker refused", worker=number, reason=str(error))
            finally:
                if lane is not None:
                    with suppress(Exception):
                        lane.close()
            if failed >= _TRIES:
                with self._changed:
                    self._error = lost
        with self._changed:
            self._alive -= 1
            if not self._alive and self._error is not None:
                for job in self._jobs:
                    job.future.set_exception(self._error)
                self._jobs.clear()
            self._changed.notify_all()

    def _check(self, about: About) -> None:
        """Take a worker in, unless it would give other bits."""
        with self._changed:
            first = self._about
            if first is not None:
                differ = [
                    f"{name} is {about.same[name]} there, {value} in the first"
                    for name, value in first.same.items()
                    if about.same[name] != value
                ]
                if about.device != first.device and not self._mixed:
                    differ.append(
                        f"it computes on {about.device}, the first on {first.device} (give mixed, and bits go by who "
                        "computes what)"
                    )
                if differ:
                    raise ValueError(f"worker does not compute as the others do: {'; '.join(differ)}")
            else:
                self._about = about
            self._changed.notify_all()

    def _serve(self, lane: Lane, known: set[str]) -> None:
        while self._served(lane, known):
            pass

    def _served(self, lane: Lane, known: set[str]) -> bool:
        """Wait for a question, and have it answered; whether there may be another."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return False
            me = threading.get_ident()
            job = max(self._jobs, key=lambda job: (job.soon, job.asker == me, known.issuperset(job.about[:1])))
            self._jobs.remove(job)
        if not job.deaths and not job.future.set_running_or_notify_cancel():
            return True
        try:
            given = self._asked(lane, job, known)
        except WorkerLost as error:
            job.deaths += 1
            if self._closed:
                job.future.set_exception(error)
            elif job.deaths < _TRIES:
                with self._changed:
                    self._jobs.appendleft(job)
                    self._changed.notify_all()
            else:
                sentence = f"{job.method} has cost {job.deaths} workers their lives; the last: {error}"
                job.future.set_exception(Deadly(sentence))
            raise
        except BaseException as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(given)
        return True

    def _patience(self, loads: bool) -> float:
        if loads:
            return STARTING
        if self._deadline is not None:
            return self._deadline
        return max(_LEAST, _TIMES * self._longest) if self._longest else DEADLINE

    def _asked(self, lane: Lane, job: _Job, known: set[str]) -> Any:
        """What a worker gives; the error where it raises one."""
        new = [name for name in job.about if name not in known]
        if new and job.method in _COMPUTES:  # what it takes to get ready says nothing of how long an answer may take
            self._asked(lane, _Job("ready", job.args, job.about), known)
            new = []
        loads = bool(new) or not job.about
        question = pickle.dumps(([(name, self._definitions[name]) for name in new], job.method, job.args))
        said, silence = lane.ask(question, self._patience(loads))
        known.update(new)
        kind, *what = cast(tuple[Any, ...], pickle.loads(said))
        if kind == "broken":
            raise WorkerLost(f"its device does not recover:\n{what[0]}")
        if not loads:
            self._longest = max(self._longest, silence)
        if kind == "done":
            return what[0]
        error, told = what
        if error is None:
            raise RuntimeError(f"a worker failed:\n{told}")
        raise error

    def _tell(self, kind: str, **facts: Any) -> None:
        for listener in list(self._listeners):
            listener(kind, facts)


def followed(asked: Future[T], then: Callable[[T], R]) -> Future[R]:
    """What is made of an answer by the thread that hears it, before that takes up anything else."""
    made = Future[R]()

    def heard(asked: Future[T]) -> None:
        try:
            made.set_result(then(asked.result()))
        except BaseException as error:
            made.set_exception(error)

    asked.add_done_callback(heard)
    return made


def awaited(future: Future[Any]) -> Any:
    """What a future gives; KeyboardInterrupt where it was left."""
    try:
        return future.result()
    except CancelledError:
        raise KeyboardInterrupt from None
