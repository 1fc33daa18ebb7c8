"""What a search is handed in a run as its reward: metered, journaled, and with the best samples kept."""

from __future__ import annotations

import time
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
from evosearch.memory import half, within
from evosearch.metered import MeteredSampler, Source
from evosearch.negatives import Negative
from evosearch.result import Gallery, thumbnail
from evosearch.rewards import TensorReward, scores
from evosearch.rewards.cache import ScoreCache, Unknown, leaves
from evosearch.rewards.combined import Combined
from evosearch.selection import leading, valid
from evosearch.types import Population, pictures

T = TypeVar("T")


class _Said(NamedTuple):
    """What a reward says of a batch.

    Attributes:
        values: Scores, (N,) or (N, R).
        parts: Of each, what it is made of.
        heard: What each reward that it is made of said, in turn.
        seconds: Spent.
        usd: Spent, as far as the rewards know by themselves.
    """

    values: Tensor
    parts: list[dict[str, float]]
    heard: list[list[float]]
    seconds: float
    usd: float


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
        thumbnails: Whether to keep small pictures of all that is scored.

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
        thumbnails: bool = False,
    ) -> None:
        self._own, self._prompt, self._meter = reward, prompt, meter
        self._sampler, self._gallery, self._cache = sampler, gallery, cache
        self.invalid, self._settled, self._thumbnails = 0, False, thumbnails
        self._most: int | None = None  # samples that it scores at a time, where memory does not suffice for all
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
        """What takes note of their scores and of what those took; or `BudgetExhausted`."""
        self._settle()
        n, source = len(samples), self._sampler.source(samples)
        if source is not None:
            self._cache.recognise(samples, source.digests)
        if source is not None and source.told is not None:
            new = Unknown(*source.told.facts["new"])
        else:
            new = self._cache.unknown(self._own, samples, [self._prompt] * n)
        # What is denoised is paid for: the clock alone does not keep the first samples from being scored.
        first = source is not None and source.p.i == self._sampler.steps and self._gallery.best is None
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
        source = self._sampler.source(samples)
        told = None if source is None else source.told
        before, start = spent(self._own), time.perf_counter()
        if told is not None:
            self._most = told.facts["most"]
            heard, took = told.facts["heard"], told.facts["took"]
            with self._cache.told(heard):
                values, parts = self._judged(samples)
        else:
            values, parts, heard = within(lambda: self._heard(samples), lambda: self._shrink(len(samples)))
            took = time.perf_counter() - start, spent(self._own) - before
        if source is not None and not source.whole.all():
            values = torch.where(source.whole.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)
        return _Said(values, parts, heard, *took)

    def _heard(self, samples: Tensor) -> tuple[Tensor, list[dict[str, float]], list[list[float]]]:
        with self._cache.told(None) as heard:
            return *self._judged(samples), heard

    def _judged(self, samples: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
        """At most so many at a time as memory has been seen to suffice for."""
        most, source = self._most, self._sampler.source(samples)
        if most is None or most >= len(samples):
            return judged(self._own, samples, [self._prompt] * len(samples))
        found = list[tuple[Tensor, list[dict[str, float]]]]()
        for start in range(0, len(samples), most):
            some = samples[start : start + most]
            if source is not None:
                self._cache.recognise(some, source.digests[start : start + most])
            found.append(judged(self._own, some, [self._prompt] * len(some)))
        return torch.cat([values for values, _ in found]), [part for _, parts in found for part in parts]

    def _shrink(self, n: int) -> bool:
        before = self._most or n
        self._most = half(before) if before > 1 else 1
        return before > 1

    def _note(self, source: Source | None, n: int, new: Unknown, said: _Said) -> Tensor:
        meter, values = self._meter, said.values
        meter.reward_calls += new.samples
        meter.hits += n - new.samples
        meter.reward_usd += max(new.usd, said.usd)
        meter.reward_seconds += said.seconds
        meter.tick(None if source is None or source.told is None else source.told.seconds)
        self.invalid += int((~valid(values)).sum())
        values = torch.where(values.isfinite(), values, torch.nan)
        if source is not None:
            self._show(source, values.detach(), said.parts, self._thumbnails_of(source, new, said))
        if isinstance(self._own, Combined) and not self._own.apart and not self._settled:
            self._gallery.judge_anew(self._own.value)
            if self.watch is not None:
                self.watch.judge_anew(self._own.value)
            self._settled = self._own.settled
        return values

    def _thumbnails_of(self, source: Source, new: Unknown, said: _Said) -> list[bytes]:
        """They go into the journal with what was said, or come from there."""
        if source.told is not None:
            return [source.told.tensors[name].numpy().tobytes() for name in sorted(source.told.tensors)]
        assert source.samples is not None
        small = [thumbnail(pictures(sample)) for sample in source.samples] if self._thumbnails else []
        if source.call is not None:
            digests, took = [each.hex() for each in source.digests], [said.seconds, said.usd]
            facts = {"digests": digests, "new": list(new), "heard": said.heard, "took": took, "most": self._most}
            facts |= {"whole": source.whole.tolist()}
            facts |= self._for_readers(source.p, said)
            tensors = {f"{k:06d}": torch.frombuffer(bytearray(data), dtype=torch.uint8) for k, data in enumerate(small)}
            self._sampler.journal.keep(source.call, Answer(self._meter.seconds, facts, tensors))
        return small

    def _for_readers(self, p: Population, said: _Said) -> dict[str, Any]:
        """What nobody needs to go on, but who looks into a journal wants to know."""
        rewards, ids, parents = leading(said.values.detach()).tolist(), p.id.tolist(), p.parent.tolist()
        return {"ids": ids, "parents": parents, "level": p.i, "rewards": rewards, "nfe": self._meter.nfe}

    def _show(self, source: Source, values: Tensor, parts: list[dict[str, float]], thumbnails: list[bytes]) -> None:
        p, finished = source.p, source.p.i == self._sampler.steps
        if not finished:
            self._gallery.glimpse(p, leading(values), thumbnails)
            if self.watch is None:
                return
        samples = [None] * len(p) if source.samples is None else source.samples.unbind()
        negatives = [
            Negative(p[[k]], None if sample is None else sample.clone(), digest)  # not its whole micro-batch
            for k, (sample, digest) in enumerate(zip(samples, source.digests, strict=True))
        ]
        if finished:
            self._gallery.offer(negatives, values, self._meter.cost, parts, thumbnails)
        if self.watch is not None:
            self.watch.offer(negatives, leading(values), parts)


def spent(reward: Any) -> float:
    """Money that a reward, or what it is made of, knows to have spent so far: its ``usd_spent``."""
    return sum(float(getattr(part, "usd_spent", None) or 0.0) for part in leaves(reward))


def is_priced(reward: Any) -> bool:
    """Whether a reward, or what it is made of, says what it has spent."""
    return any(getattr(part, "usd_spent", None) is not None for part in leaves(reward))


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
