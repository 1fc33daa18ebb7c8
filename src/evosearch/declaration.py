"""What a search is, and what it declares: its cost wave by wave, how it fills a budget, what it needs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch

from evosearch.types import Population, Reward, Sampler


class Wave(NamedTuple):
    """What a search asks for at a time: so many particles, so many steps of each, and how often each is scored.

    A step takes so many ``passes`` of the model: 3 where there is a way back for a gradient. Steps that reuse features
    count for the share that they compute.
    """

    particles: int
    steps: float
    scores: int = 1
    passes: int = 1


class Search(Protocol):
    """A generator function over populations that declares its cost; see `search`."""

    __name__: str
    waves: Callable[..., list[Wave]]
    nfe: Callable[..., int | tuple[int, int]]
    fit: Callable[..., dict[str, Any]]
    anytime: bool
    space: str
    needs: tuple[str, ...]
    plan: Callable[..., str] | None
    pareto: bool

    def __call__(self, sampler: Sampler, reward: Reward, rng: torch.Generator, /, **knobs: Any) -> Iterator[Population]:
        """Search; see `evosearch.searches`."""
        ...


def nfe_of(waves: Iterable[Wave]) -> int:
    """NFE that these take."""
    return math.ceil(sum(wave.particles * wave.steps for wave in waves))


def rewards_of(waves: Iterable[Wave]) -> int:
    """Samples that these have scored."""
    return sum(wave.particles * wave.scores for wave in waves)


def in_rounds(steps: int, n: int, batch: int, first: int = 1) -> list[Wave]:
    """Waves of n whole trajectories: the first so many, then a batch at a time."""
    rounds, rest = divmod(n - first, batch)
    return [Wave(size, steps) for size in (first, *[batch] * rounds, rest) if size]


_F = TypeVar("_F", bound=Callable[..., Iterator[Population]])


SPACES = ("noise", "trajectory", "guidance", "gradient")
NEEDS = ("SDE", "gradient", "previews", "grid", "samples")


def search(
    *,
    waves: Callable[..., list[Wave]],
    fit: str | Callable[..., dict[str, Any]],
    space: str,
    least: Callable[..., list[Wave]] | None = None,
    needs: Sequence[str] = (),
    anytime: bool = False,
    plan: Callable[..., str] | None = None,
    pareto: bool = False,
) -> Callable[[_F], _F]:
    """Declare what a search costs and needs; its ``nfe(steps, **knobs)`` follows.

    Args:
        waves: ``waves(steps, **knobs)``, all that the search asks for at the most, in order; ValueError where a knob is
            wrong.
        fit: ``fit(steps, budget, **given)``, the knobs that are not given, such that they fill a budget of NFE;
            ValueError if it is too small. A name stands for the one knob that grows with the budget, from 1.
        space: Where it searches: ``noise``, ``trajectory``, ``guidance`` or ``gradient``.
        least: The waves of its cheapest course, where what it finds decides how much it asks for.
        needs: What else it must have: ``SDE``, ``gradient``, ``previews`` (it scores x0), ``grid``, ``samples`` (it
            looks at what it decodes, and does not only hand it to the reward).
        anytime: Whether being cut short costs no more than the micro-batch at hand.
        plan: ``plan(steps, given, **knobs)``, one sentence for the report: what these knobs come to, and why, where
            those in ``given`` are the user's.
        pareto: Whether it takes rewards (N, R), several of which none weighs more: all that it does with them is to
            hand them to `evosearch.selection`.
    """

    def nfe(steps: int, **knobs: Any) -> int | tuple[int, int]:
        """NFE of a search with these knobs: a number, or the least and the most where they differ."""
        most = nfe_of(waves(steps, **knobs))
        fewest = most if least is None else nfe_of(least(steps, **knobs))
        return most if fewest == most else (fewest, most)

    if space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {space!r}")
    if isinstance(needs, str) or not set(needs) <= set(NEEDS):
        raise ValueError(f"needs must be a list of some of {', '.join(NEEDS)}, got {needs!r}")

    def declare(function: _F) -> _F:
        declared = cast(Any, function)
        declared.waves, declared.nfe, declared.anytime = waves, nfe, anytime
        declared.fit = fill(function.__name__, waves, fit) if isinstance(fit, str) else fit
        declared.space, declared.needs, declared.plan, declared.pareto = space, tuple(needs), plan, pareto
        return function

    return declare


def fill(name: str, waves: Callable[..., list[Wave]], knob: str, **others: Any) -> Callable[..., dict[str, Any]]:
    """A ``fit`` that makes one knob as large as the budget allows, from 1.

    Args:
        name: Of the search.
        waves: Its waves, which grow with the knob.
        knob: Name of the knob.
        **others: Knobs that it sets, too, where they are not given.
    """

    def fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
        def cost(size: int) -> int:
            return nfe_of(waves(steps, **{**others, **given, knob: size}))

        if cost(1) > budget:
            raise ValueError(f"budget must be at least {cost(1)} NFE for {name} in {steps} steps; got {budget}")
        size = 1
        while cost(size) < cost(2 * size) <= budget:
            size *= 2
        more = size // 2
        while more:
            size += more if cost(size + more) <= budget else 0
            more //= 2
        return {value: v for value, v in {**others, knob: size}.items() if value not in given}

    return fit


def takes(algorithm: Search) -> dict[str, inspect.Parameter]:
    """The knobs of a search."""
    parameters = inspect.signature(algorithm).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def check_names(algorithm: Search, knobs: Mapping[str, Any]) -> None:
    """ValueError where a search has no such knob."""
    known = takes(algorithm)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(algorithm).parameters.values()):
        return
    for name in knobs:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{algorithm.__name__} has no knob {name!r}; it has {', '.join(known)}{hint}")
