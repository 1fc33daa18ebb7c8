"""Schedules of EvoSearch that fit a budget: the paper's rules, and ours, which go by how large the budget is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from evosearch.checks import above_zero, whole_number, whole_numbers
from evosearch.declaration import Wave, nfe_of
from evosearch.drafts import latest, levels_of
from evosearch.steering import affordable, looks

Waves = Callable[..., list[Wave]]

DRAFT, CACHED_DRAFT = 0.25, 0.5
"""Steps of a draft, as a share of all; of one whose network reuses features."""
STEERED, STEERED_MORE, _MORE = 0.4, 0.6, 50
"""Share of the NFE that steers a winner; from 50 samples' worth on, by when children have found what they can."""
FINISHED = 0.2
"""Share of the others that finishes winners."""
LEVELS = (0.4, 0.6, 0.8)
"""Where children are bred, one level after the other, each for an equal share of the NFE; where a winner is steered
from the first of them on, at that one alone."""
BREEDING = {"parents": 4, "rate": 0.6}
"""What goes with it: few parents, and children that differ from them."""

_EXPLORED, _LEAST_EXPLORED = 7.0, 0.3
_BROOD, _GENERATIONS = 8, 100
_FEWEST_STEPS, _FEWEST_DRAFT_STEPS, _FEWEST_NOISES = 8, 4, 4
_OF_THE_PAPER = {"schedule", "sizes", "look", "finish", "mutation", "span"}


def is_by_budget(steps: int, given: Collection[str]) -> bool:
    """Whether `by_budget` follows its own rules, given these knobs, and not the paper's."""
    return steps >= _FEWEST_STEPS and not _OF_THE_PAPER.intersection(given)


def explored(nfe: float, room: int) -> float:
    """Share of the NFE for exploring that goes into new noises: that of 7 of them, and three tenths at the least."""
    return min(1.0, max(_EXPLORED * nfe / room, _LEAST_EXPLORED))


def regime(share: float) -> str:
    """Why so large a share of the NFE goes into new noises."""
    if share > 0.99:
        return "nothing is left to breed with, and all goes into new noises"
    if share > 1.2 * _LEAST_EXPLORED:
        return f"new noises gain most, and get {share:.0%} of what explores"
    return f"children gain most, and get {1 - share:.0%} of what explores"


def in_words(
    steps: int,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 1,
    draft_steps: int | None = None,
    finals: int = 0,
    steered: int = 0,
    **knobs: Any,
) -> str:
    """What a schedule comes to."""
    first, look, explores = sizes[0], knobs.get("look"), draft_steps or steps
    found = _many(first, "sample") if draft_steps is None else f"{first} drafts in {draft_steps} of {steps} steps"
    found += ", features reused" if knobs.get("draft_cache") is not None else ""
    if look is not None:
        found += f", looked at after {look} of {explores} steps, {going_on(first, knobs.get('finish'))} finished"
    if schedule:
        levels = ", ".join(map(str, dict.fromkeys(schedule)))
        children = _many(sum(size - elites for size in sizes[1:]), "child", "children")
        found += f"; then {children} in {_many(len(schedule), 'generation')}, bred at level {levels} of {explores}"
    if not finals:
        return found
    found += f"; the NFE of {_many(finals, 'sample')} finish the best"
    start = levels_of(steps, explores)[knobs.get("steered_from", 0)]
    return f"{found}, and those of {steered} steer one from level {start} of {steps}" if steered else found


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n} {one}" if n == 1 else f"{n} {more or one + 's'}"


