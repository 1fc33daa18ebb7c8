"""What a search is handed in place of a model and rewards that are elsewhere."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from inspect import getattr_static
from itertools import count
from typing import Any, Self

import torch
from torch import Tensor

from evosearch import rewards
from evosearch.decoding import Decoded, eight_bit
from evosearch.executors.pool import Deadly, Pool, awaited, followed
from evosearch.executors.worker import Opened, Spec
from evosearch.journal import unpacked
from evosearch.rewards import TensorReward
from evosearch.rewards.cache import leaves
from evosearch.rewards.combined import Combined
from evosearch.stepper import Stepper
from evosearch.turns import Ran
from evosearch.types import Population, concat, concat_runs

_TICKETS = count(1)


@dataclass
class _Row:
    """What a ticket stands for: one decoded particle, as long as somebody may ask for its score.

    Attributes:
        sampler: Of which it is.
        p: A population of one.
        under_way: Scores of the tickets that it is the first of, asked for ahead, by reward.
    """

    sampler: RemoteSampler
    p: Population
    under_way: dict[Any, tuple[list[int], Future[Tensor]]] = field(default_factory=dict[Any, Any])


_ROWS = dict[int, _Row]()


class RemotePipe:
    """A pipeline that workers have, of which samplers may be asked for; see `evosearch.hire`.

    Args:
        pool: The workers.
        given: What they were to have: a name, a pipeline, a sampler.
    """

    def __init__(self, pool: Pool, given: Any) -> None:
        self.pool, self.about, self.given = pool, pool.about, given

    def sampler(self, **arguments: Any) -> RemoteSampler:
        """See `evosearch.resolve.sampler_of`."""
        name = self.pool.define(Spec(arguments))
        return RemoteSampler(self.pool, (name,), self.pool.ask("open", name, about=(name,)))


class RemoteSampler(Stepper):
    """A sampler whose model is elsewhere.

    Args:
        pool: Who has it.
        about: Its name there, and those of what it goes by.
        opened: What is known of it.
    """

    def __init__(self, pool: Pool, about: tuple[str, ...], opened: Opened) -> None:
        super().__init__(
            opened.path, opened.shape, eta=opened.eta, seed=opened.seed, batch_size=opened.batch_size,
            device=torch.device("cpu"),
        )  # fmt: skip
        self._pool, self._about, self._opened = pool, about, opened
        self.clean, self.own_solver = opened.start, opened.own_solver
        self.facts, self.frame_rate = opened.facts, opened.frame_rate
        self.computed = 0  # is counted where it is computed

    @property
    def name(self) -> str:
        """Its name there."""
        return self._about[0]

    @property
    def workers(self) -> int:
        """How many may compute at a time."""
        return self._pool.width

    def listen(self, listener: Callable[[str, Mapping[str, Any]], None]) -> Callable[[], None]:
        """See `evosearch.executors.pool.Pool.listen`."""
        return self._pool.listen(listener)

    def predict(self, p: Population) -> Population:
        """See `evosearch.sampler.BaseSampler.predict`."""
        if p.x0 is not None:
            return p
        return self._whole(p, p.i)[0]

    def run(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
    ) -> tuple[Population, dict[int, Population]]:
        """See `evosearch.sampler.BaseSampler.run`."""
        return self._whole(p, until, keep, eta, through)

    def decode(self, p: Population) -> Tensor:
        """See `evosearch.sampler.BaseSampler.decode`; of what is not finite, 0."""
        batches = p.split(self.batch_size)
        asked = [self._submit("decode", _lean(batch), (), self.batch_size, soon=True) for batch in batches]
        return torch.cat([awaited(each).samples for each in asked]).float() / 255

    def running(
        self,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
        then: Callable[[Population], Any] = lambda _: None,
    ) -> Running:
        """Have a micro-batch run, or predicted where it stands; see `evosearch.metered`."""
        stops = None if through is None else list(through)
        asked = self._submit("run", _lean(p), until, tuple(keep), eta, stops, self.batch_size)

        def arrived(told: tuple[dict[str, Any], dict[str, Tensor]]) -> Ran:
            facts, tensors = told
            end, kept = unpacked(p, until, tuple(keep), tensors)
            return Ran(end, kept, **facts, decoding=then(end))

        return Running(asked, followed(asked, arrived))

    def decoding(
        self, p: Population, then: Callable[[Tensor], Any] = lambda _: None
    ) -> tuple[Tensor, Callable[[], Decoded]]:
        """Have a micro-batch decoded.

        Args:
            p: The particles.
            then: Asks for what is to follow, given what stands for the samples.

        Returns:
            What stands for the samples, and what waits for them.
        """
        tickets = [next(_TICKETS) for _ in range(len(p))]
        lean, seen = _lean(p), torch.tensor(tickets)[:, None]
        _ROWS.update((ticket, _Row(self, lean[[k]])) for k, ticket in enumerate(tickets))
        weakref.finalize(seen, _forget, tickets)
        asked = self._submit("decode", lean, tickets, self.batch_size, soon=True)

        def arrived(decoded: Decoded) -> Decoded:
            then(seen)
            return decoded

        made = followed(asked, arrived)
        return seen, lambda: awaited(made)

    def step(
        self, p: Population, eta: float | None = None, noise: Tensor | None = None, to: int | None = None
    ) -> Population:
        """See `evosearch.stepper.Stepper.step`; where the model is, as a run takes it there."""
        if self._opened.device == "cpu" or p.x0 is None or self.edits:
            return super().step(p, eta, noise, to)
        return self._call("step", p, eta, noise, to)

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> Self:
        """See `evosearch.sampler.BaseSampler.cached`."""
        name = self._pool.define(Spec({}, of=self._about[0], cache=cache, prices=tuple(prices)))
        other = copy.copy(self)
        other._about, other.step_prices = (name, *self._about), tuple(prices)
        self._pool.ask("open", name, about=other._about)
        return other

    def prices(self, levels: Sequence[int]) -> list[float]:
        """See `evosearch.sampler.BaseSampler.prices`."""
        return self._call("prices", list(levels))

    def to_grid(self, x: Tensor) -> Tensor:
        """See `evosearch.stepper.Stepper.to_grid`."""
        return self._call("to_grid", x)

    def from_grid(self, x: Tensor) -> Tensor:
        """See `evosearch.stepper.Stepper.from_grid`."""
        return self._call("from_grid", x)

    def stock(self, p: Population) -> Tensor | None:
        """See `evosearch.pipeline.PipelineSampler.stock`."""
        return self._call("stock", p)

    def grad(self) -> Any:
        """Refused: a gradient needs the model here."""
        raise ValueError("searches by gradients need the model in the process that searches; leave out workers")

    def scoring(self, reward: tuple[str, int, float | None], tickets: list[int], prompts: list[str]) -> Future[Tensor]:
        """Have a reward score what `decoding` has made."""
        p = concat(*(_ROWS[ticket].p for ticket in tickets))
        return self._submit("score", reward, p, tickets, prompts, self.batch_size, about=(reward[0],), soon=True)

    def _whole(self, p: Population, *asked: Any) -> tuple[Population, dict[int, Population]]:
        under_way = [self.running(batch, *asked) for batch in p.split(self.batch_size)]
        return concat_runs([(ran.end, ran.kept) for ran in (wait() for wait in under_way)])

    def _submit(self, method: str, *args: Any, about: tuple[str, ...] = (), soon: bool = False) -> Future[Any]:
        return self._pool.submit(method, self._about[0], *args, about=(*self._about, *about), soon=soon)

    def _call(self, method: str, *args: Any) -> Any:
        """What a method of the sampler gives there."""
        return awaited(self._submit("call", method, *args))


class Running:
    """A micro-batch that is under way; see `evosearch.turns.Pending`."""

    def __init__(self, asked: Future[Any], ran: Future[Ran]) -> None:
        self._asked, self._ran = asked, ran

    def __call__(self) -> Ran:
        """What it came to; waits for it."""
        return awaited(self._ran)

    def cancel(self) -> bool:
        """Leave it, unless it has begun."""
        return self._asked.cancel()


class RemoteReward:
    """A reward that workers have; says of itself what the reward says.

    Args:
        pool: The workers.
        own: The reward as it is here, its weights not loaded.
        name: What it is a part of, as the pool has it.
        leaf: Which part.
        rate: Frames per second that it judges at, once that is known.

    Attributes:
        key: The last three.
    """

    def __init__(self, pool: Pool, own: Any, name: str, leaf: int, rate: float | None = None) -> None:
        self._pool, self._own, self.key = pool, own, (name, leaf, rate)
        self.__name__ = getattr(own, "__name__", type(own).__name__)
        for said in ("allow_missing", "differentiable", "usd_per_call"):
            if hasattr(own, said):
                setattr(self, said, getattr(own, said))
        if getattr_static(own, "cache_key", "") is None:  # its scores are not to be kept
            self.cache_key = None
        if hasattr(own, "at_frame_rate"):
            self.at_frame_rate = self._at_frame_rate

    def __getattr__(self, name: str) -> Any:
        if name == "cache_key":
            return self._pool.ask("identity", self.key, about=(self.key[0],))
        raise AttributeError(name)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples, or what stands for them; NaN of one that costs every worker its life."""
        try:
            if samples.dtype == torch.int64:
                tickets = samples[:, 0].tolist()
                row = _ROWS[tickets[0]]
                ahead, under_way = row.under_way.pop(self.key, ([], None))
                if under_way is None or ahead != tickets:  # of other samples its bits may be others
                    under_way = row.sampler.scoring(self.key, tickets, prompts)
                return awaited(under_way)
            return self._pool.ask("judge", self.key, eight_bit(samples), prompts, about=(self.key[0],))
        except Deadly:
            if len(samples) == 1:
                return torch.full((1,), torch.nan)
        found = torch.full((len(samples),), torch.nan)
        for k, prompt in enumerate(prompts):
            found[[k]] = self(samples[[k]], [prompt])
            if k and found[: k + 1].isnan().all():  # it is not for one sample that it costs lives
                break
        return found

    def begin_scoring(self, samples: Tensor, prompts: list[str]) -> None:
        """Have samples scored, of which what stands for them is given, before anybody asks for it."""
        tickets = samples[:, 0].tolist()
        row = _ROWS[tickets[0]]
        row.under_way[self.key] = tickets, row.sampler.scoring(self.key, tickets, prompts)

    def check(self, prompt: str, video: bool | None = None) -> None:
        """See `evosearch.rewards.check`."""
        rewards.check(self._own, prompt, video)

    def prepare(self) -> None:
        """Have a worker load its weights, so that what is wrong with them is told early."""
        self._pool.ask("prepare", self.key, about=(self.key[0],))

    def _at_frame_rate(self, rate: float) -> RemoteReward:
        name, leaf, _ = self.key
        return RemoteReward(self._pool, self._own, name, leaf, rate)


def remote(pool: Pool, reward: Any, resolved: TensorReward) -> TensorReward:
    """A reward whose parts workers have, but for those that leave the machine anyway.

    Args:
        pool: The workers.
        reward: As the user gave it.
        resolved: What `evosearch.rewards.resolve` made of it.
    """
    name, each = pool.define(reward), leaves(resolved)
    numbers = {id(leaf): k for k, leaf in enumerate(each)}

    def moved(part: Any) -> Any:
        if isinstance(part, Combined):
            return part.over(moved)
        return part if getattr(part, "remote", False) else RemoteReward(pool, part, name, numbers[id(part)])

    return moved(resolved)


def stays(reward: Any) -> bool:
    """Whether a part of a reward is asked from here, and has to be shown the samples."""
    return not all(isinstance(leaf, RemoteReward) for leaf in leaves(reward))


def _lean(p: Population) -> Population:
    """What a worker needs of particles."""
    nothing: tuple[Any, ...] = ((),) * len(p)
    return replace(p, genomes=nothing, reward=None, log_weight=None)


def _forget(tickets: Sequence[int]) -> None:
    for ticket in tickets:
        _ROWS.pop(ticket, None)
