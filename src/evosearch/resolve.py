"""From what a user names to what a run needs: the sampler, the algorithm, and knobs that fit the budget."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, cast

from evosearch import models, searches
from evosearch.budget import Budget, describe
from evosearch.pipeline import PipelineSampler
from evosearch.types import Sampler, Search


def sampler_of(
    pipe: Any,
    prompt: str,
    *,
    steps: int | None,
    eta: float | None,
    seed: int,
    batch_size: int,
    pipeline_kwargs: Mapping[str, Any] | None,
) -> Sampler:
    """A sampler of a pipeline, a name of one, or the sampler that was given.

    Bundled pipelines get the steps and the guidance that suit them, unless told otherwise.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    if all(hasattr(pipe, verb) for verb in ("prior", "predict", "run", "decode")):
        if steps not in (None, pipe.steps):
            raise ValueError(f"steps must be the sampler's own {pipe.steps}, or left out, got {steps}")
        return pipe
    pipe = models.load(pipe) if isinstance(pipe, str) else pipe
    suited = models.defaults(pipe)
    own_steps = suited.pop("steps", None)
    steps = own_steps if steps is None else steps
    kwargs = {**suited, **(pipeline_kwargs or {})}
    return PipelineSampler(pipe, prompt, steps=steps, eta=eta or 0.0, seed=seed, batch_size=batch_size, **kwargs)


def algorithm_of(algorithm: Any) -> Search:
    """A search by its name, or the generator function that was given."""
    if isinstance(algorithm, str):
        if algorithm not in searches.__all__:
            near = get_close_matches(algorithm, searches.__all__, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"algorithm must be one of {', '.join(searches.__all__)}, got {algorithm!r}{hint}")
        return getattr(searches, algorithm)
    if not callable(algorithm):
        raise ValueError(f"algorithm must be a name or a generator function, got {type(algorithm).__name__}")
    return cast(Search, algorithm)


def budget_of(budget: Budget | int | str | None, algorithm: Search, knobs: Mapping[str, Any], steps: int) -> Budget:
    """The budget as given; without one, what the knobs ask for if they are complete, or else 20 samples' worth."""
    if budget is None and hasattr(algorithm, "nfe") and not _missing(algorithm, knobs):
        return Budget(nfe=algorithm.nfe(steps, **knobs))
    return Budget.of("20x" if budget is None else budget, steps)


def knobs_of(
    algorithm: Search,
    knobs: Mapping[str, Any],
    budget: Budget,
    steps: int,
    pace: Callable[[], float],
    usd_per_call: float = 0.0,
) -> dict[str, Any]:
    """The user's knobs, those not given fitted to the budget.

    Args:
        algorithm: The search.
        knobs: What the user set.
        budget: The limits.
        steps: Denoising steps.
        pace: Measures the seconds that one NFE takes; called for limits of time or money alone.
        usd_per_call: Price of scoring one sample.

    Raises:
        ValueError: A knob is unknown or wrong, or the budget is too small; says the smallest that fits.
    """
    _check_names(algorithm, knobs)
    if not hasattr(algorithm, "nfe"):  # a plain generator function: the meter alone keeps it within its budget
        return dict(knobs)
    fitted = dict(knobs)
    if _missing(algorithm, knobs):
        room = _room(budget, steps, pace, usd_per_call)
        timed = budget.nfe is None and budget.reward_calls is None
        try:
            # What loses nothing by being cut short is planned too long, and the clock ends it.
            fitted = {**algorithm.fit(steps, max(2 * room, steps) if timed and algorithm.anytime else room), **knobs}
        except ValueError as error:
            if not timed:
                raise
            raise ValueError(f"budget of {describe(budget)} is about {room} NFE here: {error}") from None
    need = algorithm.nfe(steps, **fitted)
    if budget.nfe is not None and need > budget.nfe:
        raise ValueError(
            f"budget must be at least {need} NFE for these knobs of {algorithm.__name__}, got {budget.nfe}"
        )
    return fitted


def _takes(algorithm: Search) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(algorithm).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _missing(algorithm: Search, knobs: Mapping[str, Any]) -> list[str]:
    return [name for name, p in _takes(algorithm).items() if p.default is p.empty and name not in knobs]


def _check_names(algorithm: Search, knobs: Mapping[str, Any]) -> None:
    takes = _takes(algorithm)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(algorithm).parameters.values()):
        return
    for name in knobs:
        if name not in takes:
            near = get_close_matches(name, takes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{algorithm.__name__} has no knob {name!r}; it has {', '.join(takes)}{hint}")


def _room(budget: Budget, steps: int, pace: Callable[[], float], usd_per_call: float) -> int:
    """NFE that the tightest limit leaves room for."""
    rooms: list[float] = []
    if budget.nfe is not None:
        rooms.append(budget.nfe)
    if budget.reward_calls is not None:
        rooms.append(budget.reward_calls * steps)
    if budget.usd is not None and usd_per_call:
        rooms.append(budget.usd / usd_per_call * steps)
    seconds = [budget.seconds] if budget.seconds is not None else []
    if budget.usd is not None and budget.usd_per_hour is not None:
        seconds.append(budget.usd / budget.usd_per_hour * 3600)
    if seconds:
        rooms.append(min(seconds) / pace())
    return int(min(rooms))
