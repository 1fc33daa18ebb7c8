"""What a search is handed in a run as its reward: metered, journaled, and with the best samples kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from evosearch.budget import BudgetExhausted, Meter
from evosearch.hacking import Watch
from evosearch.journal import Answer
from evosearch.judging import brought_together, elsewhere, heard, spent
from evosearch.memory import half, within
from evosearch.metered import MeteredSampler, Source
from evosearch.negatives import Negative
from evosearch.result import Gallery, thumbnail
from evosearch.rewards import TensorReward
from evosearch.rewards.cache import ScoreCache, Unknown, leaves
from evosearch.rewards.combined import Combined
from evosearch.selection import leading, valid
from evosearch.types import Population, pictures

T = TypeVar("T")


class _Said(NamedTuple):
    """What a reward says of a batch.

    Attributes:
        found: Scores of what it is made of, (N, R), or its own, (N,).
        heard: What each reward that it is made of said, in turn.
        seconds: Spent.
        usd: Spent, as far as the rewards know by themselves.
    """

    found: Tensor
    heard: list[list[float]]
    seconds: float
    usd: float


class MeteredReward:
    """A reward bound to its prompt, charged, checked, and with the best samples kept as they are scored.

    What computes elsewhere than the model, or over a network, scores one batch while the next is made. All that is
    counted or kept is so in turn, by the thread that searches.

    Args:
        reward: ``(samples, prompts) -> (N,)``, or (N, R) of several unweighted.
        prompt: The prompt.
        meter: What to charge.
        sampler: Decodes what is scored.
        gallery: Keeps the best.
        cache: What is known already, and costs nothing.
        device: Where the model computes; None where that is unknown.
        thumbnails: Whether to keep small pictures of all that is scored.

    Attributes:
        invalid: How many samples it had nothing finite to say of.
        watch: Where held-out rewards are to see what was the best on the way, keeps that.
        overlaps: Whether something else can be done while it scores.
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
        thumbnails: bool = False,
    ) -> None:
        self._own, self._prompt, self._meter = reward, prompt, meter
        self._sampler, self._gallery, self._cache = sampler, gallery, cache
        self.invalid, self._settled, self._thumbnails = 0, False, thumbnails
        self._most: int | None = None  # samples that it scores at a time, where memory does not suffice for all
        self.watch: Watch | None = None
        self.differentiable = bool(getattr(reward, "differentiable", False))
        far = device is not None and all(elsewhere(part, device) for part in leaves(reward))
        self.overlaps, self._far = far or sampler.elsewhere, far
        if all(hasattr(part, "begin_scoring") for part in leaves(reward)):
            sampler.scoring = self._begin_scoring
        self._thread: ThreadPoolExecutor | None = None
        self._queue = deque[_Going]()

    def __call__(self, samples: Tensor) -> Tensor:
        """Score samples (N, [F,] 3, H, W); returns (N,) float32, NaN where the reward gave nothing finite.

        Of several rewards unweighted it is (N, R).
        """
        return self.begin(samples)()

    def begin(self, samples: Tensor) -> Callable[[], Tensor]:
        """Start to score samples; what is returned waits for their scores."""
        going = _Going(samples, self._sampler.source(samples), self._settle)
        if samples.dtype == torch.int64:  # they are not here, and are being scored
            self._queue.append(going)
            return going
        self._settle()
        self._start(going)
        if self._thread is None or samples.requires_grad or going.told is not None:
            going.said = self._timed(going)
            self._note(going)
        else:
            self._queue.append(going)
            going.scored = self._thread.submit(partial(copy_context().run, _as_here(self._timed), going))
        return going

    @contextmanager
    def working(self) -> Generator[None]:
        """Within, batches may overlap. At the end, what is being scored is waited for, since it is paid for."""
        with ThreadPoolExecutor(1, "reward") if self._far else nullcontext() as self._thread:
            try:
                yield
            except BudgetExhausted:
                self._settle_paid()
                raise
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    for part in leaves(self._own):
                        getattr(part, "cancel", lambda: None)()
                with suppress(Exception):  # what went wrong first is what is told
                    self._settle_paid()
                raise
            else:
                self._settle_paid()
            finally:
                self._thread = None

    def _settle_paid(self) -> None:
        self._queue = deque(going for going in self._queue if going.scored is not None)
        self._settle()

    def _settle(self, upto: _Going | None = None) -> None:
        """Take note of those begun, in turn, up to one of them."""
        while self._queue and (upto is None or upto.values is None):
            first = self._queue.popleft()
            if first.scored is None:
                self._start(first)
                first.said = self._timed(first)
            else:
                first.said = first.scored.result()
            self._note(first)

    def _begin_scoring(self, seen: Tensor) -> None:
        """Have samples scored of which ``seen`` is all that is here, before their turn; called by another thread."""
        for part in leaves(self._own):
            part.begin_scoring(seen, [self._prompt] * len(seen))

    def _start(self, going: _Going) -> None:
        """Charge it; or `BudgetExhausted`."""
        samples, source, meter = going.samples, going.source, self._meter
        if source is not None:
            self._cache.recognise(samples, source.decoded.digests)
        if going.told is not None:
            new = Unknown(*going.told.facts["new"])
        else:
            new = self._cache.unknown(self._own, samples, [self._prompt] * len(samples))
            # What is denoised is paid for: the clock alone does not keep the first samples from being scored.
            first = source is not None and source.p.i == self._sampler.steps and self._gallery.best is None
            meter.afford(reward_calls=new.samples, usd=new.usd, in_time=not first)
        going.new = new
        meter.reward_calls += new.samples
        meter.hits += len(samples) - new.samples
        meter.reward_usd += new.usd

    def _timed(self, going: _Going) -> _Said:
        samples, told = going.samples, going.told
        before, start = spent(self._own), time.perf_counter()
        if told is not None:
            self._most = told.facts["most"]
            with self._cache.told(told.facts["heard"]):
                return _Said(self._heard(going), told.facts["heard"], *told.facts["took"])

        def ask() -> tuple[Tensor, list[list[float]]]:
            with self._cache.told(None) as lines:
                return self._heard(going), lines

        found, lines = within(ask, lambda: self._shrink(len(samples)))
        return _Said(found, lines, time.perf_counter() - start, spent(self._own) - before)

    def _heard(self, going: _Going) -> Tensor:
        """At most so many at a time as memory has been seen to suffice for."""
        most, samples = self._most, going.samples
        if most is None or most >= len(samples):
            return heard(self._own, samples, [self._prompt] * len(samples))
        found = list[Tensor]()
        for start in range(0, len(samples), most):
            some = samples[start : start + most]
            if going.source is not None:
                self._cache.recognise(some, going.digests[start : start + most])
            found.append(heard(self._own, some, [self._prompt] * len(some)))
        return torch.cat(found)

    def _shrink(self, n: int) -> bool:
        before = self._most or n
        self._most = half(before) if before > 1 else 1
        return before > 1

    def _note(self, going: _Going) -> None:
        meter, source, said = self._meter, going.source, going.said
        assert said is not None
        values, parts = brought_together(self._own, said.found)
        if source is not None and not (whole := source.decoded.whole).all():
            values = torch.where(whole.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)
        meter.reward_usd += max(0.0, said.usd - going.new.usd)
        meter.reward_seconds += said.seconds
        meter.tick(None if going.told is None else going.told.seconds)
        self.invalid += int((~valid(values)).sum())
        values = torch.where(values.isfinite(), values, torch.nan)
        if source is not None:
            self._show(source, values.detach(), parts, self._thumbnails_of(source, going, values.detach()))
        if isinstance(self._own, Combined) and not self._own.apart and not self._settled:
            self._gallery.judge_anew(self._own.value)
            if self.watch is not None:
                self.watch.judge_anew(self._own.value)
            self._settled = self._own.settled
        going.values = values
        going.samples, going.source, going.said = values, None, None  # samples are dropped as soon as they are scored

    def _thumbnails_of(self, source: Source, going: _Going, values: Tensor) -> list[bytes]:
        """They go into the journal with what was said, or come from there."""
        if source.told is not None:
            return [source.told.tensors[name].numpy().tobytes() for name in sorted(source.told.tensors)]
        decoded, said, small = source.decoded, going.said, list[bytes]()
        assert said is not None
        if self._thumbnails and decoded.thumbnails is not None:
            small = decoded.thumbnails
        elif self._thumbnails:
            assert decoded.samples is not None
            small = [thumbnail(pictures(sample)) for sample in decoded.samples]
        if source.call is not None:
            digests, took = [each.hex() for each in decoded.digests], [said.seconds, said.usd]
            facts = {"digests": digests, "new": list(going.new), "heard": said.heard, "took": took, "most": self._most}
            facts |= {"whole": decoded.whole.tolist()}
            facts |= self._for_readers(source.p, values)
            tensors = {f"{k:06d}": torch.frombuffer(bytearray(data), dtype=torch.uint8) for k, data in enumerate(small)}
            self._sampler.journal.keep(source.call, Answer(self._meter.seconds, facts, tensors))
        return small

    def _for_readers(self, p: Population, values: Tensor) -> dict[str, Any]:
        """What nobody needs to go on, but who looks into a journal wants to know."""
        ids, parents = p.id.tolist(), p.parent.tolist()
        rewards = leading(values).tolist()
        return {"ids": ids, "parents": parents, "level": p.i, "rewards": rewards, "nfe": self._meter.nfe}

    def _show(self, source: Source, values: Tensor, parts: list[dict[str, float]], thumbnails: list[bytes]) -> None:
        p, decoded, finished = source.p, source.decoded, source.p.i == self._sampler.steps
        if not finished:
            self._gallery.glimpse(p, leading(values), thumbnails)
            if self.watch is None:
                return
        samples = [None] * len(p) if decoded.samples is None else decoded.samples.unbind()
        negatives = [
            Negative(p[[k]], None if sample is None else sample.clone(), digest)  # not its whole micro-batch
            for k, (sample, digest) in enumerate(zip(samples, decoded.digests, strict=True))
        ]
        if finished:
            self._gallery.offer(negatives, values, self._meter.cost, parts, thumbnails)
        if self.watch is not None:
            self.watch.offer(negatives, leading(values), parts)