def going_on(first: int, finish: int | None = None) -> int:
    """How many of a culled first population go on."""
    return min(first, max(3, first // 10)) if finish is None else finish


def by_budget(name: str, waves: Waves) -> Callable[..., dict[str, Any]]:
    """Our schedules, as a ``fit``: explore by drafts, breed late from the best, finish the winners.

    A draft takes a quarter of the steps. New noises come first; what is left goes into small generations of a few
    parents, from the middle of the trajectory on, where a child costs little and keeps much. Two fifths of the NFE
    steer a winner from there on, three fifths of a large budget. With few steps, or where the user says when and how
    many, the paper's rules hold.

    Args:
        name: Of the search.
        waves: Its waves.
    """
    by_the_paper = by_paper(name, waves)

    def fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
        if by_hand := sorted(_OF_THE_PAPER.intersection(given)):
            if given.get("draft_steps") is not None:
                raise ValueError(f"draft_steps goes with both schedule and sizes, or with neither, got {by_hand}")
            return by_the_paper(steps, budget, **given)
        if budget < steps:
            raise ValueError(f"budget must be at least {steps} NFE for {name} in {steps} steps; got {budget}")
        if not is_by_budget(steps, given):
            try:
                return by_the_paper(steps, budget, **given)
            except ValueError:  # too small a budget for a generation
                return _sampled(budget // steps)
        steered = _steering(steps, budget, given)
        drafts, finals = drafts_and_finals(steps, budget - steered * steps, given)
        explores, prices = drafts or steps, given.get("draft_prices")
        room, each = budget - (finals + steered) * steps, price_of(explores, prices)
        if drafts and room < 2 * each:  # nothing to choose from
            return _sampled(budget // steps)
        first = int(explored(each, room) * room / each)
        levels = [round(level * explores) for level in (LEVELS[:1] if steered else LEVELS)]
        schedule, broods = _broods(explores, levels, int(room - first * each), prices)
        elites = whole_number("elites", given.get("elites", 0), 0)
        knobs: dict[str, Any] = {**BREEDING, "draft_steps": drafts, "finals": finals, "elites": elites}
        if steered:
            knobs |= {"steered": steered, "steered_from": levels[0]}
        if "tournament" in given:
            del knobs["parents"]
        knobs |= {"schedule": schedule, "sizes": [first, *(size + elites for size in broods)]}
        return {knob: value for knob, value in knobs.items() if knob not in given}

    return fit


def drafts_and_finals(steps: int, budget: int, given: Mapping[str, Any]) -> tuple[int | None, int]:
    """Steps of a draft, and how many samples' worth finishes winners; none and 0 where the user wants no drafts."""
    part = DRAFT if given.get("draft_cache") is None else CACHED_DRAFT
    drafts = given.get("draft_steps", min(steps, max(_FEWEST_DRAFT_STEPS, round(part * steps))))
    if drafts is None:
        return None, 0
    finals = given.get("finals", max(1, round(FINISHED * budget / steps)))
    return whole_number("draft_steps", drafts, 1), whole_number("finals", finals, 1)


def _steering(steps: int, budget: int, given: Mapping[str, Any]) -> int:
    """How many samples' worth steers a winner; 0 without drafts, and where that is too little."""
    if given.get("draft_steps", 1) is None:
        return 0
    if "steered" in given:
        return whole_number("steered", given["steered"], 0)
    worth = budget / steps
    steered = round((STEERED if worth < _MORE else STEERED_MORE) * worth)
    # The fewest: as if the winner were at its noise still.
    fewest = affordable(steered * steps, steps, 0, round(LEVELS[0] * steps))
    return steered if fewest >= _FEWEST_NOISES else 0


def finishing(
    steps: int,
    draft_steps: int | None,
    finals: int,
    *,
    steered: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
) -> list[Wave]:
    """The waves that finish winners and steer one, none without drafts; ValueError where knobs do not go together.

    They are so many whole samples' NFE. What was bred last takes the fewest steps, so that most are scored.
    """
    if draft_prices and draft_cache is None:
        raise ValueError(f"draft_prices goes with draft_cache, whose steps they are; got {list(draft_prices)} alone")
    if draft_steps is None:
        if finals:
            raise ValueError(f"finals goes with draft_steps, whose winners it finishes; got finals={finals} alone")
        if draft_cache is not None:
            raise ValueError("draft_cache goes with draft_steps, whose drafts reuse features; got draft_steps=None")
        if steered:
            raise ValueError(f"steered goes with draft_steps, of whose winners it steers one; got steered={steered}")
        return []
    if whole_number("draft_steps", draft_steps, 1) > steps:
        raise ValueError(f"draft_steps must be at most {steps}, the steps of sampling, got {draft_steps}")
    scores = sum(steps / late for late in latest(steps, draft_steps, whole_number("rungs", rungs, 1))) / rungs
    finished = [Wave(whole_number("finals", finals, 1), steps, scores=math.ceil(scores))]
    if not whole_number("steered", steered, 0):
        return finished
    if whole_number("steered_from", steered_from, 0) >= draft_steps:
        raise ValueError(
            f"steered_from must be a level from 0 to {draft_steps - 1}, since a draft takes {draft_steps} steps; "
            f"got {steered_from}"
        )
    start = levels_of(steps, draft_steps)[steered_from]
    if not looks(steps, start) or affordable(steered * steps, steps, 0, start) < 2:
        raise ValueError(f"steered must be enough to try 2 noises a step from level {start} of {steps}, got {steered}")
    tried = affordable(steered * steps, steps, start, start) * len(looks(steps, start))
    return [*finished, Wave(steered, steps, scores=math.ceil((tried + 1) / steered))]


def priced(waves: Sequence[Wave], prices: Sequence[float] | None) -> list[Wave]:
    """Waves of drafts at what their steps cost, those beyond the prices known as much as the last of them."""
    if not prices:
        return list(waves)
    return [wave._replace(steps=price_of(wave.steps, prices)) for wave in waves]


def price_of(steps: float, prices: Sequence[float] | None) -> float:
    """NFE of a draft's so many steps."""
    if not prices:
        return steps
    for price in prices:
        above_zero("draft_prices", price)
    return sum([*prices, *[prices[-1]] * int(steps)][: int(steps)])


def _sampled(n: int) -> dict[str, Any]:
    return {"schedule": [], "sizes": [n]}


def _broods(
    steps: int, levels: Sequence[int], room: int, prices: Sequence[float] | None
) -> tuple[list[int], list[int]]:
    """The level and the size of each generation; sizes of one level differ by one at the most."""
    each = [price_of(steps - level, prices) for level in levels]
    brood = max(_BROOD, sum(int(room // len(levels) / nfe) for nfe in each) // _GENERATIONS)
    schedule, sizes = list[int](), list[int]()
    for k, (level, nfe) in enumerate(zip(levels, each, strict=True)):
        children = int(room // (len(levels) - k) / nfe)
        generations = max(children // brood, min(children, 1))
        schedule += [level] * generations
        sizes += [children * (g + 1) // generations - children * g // generations for g in range(generations)]
        room -= math.ceil(children * nfe)
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
            schedule = _uniform(steps, len(whole_numbers("sizes", given["sizes"])) - 1)
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
