"""EvoSearch: evolution along the denoising trajectory.

He, Liang, Wang, Wan, Zhang, Gai, Pan (2025), "Scaling Image and Video Generation via Test-Time Evolutionary Search",
arXiv:2505.17618.

Differs from the paper:
- between noise and data, children keep their level's noise: fresh noise is mixed into the predicted noise instead of
  added on top (``mutation="additive"`` is the paper's equation 8);
- all states seen stay in the pool with the reward they have, elites among them; they are neither denoised nor scored
  again, so a generation of K with m elites costs K - m roll-outs;
- roll-outs follow the ODE, under which a child inherits something of its parent's reward; the paper's follow the SDE
  (``eta=1``), which forgets the initial noise;
- the rate is .15 instead of .3, and the tournament, which the paper leaves open, has 3 rivals;
- on demand previews cull the first population (``look``), children follow another solver than it (``child_eta``), and
  several generations are bred at one level.

Differs from the released code:
- states are kept at the level at which they are resumed, not one step later;
- the mutation goes by the level, not by the generation, so a schedule that starts above 0 breeds states there;
- the tournament has a few rivals, not 90 % of the pool;
- the user's reward guides every generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from evosearch.checks import one_of, share, whole_number, whole_numbers
from evosearch.declaration import Wave, nfe_of, search
from evosearch.mutation import mutate
from evosearch.scoring import preview, score
from evosearch.selection import top
from evosearch.selection import tournament as tournament_of
from evosearch.types import Population, Reward, Sampler, concat

_MUTATIONS = ("level_preserving", "additive", "renoise")


def waves_of(
    steps: int,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 1,
    rate: float = 0.15,
    tournament: int = 3,
    mutation: str = "level_preserving",
    span: int = 0,
    inherit_noise: bool = False,
    look: int | None = None,
    finish: int | None = None,
    child_eta: float | None = None,
    **_: Any,
) -> list[Wave]:
    """The first population and the children of each generation; ValueError where knobs do not go together."""
    schedule, sizes = whole_numbers("schedule", schedule), whole_numbers("sizes", sizes)
    if not schedule or any(later < level for level, later in pairwise(schedule)):
        raise ValueError(f"schedule must be levels none of which is below the one before, got {schedule}")
    if schedule[0] < 0 or schedule[-1] >= steps:
        raise ValueError(f"schedule must lie in 0..{steps - 1}, since sampling takes {steps} steps; got {schedule}")
    if len(sizes) != len(schedule) + 1:
        raise ValueError(
            f"sizes must have one more entry than schedule, the first population's: expected {len(schedule) + 1}, "
            f"got {len(sizes)}"
        )
    whole_number("the first of sizes", sizes[0], 1)
    if whole_number("elites", elites, 0) >= min(sizes[1:]):
        raise ValueError(
            f"elites must be below every later population, which they are part of: got {elites} with sizes {sizes}"
        )
    share("rate", rate)
    whole_number("tournament", tournament, 1)
    one_of("mutation", mutation, _MUTATIONS)
    if whole_number("span", span, 0) < 1 and mutation == "renoise":
        raise ValueError(f"span must be at least 1 for mutation='renoise', got {span}")
    if not isinstance(inherit_noise, bool):
        raise ValueError(f"inherit_noise must be true or false, got {inherit_noise!r}")
    if child_eta is not None:
        share("child_eta", child_eta)
    back = span if mutation == "renoise" else 0
    bred = [Wave(k - elites, steps - max(0, s - back)) for k, s in zip(sizes[1:], schedule, strict=True)]
    if look is None:
        if finish is not None:
            raise ValueError(f"finish goes with look, the level of the previews that decide; got finish={finish} alone")
        return [Wave(sizes[0], steps), *bred]
    if whole_number("look", look, 1) >= steps:
        raise ValueError(f"look must be a level from 1 to {steps - 1}, since sampling takes {steps} steps; got {look}")
    kept = whole_number("finish", _finished(sizes[0], finish), 1)
    if kept > sizes[0]:
        raise ValueError(f"finish must be at most the first of sizes, {sizes[0]}, got {finish}")
    # A preview predicts at its level, which a survivor then need not pay for.
    return [Wave(sizes[0], look + 1), Wave(kept, steps - look - 1), *bred]


def _finished(first: int, finish: int | None) -> int:
    """How many of a culled first population go on."""
    return min(first, max(3, first // 10)) if finish is None else finish


def rules(name: str, waves: Any) -> Any:
    """The paper's rules as a ``fit``: uniform schedule, first population twice the others; 4 generations, or what fits.

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


