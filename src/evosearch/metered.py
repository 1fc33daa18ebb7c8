"""What a search is handed in a run: its sampler and its reward, metered."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from evosearch.budget import BudgetExhausted, Meter
from evosearch.hacking import Watch
from evosearch.result import Gallery
from evosearch.rewards import TensorReward, scores
from evosearch.rewards.cache import ScoreCache, Unknown, leaves
from evosearch.rewards.combined import Combined
from evosearch.selection import leading, valid
from evosearch.types import Population, Sampler, concat

T = TypeVar("T")


class _Said(NamedTuple):
    """What a reward says of a batch: scores, what each is made of, and the seconds that took."""

    values: Tensor
    parts: list[dict[str, float]]
    seconds: float


class MeteredSampler:
    """A sampler that charges a meter, micro-batch by micro-batch, and rounds samples to 8 bits.

    Args:
        sampler: The sampler proper.
        meter: What to charge.
        first: Particles at level 0 that the first calls of `prior` give out.
        tick: Called after every micro-batch.
    """

    def __init__(
        self, sampler: Sampler, meter: Meter, first: Population | None = None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._own, self._meter, self._first, self._tick = sampler, meter, first, tick
        self._known = set[int]() if first is None else set(first.id.tolist())
        self.steps, self.path, self.batch_size = sampler.steps, sampler.path, sampler.batch_size
        self.start, self.step, self.cost = sampler.start, sampler.step, sampler.cost
        self.renoise, self.noise = sampler.renoise, sampler.noise
        self.to_grid, self.from_grid = sampler.to_grid, sampler.from_grid
        self.decoded: tuple[Population, Tensor] | None = None
        self._sources = WeakTensorKeyDictionary()
        self._backward = False

    @property
    def edits(self) -> bool:
        """See `Sampler.edits`."""
        return self._own.edits

    @property
    def computed(self) -> int:
        """See `Sampler.computed`."""
        return self._meter.nfe

    def prices(self, levels: Sequence[int]) -> list[float]:
        """See `Sampler.prices`."""
        return self._own.prices(levels)

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> Self:
        """See `Sampler.cached`; one meter counts what both compute."""
        other = copy.copy(self)
        other._own = self._own.cached(cache, prices)
        other.cost = other._own.cost
        return other

    def prior(self, n: int) -> Population:
        """See `Sampler.prior`; what an earlier run handed over comes first, and is not drawn again."""
        drawn: list[Population] = []
        if self._first is not None and len(self._first):
            drawn.append(self._first[:n])
            self._first = self._first[n:]
        while missing := n - sum(map(len, drawn)):
            p = self._own.prior(missing)
            new = [k for k, id in enumerate(p.id.tolist()) if id not in self._known]
            drawn.append(p[torch.tensor(new, dtype=torch.int64)])
        return concat(*drawn)

    def predict(self, p: Population) -> Population:
        """See `Sampler.predict`."""
        if p.x0 is not None:
            return p
        return self._charged(p, len(p), lambda batch: (self._own.predict(batch), {}))[0]

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """See `Sampler.run`."""
        cost = self.cost(p, until, through)
        return self._charged(p, cost, lambda batch: self._own.run(batch, until, keep, eta, through))

    def decode(self, p: Population) -> Tensor:
        """See `Sampler.decode`; rewards see the 8-bit sample, the one that is saved."""
        exact = self._own.decode(p)
        samples = (exact.detach() * 255).round().to(torch.uint8)
        self._meter.decodes += len(p)
        self.decoded = (p, samples)
        seen = samples.float() / 255
        if exact.requires_grad:  # of what is not rounded
            seen = exact + (seen - exact).detach()
        self._sources[seen] = self.decoded
        return seen

    @contextmanager
    def grad(self) -> Generator[None]:
        """See `Sampler.grad`; the way back costs two passes of the model for each on the way there."""
        with self._own.grad():
            self._backward = True
            try:
                yield
            finally:
                self._backward = False

    def source(self, samples: Tensor) -> tuple[Population, Tensor] | None:
        """What these very samples were decoded from, and their 8 bits; None if they are not from `decode`."""
        return self._sources.get(samples)

    def _charged(
        self, p: Population, cost: int, work: Callable[[Population], tuple[Population, dict[int, Population]]]
    ) -> tuple[Population, dict[int, Population]]:
        meter = self._meter
        meter.afford(nfe=cost)
        parts: list[tuple[Population, dict[int, Population]]] = []
        for batch in p.split(self.batch_size):
            meter.afford()
            meter.start()
            before = [getattr(self._own, name, 0) for name in ("computed", "model_passes")]
            parts.append(work(batch))
            nfe = getattr(self._own, "computed", before[0] + cost * len(batch) // len(p)) - before[0]
            meter.nfe += nfe
            passes = getattr(self._own, "model_passes", before[1] + nfe) - before[1]
            meter.model_passes += 3 * passes if self._backward else passes
            self._tick()
        ends, kept = zip(*parts, strict=True)
        return concat(*ends), {level: concat(*(part[level] for part in kept)) for level in kept[0]}


class MeteredReward:
    """A reward bound to its prompt, charged, checked, and with the best samples kept as they are scored.

    What computes elsewhere than the model, or over a network, scores one batch while the next is made. The thread that
    does so only asks the reward: all that is counted or kept is so in turn, by the thread that searches.

    Args:
        reward: ``(samples, prompts) -> (N,)``, or (N, R) of several unweighted.
        prompt: The prompt.
        meter: What to charge.
        sampler: Decodes what is scored.
        gallery: Keeps the best.
        cache: What is known already, and costs nothing.
        device: Where the model computes; None where that is unknown.

    Attributes:
        invalid: How many samples it had nothing finite to say of.
        watch: Where held-out rewards are to see what was the best on the way, keeps that.
    """

    def __init__(
        self,
        reward: TensorReward,
        prompt: str,
        meter: Meter,
        sampler: MeteredSampler,
        gallery: Gallery,
        cache: ScoreCache,
        device: torch.device | None = None,
    ) -> None:
        self._own, self._prompt, self._meter = reward, prompt, meter
        self._sampler, self._gallery, self._cache = sampler, gallery, cache
        self.invalid, self._settled = 0, False
        self.watch: Watch | None = None
        self.differentiable = bool(getattr(reward, "differentiable", False))
        self.overlaps = device is not None and all(elsewhere(part, device) for part in leaves(reward))
        self._worker: ThreadPoolExecutor | None = None
        self._going: _Going | None = None

    def __call__(self, samples: Tensor) -> Tensor:
        """Score samples (N, [F,] 3, H, W); returns (N,) float32, NaN where the reward gave nothing finite.

        Of several rewards unweighted it is (N, R).
        """
        note = self._afforded(samples)
        return note(self._timed(samples))

    def begin(self, samples: Tensor) -> Callable[[], Tensor]:
        """Start to score samples, once those before are done with; what is returned waits for their scores."""
        note = self._afforded(samples)
        if self._worker is None or samples.requires_grad:
            values = note(self._timed(samples))
            return lambda: values
        here = partial(copy_context().run, _as_here(self._timed), samples)
        self._going = _Going(self._worker.submit(here), note)
        return self._going

    def _afforded(self, samples: Tensor) -> Callable[[_Said], Tensor]:
        """What takes note of their scores and the seconds that those took; or `BudgetExhausted`."""
        self._settle()
        n, source = len(samples), self._sampler.source(samples)
        if source is not None:
            self._cache.recognise(samples, source[1])
        new = self._cache.unknown(self._own, samples, [self._prompt] * n)
        # What is denoised is paid for: the clock alone does not keep the first samples from being scored.
        first = source is not None and source[0].i == self._sampler.steps and self._gallery.best is None
        self._meter.afford(reward_calls=new.samples, usd=new.usd, in_time=not first)
        return partial(self._note, source, n, new)

    @contextmanager
    def working(self) -> Generator[None]:
        """Within, batches may overlap. At the end, what is being scored is waited for, since it is paid for."""
        with ThreadPoolExecutor(1, "reward") if self.overlaps else nullcontext() as self._worker:
            try:
                yield
            except BudgetExhausted:
                self._settle()
                raise
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    for part in leaves(self._own):
                        getattr(part, "cancel", lambda: None)()
                with suppress(Exception):  # what went wrong first is what is told
                    self._settle()
                raise
            else:
                self._settle()
            finally:
                self._worker = None

    def _settle(self) -> None:
        going, self._going = self._going, None
        if going is not None:
            going()

    def _timed(self, samples: Tensor) -> _Said:
        start = time.perf_counter()
        values, parts = judged(self._own, samples, [self._prompt] * len(samples))
        return _Said(values, parts, time.perf_counter() - start)

    def _note(self, source: tuple[Population, Tensor] | None, n: int, new: Unknown, said: _Said) -> Tensor:
        meter, values = self._meter, said.values
        meter.reward_calls += new.samples
        meter.hits += n - new.samples
        meter.reward_usd += new.usd
        meter.reward_seconds += said.seconds
        self.invalid += int((~valid(values)).sum())
        values = torch.where(values.isfinite(), values, torch.nan)
        if source is not None and source[0].i == self._sampler.steps:
            self._gallery.offer(*source, values.detach(), meter.cost, said.parts)
        elif source is not None:
            self._gallery.glimpse(*source, leading(values.detach()))
        if source is not None and self.watch is not None:
            self.watch.offer(*source, leading(values.detach()))
        if isinstance(self._own, Combined) and not self._own.apart and not self._settled:
            self._gallery.judge_anew(self._own.value)
            self._settled = self._own.settled
        return values


def judged(
    reward: TensorReward, samples: Tensor, prompts: list[str], *, learn: bool = True, name: str = ""
) -> tuple[Tensor, list[dict[str, float]]]:
    """What a reward says of samples, (N,) or (N, R); and of each what it is made of, nothing where that is itself.

    Args:
        reward: The reward.
        samples: (N, [F,] 3, H, W).
        prompts: N of them.
        learn: Whether these are of the search, by whose samples some rewards measure.
        name: Of the reward, for errors.
    """
    if not isinstance(reward, Combined):
        return scores(reward, samples, prompts, name), []
    found = reward.each(samples, prompts)
    values = reward.combine(found) if learn else reward.value(found)
    names, shown = (list(reward.parts), values) if reward.apart else (reward.names, found)
    return values, [dict(zip(names, row, strict=True)) for row in shown.tolist()]


class _Going:
    """A batch that is being scored: waits for its scores, and notes them the first time."""

    def __init__(self, scored: Future[_Said], note: Callable[[_Said], Tensor]) -> None:
        self._scored, self._note = scored, note
        self._values: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._values is None:
            self._values = self._note(self._scored.result())
        return self._values


def elsewhere(reward: Any, device: torch.device) -> bool:
    """Whether a reward leaves this device to others: it is ``remote``, or its ``device`` is another one."""
    if getattr(reward, "remote", False):
        return True
    own = torch.device(getattr(reward, "device", None) or device)
    return (own.type, own.index or 0) != (device.type, device.index or 0)


def _as_here(work: Callable[..., T]) -> Callable[..., T]:
    """The same in another thread, which knows nothing of this one's gradient modes."""
    gradient, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def there(*given: Any) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradient):
            return work(*given)

    return there
