"""What a search is handed in a run as its sampler: metered and journaled."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from evosearch.budget import Meter
from evosearch.decoding import Decoded, exactly, told_apart
from evosearch.journal import Answer, Call, Journal, asks, packed, unpacked
from evosearch.types import Population, Sampler, concat, concat_runs


class Source:
    """What samples were decoded from.

    Args:
        p: The particles.
        decoded: Gives what they were decoded to, once that is there.
        call: Of the journal; None where a gradient is wanted, which is computed anew.
    """

    def __init__(self, p: Population, decoded: Callable[[], Decoded], call: Call | None) -> None:
        self.p, self.call, self._decoded = p, call, decoded

    @cached_property
    def decoded(self) -> Decoded:
        """What they were decoded to; waits for it."""
        return self._decoded()

    @property
    def told(self) -> Answer | None:
        """What the journal knows."""
        return None if self.call is None else self.call.told


class Ran(NamedTuple):
    """What a micro-batch came to.

    Attributes:
        end: Where it stands.
        kept: The states that were to be kept, by level.
        nfe: Denoising steps that were computed.
        passes: The same, with those of guidance.
        edits: Whether the pipeline edits its states.
        batch_size: Particles that memory suffices for.
    """

    end: Population
    kept: dict[int, Population]
    nfe: int
    passes: int
    edits: bool
    batch_size: int


class Pending(Protocol):
    """A micro-batch that is under way elsewhere."""

    def __call__(self) -> Ran:
        """What it came to; waits for it."""
        ...

    def cancel(self) -> bool:
        """Leave it, unless it has begun; whether that could be done."""
        ...


class MeteredSampler:
    """A sampler that charges a meter, micro-batch by micro-batch, and rounds samples to 8 bits.

    Args:
        sampler: The sampler proper.
        meter: What to charge.
        first: Particles at level 0 that the first calls of `prior` give out.
        tick: Called after every micro-batch, once it is journaled.

    Attributes:
        ahead: Micro-batches that may be under way at a time.
        journal: What was given before.
        shows: Whether the search looks at samples itself.
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
        self.journal, self.shows = Journal(), False
        self.ahead = max(1, 2 * int(getattr(sampler, "workers", 0)))
        self._size = sampler.batch_size
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
        return self._charged(p, len(p), lambda batch: (self._own.predict(batch), {}), (p.i, ()))[0]

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """See `Sampler.run`."""
        cost, stops = self.cost(p, until, through), None if through is None else list(through)
        work = lambda batch: self._own.run(batch, until, keep, eta, through)  # noqa: E731
        return self._charged(p, cost, work, (until, tuple(keep), eta, stops))

    def decode(self, p: Population) -> Tensor:
        """See `Sampler.decode`; rewards see the 8-bit sample, the one that is saved.

        What the journal knows the worth of is not decoded, unless it is to be seen: `MeteredReward` knows it by what
        stands for it. So it is with what is decoded elsewhere.
        """
        call = None if self._backward else self.journal.call("score", asks(p))
        self._meter.decodes += len(p)
        if call is not None and call.told is not None and not self.shows:
            facts = call.told.facts
            decoded = Decoded(None, list(map(bytes.fromhex, facts["digests"])), torch.tensor(facts["whole"]))
            return self._standing_for(p, torch.zeros(len(p), 3, 1, 1), lambda: decoded, call)
        if hasattr(self._own, "decoding") and not self.shows:
            seen, wait = cast(Any, self._own).decoding(p)
            return self._standing_for(p, seen, lambda: self._noticed(p, wait()), call)
        exact, whole = exactly(self._own, p, again=not self._backward)
        decoded = self._noticed(p, told_apart(exact, whole))
        assert decoded.samples is not None
        seen = decoded.samples.float() / 255
        if exact.requires_grad:  # of what is not rounded
            seen = exact + (seen - exact).detach()
        return self._standing_for(p, seen, lambda: decoded, call)

    def _standing_for(self, p: Population, seen: Tensor, decoded: Callable[[], Decoded], call: Call | None) -> Tensor:
        self._sources[seen] = Source(p, decoded, call)
        return seen

    def _noticed(self, p: Population, decoded: Decoded) -> Decoded:
        if not decoded.whole.all():
            ids = [f"{id:016x}" for id in p.id[~decoded.whole].tolist()]
            self.journal.event("not finite", {"level": p.i, "particles": ids})
        return decoded

    @contextmanager
    def grad(self) -> Generator[None]:
        """See `Sampler.grad`; the way back costs two passes of the model for each on the way there."""
        with self._own.grad():
            self._backward = True
            try:
                yield
            finally:
                self._backward = False

    def source(self, samples: Tensor) -> Source | None:
        """What these very samples were decoded from; None if they are not from `decode`."""
        return self._sources.get(samples)

    def _charged(
        self,
        p: Population,
        cost: int,
        work: Callable[[Population], tuple[Population, dict[int, Population]]],
        asked: tuple[Any, ...],
    ) -> tuple[Population, dict[int, Population]]:
        """Do, or be told, what is asked: until which level, which states to keep, and how.

        Where there are several to do it, more than one micro-batch is under way. They are charged and journaled in
        turn, as if there were one.
        """
        self._meter.afford(nfe=cost)
        parts, waiting = list[Ran](), deque[_Begun]()
        try:
            for batch in p.split(self.batch_size):
                if len(waiting) == self.ahead:
                    parts.append(self._done(waiting.popleft()))
                begun = self._begun(batch, cost * len(batch) // len(p), work, asked)
                if begun.call is not None and begun.call.told is not None:
                    parts += [self._done(waiting.popleft()) for _ in range(len(waiting))]
                    parts.append(self._done(begun))
                else:
                    waiting.append(begun)
            while waiting:
                parts.append(self._done(waiting.popleft()))
        except BaseException:
            self._leave(waiting)
            raise
        return concat_runs([(part.end, part.kept) for part in parts])

    def _begun(
        self,
        batch: Population,
        cost: int,
        work: Callable[[Population], tuple[Population, dict[int, Population]]],
        asked: tuple[Any, ...],
    ) -> _Begun:
        meter, own, words = self._meter, cast(Any, self._own), asks(batch, *asked)
        if self._backward or not self.journal.expects("run", words):
            meter.afford()
        meter.start()
        call = None if self._backward else self.journal.call("run", words)
        if call is not None and (told := call.told) is not None:
            part = unpacked(batch, asked[0], asked[1], told.tensors)
            facts = told.facts
            ran = Ran(*part, facts["nfe"], facts["passes"], facts["edits"], facts["batch_size"])
            return _Begun(batch, call, lambda: ran)
        if hasattr(own, "running"):
            return _Begun(batch, call, own.running(batch, *asked))

        def here() -> Ran:
            before = [getattr(own, name, 0) for name in ("computed", "model_passes")]
            part = work(batch)
            nfe = getattr(own, "computed", before[0] + cost) - before[0]
            passes = getattr(own, "model_passes", before[1] + nfe) - before[1]
            return Ran(*part, nfe, passes, own.edits, own.batch_size)

        return _Begun(batch, call, here)

    def _done(self, begun: _Begun) -> Ran:
        """Wait for a micro-batch, charge it, and keep what it came to."""
        meter, own, call = self._meter, cast(Any, self._own), begun.call
        told = None if call is None else call.told
        ran = begun.work()
        meter.nfe += ran.nfe
        meter.model_passes += 3 * ran.passes if self._backward else ran.passes
        meter.tick(None if told is None else told.seconds)
        if ran.edits and not own.edits:  # which a pipeline shows as it runs
            own.edits = True
        if ran.batch_size < self._size:  # memory did not suffice for more
            own.batch_size = self._size = ran.batch_size
            if told is None:
                self.journal.event("out of memory", {"batch_size": ran.batch_size})
        if told is None and call is not None:
            facts = {"nfe": ran.nfe, "passes": ran.passes, "edits": ran.edits, "batch_size": ran.batch_size}
            self.journal.keep(call, Answer(meter.seconds, facts, packed(begun.batch, ran.end, ran.kept)))
        self._tick()
        return ran

    def _leave(self, waiting: deque[_Begun]) -> None:
        """Those that have begun are paid for: they are waited for, and kept. The others are left."""
        while waiting and getattr(waiting[-1].work, "cancel", lambda: True)():
            waiting.pop()
        with suppress(Exception, KeyboardInterrupt):  # what went wrong first is what is told
            while waiting:
                self._done(waiting.popleft())


class _Begun(NamedTuple):
    """A micro-batch that has begun, or is done when it is asked for."""

    batch: Population
    call: Call | None
    work: Callable[[], Ran]
