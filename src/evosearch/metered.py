"""What a search is handed in a run as its sampler: metered and journaled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from evosearch.budget import Meter
from evosearch.decoding import Decoded, exactly, told_apart
from evosearch.journal import Answer, Call, Journal, asks, packed, unpacked
from evosearch.turns import Batch, Done, Pending, Ran, Turns
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


class MeteredSampler:
    """A sampler that charges a meter, micro-batch by micro-batch, and rounds samples to 8 bits.

    Args:
        sampler: The sampler proper.
        meter: What to charge.
        first: Particles at level 0 that the first calls of `prior` give out.
        tick: Called after every micro-batch, once it is journaled.

    Attributes:
        journal: What was given before.
        shows: Whether the search looks at samples itself.
        elsewhere: Whether others compute.
        scoring: Where they do, has what stands for decoded samples scored before anybody asks for it.
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
        self.elsewhere = hasattr(sampler, "running")
        self.scoring: Callable[[Tensor], Any] = lambda _: None
        self._size = sampler.batch_size
        self._sources, self._decodings = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        self._backward = False

    @property
    def ahead(self) -> int:
        """Micro-batches that may be under way at a time."""
        return max(1, 2 * int(getattr(self._own, "workers", 0)))

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
        if self.elsewhere and not self.shows:
            seen, wait = self._decodings.pop(p.x, None) or self._decoding(p)
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

    def runs(
        self, batches: Iterable[Population], until: int, keep: Sequence[int] = (), eta: float | None = None
    ) -> Turns:
        """Run micro-batches that are to be scored."""
        asked = until, tuple(keep), eta, None
        drawn = (Batch(p, asks(p, *asked), self.cost(p, until), len(p)) for p in batches)
        work = lambda p: self._own.run(p, until, keep, eta)  # noqa: E731
        follow = self._decoding if self.elsewhere and not self.shows else None
        return self._turns(_Task(asked, work, follow), drawn)

    def _charged(
        self,
        p: Population,
        cost: int,
        work: Callable[[Population], tuple[Population, dict[int, Population]]],
        asked: tuple[Any, ...],
    ) -> tuple[Population, dict[int, Population]]:
        """Do, or be told, what is asked: until which level, which states to keep, and how."""
        self._meter.afford(nfe=cost)
        batches = (Batch(batch, asks(batch, *asked), cost * len(batch) // len(p)) for batch in p.split(self.batch_size))
        with self._turns(_Task(asked, work, paid=True), batches) as runs:
            return concat_runs([*runs])

    def _turns(self, task: _Task, batches: Iterable[Batch]) -> Turns:
        begin, done = partial(self._begin, task), partial(self._done, task)
        return Turns(batches, begin, done, ahead=self.ahead, elsewhere=self.elsewhere)

    def _decoding(self, p: Population) -> tuple[Tensor, Callable[[], Decoded]]:
        return cast(Any, self._own).decoding(p, self.scoring)

    def _expects(self, batch: Batch) -> bool:
        """Whether the journal knows what the next call gives, this one."""
        return not self._backward and self.journal.expects("run", batch.words)

    def _begin(self, task: _Task, batch: Batch, before: Sequence[Batch]) -> bool:
        """Begin one ahead of its turn, if the budget is likely to pay for it beside those before it."""
        together = [*before, batch]
        nfe = 0 if task.paid else sum(each.cost for each in together)
        scored = sum(each.scored for each in together)
        if self._expects(batch) or not self._meter.affords(nfe=nfe, reward_calls=scored):
            return False
        self._meter.start()
        batch.pending = self._under_way(task, batch)
        return True

    def _under_way(self, task: _Task, batch: Batch) -> Pending:
        own, following = cast(Any, self._own), {} if task.follow is None else {"then": task.follow}
        if self.elsewhere:
            return own.running(batch.p, *task.asked, **following)
        before = [getattr(own, name, 0) for name in ("computed", "model_passes")]
        part = task.work(batch.p)
        nfe = getattr(own, "computed", before[0] + batch.cost) - before[0]
        passes = getattr(own, "model_passes", before[1] + nfe) - before[1]
        return Done(Ran(*part, nfe, passes, own.edits, own.batch_size))

    def _done(self, task: _Task, batch: Batch) -> tuple[Population, dict[int, Population]]:
        """What a micro-batch comes to, in its turn: wait for it, charge it, and keep that."""
        meter, own = self._meter, cast(Any, self._own)
        if not self._expects(batch):
            meter.afford(nfe=0 if task.paid else batch.cost)
        meter.start()
        call = None if self._backward else self.journal.call("run", batch.words)
        told = None if call is None else call.told
        if told is not None:
            until, keep, *_ = task.asked
            ran = Ran(*unpacked(batch.p, until, keep, told.tensors), **told.facts)
        else:
            ran = (batch.pending or self._under_way(task, batch))()
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
            self.journal.keep(call, Answer(meter.seconds, ran.facts, packed(batch.p, ran.end, ran.kept)))
        if ran.decoding is not None:
            self._decodings[ran.end.x] = ran.decoding
        self._tick()
        return ran.end, ran.kept


class _Task(NamedTuple):
    """What is done with each micro-batch of a call: the same thing, here or elsewhere.

    Attributes:
        asked: Until which level, which states to keep, and how.
        work: Does it here.
        follow: Asks for what follows on it, once it is done.
        paid: Whether the budget was asked about all of them together.
    """

    asked: tuple[Any, ...]
    work: Callable[[Population], tuple[Population, dict[int, Population]]]
    follow: Callable[[Population], Any] | None = None
    paid: bool = False
