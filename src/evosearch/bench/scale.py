"""How a search scales over workers: simulated from 1 to 1,024, by times that were measured, and checked by real runs.

What is simulated is what `evosearch.metered` and `evosearch.executors.pool` do: prompts side by side, each with its
waves one after the other; of each wave twice as many micro-batches under way as there are workers, each denoised,
decoded and scored, what was begun before what was not; one process that sends, receives and decides; workers that are
not equally fast, are lost, and load their model again.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import median
from typing import Any, cast

from evosearch.budget import Budget
from evosearch.declaration import Wave
from evosearch.executors.hiring import hire
from evosearch.executors.remote import RemotePipe, RemoteReward, remote
from evosearch.resolve import algorithm_of, knobs_of
from evosearch.rewards import resolve
from evosearch.run import search

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PROMPT = "two red circles and one blue square"
_SHORT = 16  # samples of a search by which what searching itself takes is measured
_LOW = 0.5  # of all workers at work: where it breaks


@dataclass(frozen=True)
class Times:
    """What a micro-batch takes.

    Attributes:
        step: Seconds of a denoising step.
        decode: Seconds of decoding.
        score: Seconds of scoring.
        call: Seconds that a question takes of the process that searches, its states sent and received.
        own: Seconds of the search itself.
    """

    step: float
    decode: float
    score: float
    call: float
    own: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """What goes wrong.

    Attributes:
        spread: Deviation of workers' speeds, as a share.
        losses: Workers lost in an hour, of each.
        reload: Seconds until another one is there.
    """

    spread: float = 0.0
    losses: float = 0.0
    reload: float = 60.0


@dataclass(frozen=True)
class Simulated:
    """What a simulation found.

    Attributes:
        seconds: From the first question to the last answer.
        busy: Share of the time of all workers that is of use.
        driver: Share of the time in which the process that searches is at work.
        lost: Workers lost.
    """

    seconds: float
    busy: float
    driver: float
    lost: int


def simulate(
    waves: Sequence[Wave],
    times: Times,
    workers: int,
    *,
    batch_size: int,
    prompts: int = 1,
    trouble: Trouble | None = None,
    seed: int = 0,
) -> Simulated:
    """Searches of several prompts by workers.

    Args:
        waves: What each asks for.
        times: What that takes.
        workers: How many there are.
        batch_size: Particles in a micro-batch.
        prompts: How many there are.
        trouble: What goes wrong; nothing by default.
        seed: Of chance.
    """
    return _Simulation(times, workers, trouble or Trouble(), seed).of([_tasks(waves, times, batch_size)] * prompts)


def _tasks(waves: Sequence[Wave], times: Times, batch_size: int) -> list[list[list[float]]]:
    """Waves, one after the other, each of micro-batches under way at once, of questions in turn, in seconds."""
    return [
        [[*[wave.steps * times.step] * (wave.steps > 0), *[times.decode, times.score] * wave.scores]]
        * -(-wave.particles // batch_size)
        for wave in waves
    ]


class _Simulation:
    """Events in the order of their times."""

    def __init__(self, times: Times, workers: int, trouble: Trouble, seed: int) -> None:
        self._times, self._workers, self._trouble = times, workers, trouble
        self._chance, self._order = random.Random(seed), count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._free = deque((k, self._speed()) for k in range(workers))
        self._queue = deque[tuple[float, Callable[[float], float]]]()
        self._driver_free = self._driver = self._useful = self._end = 0.0
        self._lost = 0

    def of(self, searches: Sequence[list[list[list[float]]]]) -> Simulated:
        waiting, under_way = deque(searches), min(len(searches), self._workers)

        def next_one(now: float) -> None:
            if waiting:
                self._wave(now, waiting.popleft(), 0, next_one)

        for _ in range(under_way):
            next_one(0.0)
        while self._events:
            now, _, happens = heapq.heappop(self._events)
            self._end = max(self._end, now)
            happens(now)
        return Simulated(
            seconds=self._end,
            busy=self._useful / (self._workers * self._end),
            driver=self._driver / self._end,
            lost=self._lost,
        )

    def _speed(self) -> float:
        return max(0.1, self._chance.gauss(1.0, self._trouble.spread)) if self._trouble.spread else 1.0

    def _at(self, when: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _wave(self, now: float, waves: list[list[list[float]]], index: int, after: Callable[[float], None]) -> None:
        """Have all micro-batches of a wave computed, twice as many under way as there are workers, taken in turn."""
        if index == len(waves):
            return after(now)
        left, done, total = deque(enumerate(waves[index])), set[int](), len(waves[index])
        taken = 0

        def begin(when: float) -> None:
            if left:
                number, questions = left.popleft()
                ask(when, number, deque(questions), False)

        def ask(when: float, number: int, questions: deque[float], soon: bool) -> float:
            """When the next question is sent; now, if there is none."""
            if not questions:
                over(when, number)
                return when
            seconds = questions.popleft()
            sent = self._drives(when, self._times.call)
            self._at(sent, lambda at: self._submit(at, seconds, lambda end: ask(end, number, questions, True), soon))
            return sent

        def over(when: float, number: int) -> None:
            nonlocal taken
            done.add(number)
            while taken in done:
                taken += 1
                when = self._drives(when, self._times.own)
                begin(when)
                if taken == total:
                    self._at(when, lambda at: self._wave(at, waves, index + 1, after))

        for _ in range(2 * self._workers):
            begin(now)

    def _drives(self, when: float, seconds: float) -> float:
        """The process that searches does one thing at a time."""
        self._driver_free = max(self._driver_free, when) + seconds
        self._driver += seconds
        return self._driver_free

    def _submit(self, now: float, seconds: float, answered: Callable[[float], float], soon: bool) -> None:
        (self._queue.appendleft if soon else self._queue.append)((seconds, answered))
        self._hand_out(now)

    def _hand_out(self, now: float) -> None:
        while self._queue and self._free:
            seconds, answered = self._queue.popleft()
            worker, speed = self._free.popleft()
            took, trouble = seconds / speed, self._trouble
            dies = self._chance.expovariate(trouble.losses / 3600) if trouble.losses else float("inf")
            if dies < took:
                self._lost += 1
                self._at(now + dies, lambda at, again=(seconds, answered): self._again(at, again))
                self._at(now + dies + trouble.reload, lambda at, who=worker: self._back(at, who, self._speed()))
            else:
                self._useful += took
                self._at(now + took, partial(self._ended, answered, worker, speed))

    def _ended(self, answered: Callable[[float], float], worker: int, speed: float, now: float) -> None:
        """Whoever hears of an answer asks for what follows, and only then takes up something else."""
        self._at(answered(now), lambda at: self._back(at, worker, speed))

    def _again(self, now: float, lost: tuple[float, Callable[[float], float]]) -> None:
        self._queue.appendleft(lost)
        self._hand_out(now)

    def _back(self, now: float, worker: int, speed: float) -> None:
        self._free.append((worker, speed))
        self._hand_out(now)


def measured(pipe: RemotePipe, steps: int, batch_size: int, reward: str, rounds: int = 3) -> Times:
    """What micro-batches take, with all workers at work.

    Args:
        pipe: The workers.
        steps: Denoising steps.
        batch_size: Particles in a micro-batch.
        reward: Name of the reward.
        rounds: Medians are of so many.
    """
    sampler = pipe.sampler(prompt=_PROMPT, steps=steps, eta=None, seed=0, batch_size=batch_size, pipeline_kwargs=None)
    judge = cast(RemoteReward, remote(pipe.pool, reward, resolve(reward)))
    workers, prompts = sampler.workers, [_PROMPT] * batch_size
    p = sampler.prior(batch_size)
    end = sampler.running(p, sampler.steps)().end

    def all_at_once(begin: Callable[[], Callable[[], Any]]) -> float:
        start = time.perf_counter()
        for wait in [begin() for _ in range(2 * workers)]:
            wait()
        return (time.perf_counter() - start) / 2

    def decodes() -> Callable[[], Any]:
        return sampler.decoding(end)[1]

    def decodes_and_scores() -> Callable[[], Any]:
        seen, wait = sampler.decoding(end, lambda seen: judge.begin_scoring(seen, prompts))
        return lambda: (wait(), judge(seen, prompts))

    def calls() -> float:
        start = time.perf_counter()
        for _ in range(20):
            pipe.pool.ask("call", sampler.name, "start", p.x, about=(sampler.name,))
        return (time.perf_counter() - start) / 20

    ways = (lambda: sampler.running(p, sampler.steps), decodes, decodes_and_scores)
    for way in ways:
        all_at_once(way)  # the first of each loads what it needs
    run, decode, both = (median(all_at_once(way) for _ in range(rounds)) for way in ways)
    call = median(calls() for _ in range(rounds))
    times = Times((run - call) / sampler.steps, decode - call, max(0.0, both - decode - call), call)
    waves, nfe = waves_of("best_of_n", steps, _SHORT * steps), _SHORT * steps
    short = [
        search(pipe, _PROMPT, reward, "best_of_n", nfe, steps=steps, batch_size=batch_size, progress=False).cost.seconds
        for _ in range(rounds)
    ]
    batches = sum(-(-wave.particles // batch_size) for wave in waves)
    own = median(short) - simulate(waves, times, workers, batch_size=batch_size).seconds
    return replace(times, own=max(0.0, own / batches))


@dataclass(frozen=True)
class Check:
    """A real run beside its simulation.

    Attributes:
        workers: How many.
        times: As they were measured with so many at work.
        real: Seconds of each run.
        simulated: Seconds.
    """

    workers: int
    times: Times
    real: list[float]
    simulated: float

    @property
    def ratio(self) -> float:
        """Of the simulation to the median run."""
        return self.simulated / median(self.real)


def checks(model: str, *, budget: str, steps: int, batch_size: int, reward: str, runs: int = 3) -> Iterator[Check]:
    """Real runs by one worker and by two, each beside its simulation; by turns, so that both have the same weather."""
    algorithm = algorithm_of("evosearch")
    limits = Budget.of(budget, steps)
    knobs = knobs_of(algorithm, {}, limits, steps, None)
    waves = algorithm.waves(steps, **knobs)
    with hire(model, 1) as one, hire(model, 2) as two:
        times, real = {}, {1: list[float](), 2: list[float]()}
        for number, pipe in ((1, one), (2, two)):
            times[number] = measured(pipe, steps, batch_size, reward)
        for _ in range(runs):
            for number, pipe in ((1, one), (2, two)):
                result = search(
                    pipe, _PROMPT, reward, "evosearch", budget, steps=steps, batch_size=batch_size, progress=False,
                    **knobs,
                )  # fmt: skip
                real[number].append(result.cost.seconds)
    for number in (1, 2):
        found = simulate(waves, times[number], number, batch_size=batch_size)
        yield Check(number, times[number], real[number], found.seconds)


def waves_of(name: str, steps: int, nfe: int) -> list[Wave]:
    """What a search asks for within so many NFE."""
    algorithm = algorithm_of(name)
    return algorithm.waves(steps, **knobs_of(algorithm, {}, Budget(nfe=nfe), steps, None))


def table(waves: Sequence[Wave], times: Times, *, batch_size: int, prompts: int, trouble: Trouble) -> str:
    """Simulations of all widths as lines of text, and where it breaks."""
    lines, broken = [f"{'workers':>8} {'seconds':>11} {'at work':>8} {'driver':>7} {'lost':>5}"], ""
    for width in WIDTHS:
        found = simulate(waves, times, width, batch_size=batch_size, prompts=prompts, trouble=trouble)
        lines.append(f"{width:8,} {found.seconds:11,.1f} {found.busy:8.1%} {found.driver:7.1%} {found.lost:5,}")
        if found.busy < _LOW and not broken:
            why = "the process that searches is at its limit"
            if found.driver < 1 - _LOW:
                why = "there are fewer micro-batches under way than workers: a larger population, or more prompts"
            broken = f"from {width:,} workers on less than {_LOW:.0%} of them are at work: {why}"
    return "\n".join([*lines, broken or f"more than {_LOW:.0%} of them are at work throughout"])