@search(waves=waves_of, fit=rules("evosearch", waves_of), space="trajectory")
def evosearch(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 1,
    rate: float = 0.15,
    tournament: int = 3,
    mutation: str = "level_preserving",
    span: int = 0,
    inherit_noise: bool = False,
    look: int | None = None,
    finish: int | None = None,
    child_eta: float | None = None,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Evolve noises first, then states further and further along the trajectory.

    NFE: K_0 · steps + Σ_g (K_{g+1} - elites) · (steps - s_g); by renoise · (steps - max(0, s_g - span)); with look,
        K_0 · (look + 1) + finish · (steps - look - 1) for K_0 · steps.
    Rewards: K_0 + Σ_g (K_{g+1} - elites); with look, finish more.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws parents and the children's ids.
        schedule: Levels s_g at which a generation is bred, from 0 to below ``steps``; none below the one before.
        sizes: Population sizes K, elites included: the first one's, then one a generation.
        elites: How many of a population are not children. Every state seen stays in the pool with its reward, the best
            among them, so an elite costs nothing and the knob only leaves so many children out.
        rate: Share of fresh noise in a child.
        tournament: Rivals for being a parent; 1 is no pressure at all.
        mutation: ``level_preserving``, ``additive`` (the paper's) or ``renoise`` (the forward process).
        span: With ``renoise``, levels that a child is taken back, at least 1.
        inherit_noise: Let children meet their parents' later noise; matters where eta is above 0.
        look: Level at which previews cull the first population; none by default.
        finish: With ``look``, how many of it go on; a tenth by default, and at least 3.
        child_eta: eta of the children, where it is another: previews foretell more under the ODE, and late children
            may get ahead more often under the SDE.
        eta: 0 = ODE, 1 = ancestral SDE as in the paper.

    Yields:
        Each generation's children, finished; the first population to begin with, and before it, where it is culled,
        all that were looked at.
    """
    waves_of(sampler.steps, schedule=schedule, sizes=sizes, elites=elites, rate=rate, tournament=tournament,
             mutation=mutation, span=span, inherit_noise=inherit_noise, look=look, finish=finish,
             child_eta=child_eta)  # fmt: skip
    levels = sorted(set(schedule))
    pools: dict[int, list[Population]] = {s: [] for s in levels}  # all states seen at s, with their final rewards
    p, early, solver = sampler.prior(sizes[0]), dict[int, Population](), eta
    if look is not None:
        p, early = sampler.run(p, look, keep=[t for t in levels if t < look], eta=solver)
        p = preview(p, sampler, reward)
        yield p
        assert p.reward is not None
        best = top(p.reward, _finished(sizes[0], finish))
        p, early = p[best], {t: state[best] for t, state in early.items()}
    for s, size in zip((*schedule, None), (*sizes[1:], 0), strict=True):
        finished, states = sampler.run(p, sampler.steps, keep=[t for t in levels if t >= p.i], eta=solver)
        finished = score(finished, sampler, reward)  # equation 6, by one roll-out
        yield finished
        if s is None:
            return
        for t, state in (early | states).items():
            pools[t].append(replace(state, reward=finished.reward))
        early, solver = {}, eta if child_eta is None else child_eta
        pool = concat(*pools[s])
        assert pool.reward is not None
        parents = pool[tournament_of(pool.reward, size - elites, tournament, rng)]
        if mutation == "renoise" and s > 0:
            child = sampler.renoise(parents.born("branch", rng, eta=child_eta), max(0, s - span))
            p = replace(child, parent=parents.id)
        else:
            operator = mutation if s > 0 else "level_preserving"  # at pure noise they are all one
            p = mutate(parents, sampler, rng, rate=rate, operator=operator, inherit_noise=inherit_noise, eta=child_eta)
