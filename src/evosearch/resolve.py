"""From what a user names to what a run needs: the sampler, the algorithm, and knobs that fit the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from evosearch import models, searches
from evosearch.budget import Budget, Pace, describe
from evosearch.checks import whole_number
from evosearch.declaration import Search, check_names, nfe_of, rewards_of, takes
from evosearch.pipeline import PipelineSampler
from evosearch.refusals import check_arguments, one_at_a_time
from evosearch.stepper import Stepper
from evosearch.types import Sampler

_SPARE = 1.05  # seconds planned for one that was measured
_PASS = 2  # what a pass of the model costs beside its particles, in particles


def sampler_of(
    pipe: Any,
    prompt: str,
    *,
    steps: int | None,
    eta: float | None,
    seed: int,
    batch_size: int,
    pipeline_kwargs: Mapping[str, Any] | None,
    strict: bool = False,
) -> Sampler:
    """A sampler of a pipeline, or the sampler that was given, from its first particle on.

    Pipelines of a family that we know get the steps and the arguments that suit it, unless told otherwise.
    """
    check_seed(seed)
    whole_number("batch_size", batch_size, 1)
    given = dict(pipeline_kwargs or {})
    if hasattr(pipe, "about"):  # others have it
        return pipe.sampler(
            prompt=prompt, steps=steps, eta=eta, seed=seed, batch_size=batch_size, pipeline_kwargs=given, strict=strict
        )
    if is_sampler(pipe):
        if steps not in (None, pipe.steps):
            raise ValueError(f"steps must be the sampler's own {pipe.steps}, or left out, got {steps}")
        if given:
            raise ValueError(f"pipeline_kwargs go with a pipeline; a sampler takes none, got {', '.join(given)}")
        made = pipe.rewound() if isinstance(pipe, Stepper) else pipe
    else:
        check_arguments(pipe, given)
        suited = models.defaults(pipe)
        own_steps = suited.pop("steps", None)
        kwargs = {name: value for name, value in suited.items() if f"{name}_embeds" not in given} | given
        made = PipelineSampler(
            pipe, prompt, steps=own_steps if steps is None else steps, eta=eta or 0.0, seed=seed,
            batch_size=batch_size, **kwargs,
        )  # fmt: skip
    if strict:
        made.strict = True
    return cast(Sampler, made)


def check_seed(seed: Any) -> None:
    """ValueError where this cannot be a run's seed."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")


def is_sampler(pipe: Any) -> bool:
    """Whether this is a `Sampler` rather than a pipeline."""
    return all(hasattr(pipe, verb) for verb in ("prior", "predict", "run", "decode"))


class Traits(NamedTuple):
    """What there is to know of a pipeline before it is called.

    Attributes:
        suited: Steps and arguments that suit it; see `evosearch.models.defaults`.
        one_at_a_time: Whether it decodes one sample at a time.
        videos: Whether it makes videos; None where that is unknown.
        sampler: Whether it is a sampler.
    """

    suited: dict[str, Any]
    one_at_a_time: bool
    videos: bool | None
    sampler: bool


def traits_of(pipe: Any) -> Traits:
    """Of a pipeline or a sampler; what workers say of one that they have."""
    if hasattr(pipe, "about"):
        return pipe.about.traits
    if is_sampler(pipe):
        return Traits({}, False, None, True)
    return Traits(models.defaults(pipe), one_at_a_time(pipe), models.makes_videos(pipe), False)