class _Going:
    """A batch that is to be scored, is being scored, or has been: waits for its scores.

    Args:
        samples: What is scored, or what stands for it.
        source: What it was decoded from.
        settle: Takes note of those before it, and of itself.

    Attributes:
        new: What there is to do for it.
        scored: Its scoring, once that has begun.
        said: What the reward said.
        values: Its scores, once they are noted.
    """

    def __init__(self, samples: Tensor, source: Source | None, settle: Callable[[_Going], None]) -> None:
        self.samples, self.source, self._settle = samples, source, settle
        self.new = Unknown(0, 0.0)
        self.scored: Future[_Said] | None = None
        self.said: _Said | None = None
        self.values: Tensor | None = None

    @property
    def told(self) -> Answer | None:
        """What the journal knows."""
        return None if self.source is None else self.source.told

    @property
    def digests(self) -> list[bytes]:
        """Of its samples; waits until they are decoded."""
        return [] if self.source is None else self.source.decoded.digests

    def __call__(self) -> Tensor:
        """Its scores."""
        self._settle(self)
        assert self.values is not None
        return self.values


def _as_here(work: Callable[..., T]) -> Callable[..., T]:
    """The same in another thread, which knows nothing of this one's gradient modes."""
    gradient, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def there(*given: Any) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradient):
            return work(*given)

    return there
