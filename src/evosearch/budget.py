"""Budgets, and the meter that keeps a search within them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from evosearch.checks import is_number
from evosearch.declaration import Wave, nfe_of, rewards_of


class BudgetExhausted(Exception):
    """The next call would cost more than is left. Raised before anything of it is done."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend; the first limit met ends it.

    Attributes:
        nfe: Denoising steps, one for each particle (a second pass for guidance not counted).
        seconds: Wall-clock from the first pass of the model; overrun by one micro-batch at most.
        reward_calls: Samples scored.
        usd: Money; needs ``usd_per_hour`` or a reward with a price (``usd_per_call``).
        usd_per_hour: Price of the machine.
    """

    nfe: int | None = None
    seconds: float | None = None
    reward_calls: int | None = None
    usd: float | None = None
    usd_per_hour: float | None = None

    def __post_init__(self) -> None:
        limits = [f.name for f in fields(self) if f.name != "usd_per_hour"]
        for name in (*limits, "usd_per_hour"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                raise ValueError(f"budget: {name} must be a number, got {value!r}")
            if value is not None and value <= 0:
                raise ValueError(f"budget: {name} must be above 0, got {value}")
        if all(getattr(self, name) is None for name in limits):
            raise ValueError(f"budget must limit something: give one of {', '.join(limits)}")

    @classmethod
    def of(cls, budget: Budget | int | str, steps: int) -> Budget:
        """Read a budget: itself, NFE as a number, ``"20x"`` (times one sample's NFE) or ``"60s"``.

        >>> Budget.of("20x", steps=50)
        Budget(nfe=1000, seconds=None, reward_calls=None, usd=None, usd_per_hour=None)
        """
        if isinstance(budget, Budget):
            return budget
        if isinstance(budget, int) and not isinstance(budget, bool):
            return cls(nfe=budget)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([xs]?)\s*", str(budget))
        if match is None or (match[2] == "" and "." in match[1]):
            raise ValueError(
                f'budget must be a Budget, NFE as a whole number, "20x" (samples\' worth) or "60s", got {budget!r}'
            )
        amount = float(match[1])
        if match[2] == "s":
            return cls(seconds=amount)
        return cls(nfe=round(amount * steps) if match[2] == "x" else int(amount))

    @property
    def time(self) -> list[float]:
        """Limits in seconds: the clock's, and the money's where a machine is paid by the hour."""
        money = [self.usd / self.usd_per_hour * 3600] if self.usd is not None and self.usd_per_hour else []
        return ([self.seconds] if self.seconds is not None else []) + money

    def pays(self, waves: Sequence[Wave], pace: Pace | None = None, usd_per_call: float = 0.0) -> bool:
        """Whether all of these may be denoised and scored.

        Args:
            waves: What a search asks for.
            pace: How fast it goes; needed for limits of time, and of money by the hour.
            usd_per_call: Price of scoring one sample.
        """
        calls = rewards_of(waves)
        usd = calls * usd_per_call
        if pace is not None:
            seconds = pace.seconds(waves)
            usd += seconds / 3600 * (self.usd_per_hour or 0.0)
            if self.seconds is not None and seconds > self.seconds:
                return False
        return (
            (self.nfe is None or nfe_of(waves) <= self.nfe)
            and (self.reward_calls is None or calls <= self.reward_calls)
            and (self.usd is None or usd <= self.usd)
        )


@dataclass(frozen=True)
class Pace:
    """How fast it goes here, by the micro-batch, each of one shape whatever it holds.

    Attributes:
        batch_size: Particles in a micro-batch.
        step: Seconds of one denoising step.
        score: Seconds of decoding and scoring.
        sample: Bytes of one sample in float32.
        workers: How many micro-batches are under way at a time.
    """

    batch_size: int
    step: float
    score: float
    sample: int
    workers: int = 1

    def seconds(self, waves: Sequence[Wave]) -> float:
        """What these take."""

        def each(wave: Wave) -> float:
            return wave.passes * (wave.steps * self.step + wave.scores * self.score)

        return sum(-(-wave.particles // (self.batch_size * self.workers)) * each(wave) for wave in waves)

    def slower(self, times: float) -> Pace:
        """The pace of a machine that takes so many times as long."""
        return replace(self, step=self.step * times, score=self.score * times)

    @property
    def row(self) -> float:
        """Seconds of one NFE in full micro-batches, scoring left out."""
        return self.step / (self.batch_size * self.workers)


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        nfe: Denoising steps, one for each particle.
        model_passes: The same, with those of guidance.
        decodes: States made into samples.
        reward_calls: Samples scored.
        seconds: Since the first pass of the model.
        usd: Money.
        hits: Samples whose scores were known, and took no call.
        reward_seconds: Spent in scoring, with the model waiting or at work meanwhile.
        held_out_calls: Samples that held-out rewards scored, each of them counted by itself; their money is in ``usd``.
    """

    nfe: int = 0
    model_passes: int = 0
    decodes: int = 0
    reward_calls: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    hits: int = 0
    reward_seconds: float = 0.0
    held_out_calls: int = 0

    @property
    def scored(self) -> int:
        """Samples that have been asked about, by calls or hits."""
        return self.reward_calls + self.hits


class Meter:
    """Counts what a search spends and stops it at its budget.

    A search sees its clock go on with what it asks for, not in between: so a journal of what it was given and when is
    enough to take it the same way again.

    Args:
        budget: The limits.
        usd_per_call: Price of scoring one sample.
        clock: Seconds, from any start.
        priced: Whether scoring costs money, of which the price is not known beforehand.
    """

    def __init__(
        self,
        budget: Budget,
        usd_per_call: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        priced: bool = False,
    ) -> None:
        if budget.usd is not None and budget.usd_per_hour is None and not (usd_per_call or priced):
            raise ValueError("budget: usd needs usd_per_hour=, or a reward that has a price (usd_per_call)")
        self.budget, self.usd_per_call, self._clock = budget, usd_per_call, clock
        self.nfe = self.decodes = self.reward_calls = self.hits = self.model_passes = self.held_out_calls = 0
        self.reward_seconds = self.reward_usd = 0.0
        self.seconds = 0.0
        """Since the first pass of the model, when the clock was last read."""
        self._started: float | None = None
        self._lifted = False

    @property
    def cost(self) -> Cost:
        """What has been spent."""
        seconds = self.seconds
        usd = seconds / 3600 * (self.budget.usd_per_hour or 0.0) + self.reward_usd
        return Cost(
            self.nfe, self.model_passes, self.decodes, self.reward_calls, seconds, usd, self.hits, self.reward_seconds,
            self.held_out_calls,
        )  # fmt: skip

    def afford(self, *, nfe: int = 0, reward_calls: int = 0, usd: float = 0.0, in_time: bool = True) -> None:
        """Raise `BudgetExhausted` unless all of this may be spent; whatever the clock says, if not ``in_time``."""
        if self._lifted:
            return
        for name, more in (("nfe", nfe), ("reward_calls", reward_calls)):
            limit = getattr(self.budget, name)
            if limit is not None and getattr(self, name) + more > limit:
                raise BudgetExhausted(name)
        if in_time and self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            raise BudgetExhausted("seconds")
        if not self.pays(usd):
            raise BudgetExhausted("usd")

    def affords(self, *, nfe: int = 0, reward_calls: int = 0) -> bool:
        """Whether all of this may be spent."""
        try:
            self.afford(nfe=nfe, reward_calls=reward_calls)
        except BudgetExhausted:
            return False
        return True

    def pays(self, usd: float) -> bool:
        """Whether the budget's money, if it has any, is enough for so much more."""
        return self.budget.usd is None or self.cost.usd + usd <= self.budget.usd

    def lift(self) -> None:
        """Go on counting, and refuse nothing from here on."""
        self._lifted = True

    def start(self) -> None:
        """Start the clock, at the first pass of the model."""
        if self._started is None:
            self._started = self._clock()

    def tick(self, seconds: float | None = None) -> float:
        """Read the clock; or set it, to what it read when what was done now was done first."""
        if seconds is not None:
            self._started = self._clock() - seconds
        elif self._started is not None:
            seconds = self._clock() - self._started
        self.seconds = seconds or 0.0
        return self.seconds


def describe(budget: Budget) -> str:
    """A budget in words.

    >>> describe(Budget(nfe=2000, seconds=60))
    '2000 NFE, 60 s'
    """
    words = {"nfe": "{} NFE", "seconds": "{:g} s", "reward_calls": "{} rewards", "usd": "{:g} $"}
    return ", ".join(text.format(v) for name, text in words.items() if (v := getattr(budget, name)) is not None)
