"""What a search is handed in a run as its sampler: metered and journaled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from evosearch.budget import Meter
from evosearch.digests import digest
from evosearch.journal import Answer, Call, Journal, asks, packed, unpacked
from evosearch.negatives import eight_bit
from evosearch.types import Population, Sampler, concat


class Source(NamedTuple):
    """What samples were decoded from.

    Attributes:
        p: The particles.
        samples: (N, [F,] 3, H, W) uint8; None where the journal knows what they were worth.
        digests: Of each.
        call: Of the journal; None where a gradient is wanted, which is computed anew.
        whole: (N,) bool, which of them have finite numbers alone; the others are no samples.
    """

    p: Population
    samples: Tensor | None
    digests: list[bytes]
    call: Call | None
    whole: Tensor

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
        stands for it.
        """
        call = None if self._backward else self.journal.call("score", asks(p))
        self._meter.decodes += len(p)
        if call is not None and call.told is not None and not self.shows:
            seen = torch.zeros(len(p), 3, 1, 1)
            facts = call.told.facts
            digests, whole = list(map(bytes.fromhex, facts["digests"])), torch.tensor(facts["whole"])
            self._sources[seen] = Source(p, None, digests, call, whole)
            return seen
        exact, whole = self._decoded(p)
        samples = eight_bit(exact)
        seen = samples.float() / 255
        if exact.requires_grad:  # of what is not rounded
            seen = exact + (seen - exact).detach()
        self._sources[seen] = Source(p, samples, list(map(digest, samples)), call, whole)
        return seen

    def _decoded(self, p: Population) -> tuple[Tensor, Tensor]:
        """Samples, 0 where they are not finite, and which are, (N,); those of finite states are decoded twice then."""
        state = p.x if p.i == self.steps or p.x0 is None else p.x0
        sound, exact = _finite(state), self._own.decode(p)
        whole = _finite(exact)
        precisely = getattr(self._own, "decode_precisely", None)
        if (again := sound & ~whole).any() and precisely is not None and not self._backward:
            exact = exact.clone()
            exact[again] = precisely(p[again.nonzero()[:, 0]])
            whole = _finite(exact)
        if not (whole & sound).all():
            ids = [f"{id:016x}" for id in p.id[~(whole & sound)].tolist()]
            self.journal.event("not finite", {"level": p.i, "particles": ids})
        return exact.nan_to_num(0.0, 0.0, 0.0) if not whole.all() else exact, whole & sound

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
        """Do, or be told, what is asked: until which level, which states to keep, and how."""
        meter, until, keep = self._meter, asked[0], asked[1]
        meter.afford(nfe=cost)
        parts: list[tuple[Population, dict[int, Population]]] = []
        for batch in p.split(self.batch_size):
            meter.afford()
            meter.start()
            call = None if self._backward else self.journal.call("run", asks(batch, *asked))
            if call is not None and call.told is not None:
                told = call.told
                part = unpacked(batch, until, keep, told.tensors)
                self._spend(told.facts["nfe"], told.facts["passes"], told.seconds)
                own = cast(Any, self._own)
                if told.facts["edits"] and not own.edits:  # which a pipeline shows as it runs
                    own.edits = True
                own.batch_size = told.facts["batch_size"]  # where memory did not suffice for more
            else:
                before = [getattr(self._own, name, 0) for name in ("computed", "model_passes")]
                size = self._own.batch_size
                part = work(batch)
                if self._own.batch_size != size:
                    self.journal.event("out of memory", {"batch_size": self._own.batch_size})
                nfe = getattr(self._own, "computed", before[0] + cost * len(batch) // len(p)) - before[0]
                passes = getattr(self._own, "model_passes", before[1] + nfe) - before[1]
                self._spend(nfe, passes)
                if call is not None:
                    facts = {"nfe": nfe, "passes": passes, "edits": self._own.edits}
                    facts |= {"batch_size": self._own.batch_size}
                    self.journal.keep(call, Answer(meter.seconds, facts, packed(batch, *part)))
            parts.append(part)
            self._tick()
        ends, kept = zip(*parts, strict=True)
        return concat(*ends), {level: concat(*(part[level] for part in kept)) for level in kept[0]}

    def _spend(self, nfe: int, passes: int, seconds: float | None = None) -> None:
        self._meter.nfe += nfe
        self._meter.model_passes += 3 * passes if self._backward else passes
        self._meter.tick(seconds)


def _finite(x: Tensor) -> Tensor:
    """Which rows (N, ...) have finite numbers alone, (N,) bool."""
    return x.detach().isfinite().flatten(1).all(1)