def batch_of(pipe: Any, algorithm: Search, knobs: Mapping[str, Any], budget: Any, steps: int | None, most: int) -> int:
    """Particles in a micro-batch that suit a search, at most so many.

    Micro-batches have one shape and the last is padded, so a large one is wasted on small generations.
    """
    traits = traits_of(pipe)
    most = 1 if traits.one_at_a_time else most
    steps = traits.suited.get("steps") if steps is None else steps
    if traits.sampler or steps is None or not hasattr(algorithm, "waves"):
        return most
    try:
        limits = budget_of(budget, algorithm, knobs, steps)
        if limits.seconds is not None or limits.usd is not None:
            if algorithm.anytime:
                return most
            limits = Budget.of("20x", steps)  # later generations are as large, whatever the budget
        waves = algorithm.waves(steps, **knobs_of(algorithm, knobs, limits, steps, pace=None))
    except ValueError:
        return most  # what is wrong is said where it is known for certain

    def time(size: int) -> float:
        return sum(-(-wave.particles // size) * wave.steps for wave in waves) * (size + _PASS)

    return min(range(most, 0, -1), key=time)


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
        return Budget(nfe=nfe_of(algorithm.waves(steps, **knobs)))
    return Budget.of("20x" if budget is None else budget, steps)


def knobs_of(
    algorithm: Search,
    knobs: Mapping[str, Any],
    budget: Budget,
    steps: int,
    pace: Callable[[], Pace] | None,
    usd_per_call: float = 0.0,
) -> dict[str, Any]:
    """The user's knobs, those not given fitted to the budget.

    Args:
        algorithm: The search.
        knobs: What the user set.
        budget: The limits.
        steps: Denoising steps.
        pace: Measures how fast it goes here; not needed where no limit is of time or money.
        usd_per_call: Price of scoring one sample.

    Raises:
        ValueError: A knob is unknown or wrong, or the budget is too small; says the smallest that fits.
    """
    check_names(algorithm, knobs)
    if not hasattr(algorithm, "nfe"):  # a plain generator function: the meter alone keeps it within its budget
        return dict(knobs)
    if _missing(algorithm, knobs):
        return _fitted(algorithm, knobs, budget, steps, pace, usd_per_call)
    waves = algorithm.waves(steps, **knobs)
    need, calls = nfe_of(waves), rewards_of(waves)
    if budget.nfe is not None and need > budget.nfe:
        raise ValueError(
            f"budget must be at least {need} NFE for these knobs of {algorithm.__name__}, got {budget.nfe}"
        )
    if budget.reward_calls is not None and calls > budget.reward_calls and not algorithm.anytime:
        raise ValueError(
            f"budget must be at least {calls} rewards for these knobs of {algorithm.__name__}, "
            f"got {budget.reward_calls}"
        )
    return dict(knobs)


def _fitted(
    algorithm: Search,
    knobs: Mapping[str, Any],
    budget: Budget,
    steps: int,
    pace: Callable[[], Pace] | None,
    usd_per_call: float,
) -> dict[str, Any]:
    """The largest plan, to a twentieth, that no limit cuts short."""
    timed = budget.seconds is not None or budget.usd is not None
    # What is cut short by a hair has lost its end, so that others than anytime searches are planned with some to spare.
    measured = pace().slower(1.0 if algorithm.anytime else _SPARE) if timed and pace is not None else None
    room = _room(budget, steps, measured, usd_per_call)
    while True:
        try:
            planned = {**algorithm.fit(steps, room, **knobs), **knobs}
            waves = algorithm.waves(steps, **planned)
        except ValueError as error:
            if budget.nfe == room:
                raise
            least = str(error).partition("; got")[0]
            raise ValueError(f"budget of {describe(budget)} is too small here: {least}") from None
        if budget.pays(waves, measured, usd_per_call):
            break
        if room == 0:
            raise ValueError(f"budget of {describe(budget)} is too small for these knobs of {algorithm.__name__}")
        room = room * 19 // 20
    if timed and algorithm.anytime:  # what loses nothing by being cut short is planned too long, and the clock ends it
        longer = algorithm.fit(steps, min(2 * room, budget.nfe or 2 * room), **knobs)
        return {**longer, **knobs}
    return planned


def _room(budget: Budget, steps: int, pace: Pace | None, usd_per_call: float) -> int:
    """NFE that the tightest limit could leave room for at the best."""
    rooms = [float(budget.nfe)] if budget.nfe is not None else []
    if budget.reward_calls is not None:
        rooms.append(budget.reward_calls * steps)
    if budget.usd is not None and usd_per_call:
        rooms.append(budget.usd / usd_per_call * steps)
    if pace is not None:
        rooms += [seconds / pace.row for seconds in budget.time]
    return int(min(rooms))


def defaults_of(algorithm: Search) -> dict[str, Any]:
    """An algorithm's knobs that have a default, with it."""
    return {name: p.default for name, p in takes(algorithm).items() if p.default is not p.empty}


def _missing(algorithm: Search, knobs: Mapping[str, Any]) -> list[str]:
    return [name for name, p in takes(algorithm).items() if p.default is p.empty and name not in knobs]
