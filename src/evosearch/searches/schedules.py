"""Schedules of EvoSearch that fit a budget: the paper's rules, and ours, which go by how large the budget is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evosearch.checks import whole_number, whole_numbers
from evosearch.declaration import Wave, nfe_of

Waves = Callable[..., list[Wave]]

LOOK = 0.3
"""Where previews decide, as a share of the trajectory."""
LEVELS = (0.4, 0.6, 0.8)
"""Where children are bred, one level after the other, each for an equal share of the NFE."""
BREEDING = {"parents": 4, "rate": 0.6, "child_eta": 1.0}
"""What goes with it: few parents, and children that differ from them."""

_EXPLORED, _LEAST_EXPLORED = 7.0, 0.3
_BROOD, _GENERATIONS = 8, 100
_FEWEST_STEPS = 8


def explored(steps: int, budget: int) -> float:
    """Share of a budget that goes into new noises: that of 7 samples, and three tenths at the least."""
    return min(1.0, max(_EXPLORED * steps / budget, _LEAST_EXPLORED))


def regime(share: float) -> str:
    """Why so large a share of a budget is `explored`."""
    if share > 0.99:
        return "nothing is left to breed with, and all goes into new noises"
    if share > 1.2 * _LEAST_EXPLORED:
        return f"new noises gain most, and get {share:.0%} of the NFE"
    return f"children gain most, and get {1 - share:.0%} of the NFE"


def in_words(steps: int, *, schedule: Sequence[int], sizes: Sequence[int], elites: int = 1, **knobs: Any) -> str:
    """What a schedule comes to."""
    first, look = sizes[0], knobs.get("look")
    found = _many(first, "sample")
    if look is not None:
        found = (
            f"{first} noises, looked at after {look} of {steps} steps, {finishing(first, knobs.get('finish'))} finished"
        )
    if not schedule:
        return found
    levels = ", ".join(map(str, dict.fromkeys(schedule)))
    children = _many(sum(size - elites for size in sizes[1:]), "child", "children")
    return f"{found}; then {children} in {_many(len(schedule), 'generation')}, bred at level {levels}"


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {more or one + 's'}"


def finishing(first: int, finish: int | None = None) -> int:
    """How many of a culled first population go on."""
    return min(first, max(3, first // 10)) if finish is None else finish


def by_budget(name: str, waves: Waves) -> Callable[..., dict[str, Any]]:
    """Our schedules, as a ``fit``: look at many noises, finish a tenth of them, breed late from the best.

    A first population is looked at early, where a look costs a third of a sample; the best tenth goes on under the ODE.
    What is left of the budget goes into small generations of a few parents, from the middle of the trajectory on, where
    a child costs little and keeps much, under the SDE. With few steps, or where the user says when and how many, the
    paper's rules hold.

    Args:
        name: Of the search.
        waves: Its waves.
    """
    by_the_paper = by_paper(name, waves)

    def fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
        if given.keys() & {"schedule", "sizes", "look", "finish", "mutation", "span"}:
            return by_the_paper(steps, budget, **given)
        if budget < steps:
            raise ValueError(f"budget must be at least {steps} NFE for {name} in {steps} steps; got {budget}")
        if steps < _FEWEST_STEPS:
            try:
                return by_the_paper(steps, budget, **given)
            except ValueError:  # too small a budget for a generation
                return _sampled(budget // steps)
        knobs: dict[str, Any] = {**BREEDING, **_first(steps, int(explored(steps, budget) * budget)), **given}
        if "tournament" in given:
            knobs["parents"] = given.get("parents")
        schedule, broods = _broods(steps, budget - nfe_of(waves(steps, **knobs)))
        elites = whole_number("elites", given.get("elites", 0), 0)
        knobs |= {"schedule": schedule, "sizes": [*knobs["sizes"], *(size + elites for size in broods)]}
        return {knob: value for knob, value in (knobs | {"elites": elites}).items() if knob not in given}

    return fit


def _sampled(n: int) -> dict[str, Any]:
    return {"schedule": [], "sizes": [n]}


def _first(steps: int, room: int) -> dict[str, Any]:
    """A first population, culled where there is something to choose from."""
    look = round(LOOK * steps)
    finish = max(1, round(room / (look + 1) / 10))
    size = (room - finish * (steps - look - 1)) // (look + 1)
    if size <= finish:
        return _sampled(max(1, room // steps))
    return {"schedule": [], "sizes": [size], "look": look, "finish": finish}


def _broods(steps: int, room: int) -> tuple[list[int], list[int]]:
    """The level and the size of each generation."""
    levels = [round(level * steps) for level in LEVELS]
    brood = max(_BROOD, sum(room // len(levels) // (steps - level) for level in levels) // _GENERATIONS)
    schedule, sizes, left = list[int](), list[int](), room
    for k, level in enumerate(levels):
        end = room * (len(levels) - k - 1) // len(levels)  # what is left for the levels after this one
        while (size := min(brood, (left - end) // (steps - level))) > 0:
            schedule.append(level)
            sizes.append(size)
            left -= size * (steps - level)
    return schedule, sizes


def by_paper(name: str, waves: Waves) -> Callable[..., dict[str, Any]]:
    """The paper's rules, as a ``fit``: levels evenly apart, the first population twice the others.

    There are 4 generations, or as many as fit.

    Args:
        name: Of the search.
        waves: Its waves.
    """

    def cost(steps: int, schedule: Sequence[int], size: int, given: dict[str, Any]) -> int:
        return nfe_of(waves(steps, **_sized(schedule, size, given)))

    def fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
        if "sizes" in given:
            generations = len(whole_numbers("sizes", given["sizes"])) - 1
            schedule = _uniform(steps, whole_number("the generations that sizes name", generations, 1))
            if (need := nfe_of(waves(steps, **{"schedule": schedule, **given}))) > budget:
                raise ValueError(f"budget must be at least {need} NFE for these sizes in {steps} steps; got {budget}")
            return {"schedule": schedule}
        schedules = [_uniform(steps, generations) for generations in range(min(4, steps), 0, -1)]
        if "schedule" in given:
            schedules = [whole_numbers("schedule", given["schedule"])]
        need, elites = 0, whole_number("elites", given.get("elites", 0), 0)
        for schedule in schedules:
            # Generations of fewer than 5 are not worth their while, unless there is but one, or no choice.
            least = 2 if len(schedules) == 1 or len(schedule) == 1 else 5
            size = max(least, elites + 1, -(-(given.get("finish") or 0) // 2))
            need = cost(steps, schedule, size, given)
            if need > budget:
                continue
            while cost(steps, schedule, size + 1, given) <= budget:
                size += 1
            knobs = _sized(schedule, size, given)
            while nfe_of(waves(steps, **knobs)) <= budget:
                knobs["sizes"][0] += 1
            knobs["sizes"][0] -= 1
            return {knob: value for knob, value in knobs.items() if knob not in given}
        raise ValueError(f"budget must be at least {need} NFE for {name} in {steps} steps; got {budget}")

    return fit


def _uniform(steps: int, generations: int) -> list[int]:
    return [round(g * steps / generations) for g in range(generations)]


def _sized(schedule: Sequence[int], size: int, given: dict[str, Any]) -> dict[str, Any]:
    sizes = [2 * size, *[size] * len(schedule)]
    return {"schedule": schedule, "sizes": sizes, "elites": max(1, size // 5), **given}
