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
- fitted to a budget, it takes none of the paper's sizes: it explores by drafts of a quarter of the steps
  (``draft_steps``), noises first, then small generations of the best few (``parents``) from the middle of the
  trajectory on, several at one level, with a rate of .6; the winners are finished in all steps, one of them by noises
  that are mixed of several at each step, as in `demon` (``steered``).

Differs from the released code:
- states are kept at the level at which they are resumed, not one step later;
- the mutation goes by the level, not by the generation, so a schedule that starts above 0 breeds states there;
- the tournament has a few rivals, not 90 % of the pool;
- the user's reward guides every generation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import one_of, share, whole_number, whole_numbers
from evosearch.declaration import Wave, nfe_of, search
from evosearch.drafts import drafted
from evosearch.mutation import mutate
from evosearch.scoring import preview, roll_out
from evosearch.searches.schedules import by_budget, finishing, going_on, in_words, is_by_budget, priced, regime
from evosearch.selection import survivors, top
from evosearch.selection import tournament as tournament_of
from evosearch.types import Population, Reward, Sampler, concat

_WAVE = 128  # particles, so that thousands of states never pile up and there is soon something to show
_MUTATIONS = ("level_preserving", "additive", "renoise")


def waves_of(
    steps: int,
    *,
    draft_steps: int | None = None,
    finals: int = 0,
    steered: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
    **knobs: Any,
) -> list[Wave]:
    """What is explored, generation by generation, and what is finished; ValueError where knobs do not go together."""
    drafting: dict[str, Any] = {"rungs": rungs, "draft_cache": draft_cache, "draft_prices": draft_prices}
    finished = finishing(steps, draft_steps, finals, steered=steered, steered_from=steered_from, **drafting)
    explored = priced(_explored(draft_steps or steps, **knobs), draft_prices)
    if finals > knobs["sizes"][0]:
        raise ValueError(f"finals must be at most the first of sizes, {knobs['sizes'][0]}, got {finals}")
    return [*explored, *finished]


def _least(steps: int, **knobs: Any) -> list[Wave]:
    """Of what finishes winners, a sample's worth may be too little for one more, or for one more noise."""
    waves = waves_of(steps, **knobs)
    return waves if knobs.get("draft_steps") is None else [*waves[:-1], Wave(waves[-1].particles - 1, steps)]


def _explored(
    steps: int,
    *,
    schedule: Sequence[int],
    sizes: Sequence[int],
    elites: int = 1,
    rate: float = 0.15,
    tournament: int = 3,
    parents: int | None = None,
    mutation: str = "level_preserving",
    span: int = 0,
    inherit_noise: bool = False,
    look: int | None = None,
    finish: int | None = None,
    child_eta: float | None = None,
    **_: Any,
) -> list[Wave]:
    """The first population and the children of each generation."""
    schedule, sizes = whole_numbers("schedule", schedule), whole_numbers("sizes", sizes)
    if any(later < level for level, later in pairwise(schedule)):
        raise ValueError(f"schedule must be levels none of which is below the one before, got {schedule}")
    if schedule and (schedule[0] < 0 or schedule[-1] >= steps):
        raise ValueError(f"schedule must lie in 0..{steps - 1}, since sampling takes {steps} steps; got {schedule}")
    if len(sizes) != len(schedule) + 1:
        raise ValueError(
            f"sizes must have one more entry than schedule, the first population's: expected {len(schedule) + 1}, "
            f"got {len(sizes)}"
        )
    whole_number("the first of sizes", sizes[0], 1)
    if whole_number("elites", elites, 0) >= min(sizes[1:], default=elites + 1):
        raise ValueError(
            f"elites must be below every later population, which they are part of: got {elites} with sizes {sizes}"
        )
    share("rate", rate)
    whole_number("tournament", tournament, 1)
    if parents is not None:
        whole_number("parents", parents, 1)
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
    kept = whole_number("finish", going_on(sizes[0], finish), 1)
    if kept > sizes[0]:
        raise ValueError(f"finish must be at most the first of sizes, {sizes[0]}, got {finish}")
    # A preview predicts at its level, which a survivor then need not pay for.
    return [Wave(sizes[0], look + 1), Wave(kept, steps - look - 1), *bred]


def _plan(steps: int, given: Collection[str], **knobs: Any) -> str:
    waves, said = waves_of(steps, **knobs), in_words(steps, **knobs)
    if not is_by_budget(steps, given):
        return f"{said}."
    explores = _explored(knobs.get("draft_steps") or steps, **knobs)
    return f"At {nfe_of(waves) / steps:.0f}x one sample {regime(nfe_of(explores[:1]) / nfe_of(explores))}: {said}."


@search(waves=waves_of, least=_least, fit=by_budget("evosearch", waves_of), space="trajectory", plan=_plan, pareto=True)
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
    parents: int | None = None,
    mutation: str = "level_preserving",
    span: int = 0,
    inherit_noise: bool = False,
    look: int | None = None,
    finish: int | None = None,
    child_eta: float | None = None,
    draft_steps: int | None = None,
    finals: int = 0,
    steered: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Evolve noises first, then states further and further along the trajectory.

    NFE: K_0 · steps + Σ_g (K_{g+1} - elites) · (steps - s_g); by renoise · (steps - max(0, s_g - span)); with look,
        K_0 · (look + 1) + finish · (steps - look - 1) for K_0 · steps; with drafts the same of draft_steps, and
        (finals + steered) · steps.
    Rewards: K_0 + Σ_g (K_{g+1} - elites); with look, finish more; with drafts, those that are finished, and where
        one is steered, a preview for each noise that is tried.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws parents and the children's ids.
        schedule: Levels s_g at which a generation is bred, from 0 to below ``steps``, or ``draft_steps``, none below
            the one before; may be empty.
        sizes: Population sizes K, elites included: the first one's, then one a generation.
        elites: How many of a population are not children. The best states seen stay in the pool with their reward, so
            an elite costs nothing and the knob only leaves so many children out.
        rate: Share of fresh noise in a child.
        tournament: Rivals for being a parent; 1 is no pressure at all.
        parents: Without tournaments, so many of the best of the pool breed in turn, and the others are forgotten.
        mutation: ``level_preserving``, ``additive`` (the paper's) or ``renoise`` (the forward process).
        span: With ``renoise``, levels that a child is taken back, at least 1.
        inherit_noise: Let children meet their parents' later noise; matters where eta is above 0.
        look: Level at which previews cull the first population; none by default.
        finish: With ``look``, how many of it go on; a tenth by default, and at least 3.
        child_eta: eta of the children, where it is another: previews foretell more under the ODE, and late children
            may get ahead more often under the SDE.
        draft_steps: Explore by drafts of so many steps, evenly spread, in which levels are counted, too; by whole
            samples by default.
        finals: With drafts, how many whole samples' NFE finish the best of them. What was bred late goes on from
            where it was bred, so that more than so many may be finished.
        steered: With drafts, how many whole samples' NFE steer one more: denoise the best of those that were bred where
            that begins, or before, by the better of many noises at each step, see `evosearch.steering`.
        steered_from: Level at which that begins, counted as ``schedule`` is.
        rungs: With drafts, of successive halving between them and samples, see `evosearch.drafts.drafted`.
        draft_cache: Let the network of drafts reuse features: ``first_block``, ``taylor_seer`` or a cache config of
            diffusers; drafts then have half the steps unless told otherwise.
        draft_prices: NFE of the first, second, ... step of such a draft; measured by a run that is not told.
        eta: 0 = ODE, 1 = ancestral SDE as in the paper.

    Yields:
        Each generation's children, finished, large ones in waves; the first population to begin with, and before it,
        where it is culled, all that were looked at. With drafts: the best draft so far, and winners once they are
        finished.
    """
    knobs: dict[str, Any] = {
        "schedule": schedule, "sizes": sizes, "elites": elites, "rate": rate, "tournament": tournament,
        "parents": parents, "mutation": mutation, "span": span, "inherit_noise": inherit_noise, "look": look,
        "finish": finish, "child_eta": child_eta,
    }  # fmt: skip
    drafting: dict[str, Any] = {"rungs": rungs, "draft_cache": draft_cache, "draft_prices": draft_prices}
    drafting |= {"steered_from": steered_from}
    waves = waves_of(sampler.steps, draft_steps=draft_steps, finals=finals, steered=steered, **drafting, **knobs)
    if draft_steps is not None:
        explore, room, steering = partial(evosearch, eta=eta, **knobs), finals * sampler.steps, steered * sampler.steps
        drafting |= {"explores": nfe_of(waves) - room - steering}
        yield from drafted(explore, sampler, reward, rng, steps=draft_steps, room=room, steering=steering, **drafting)
        return
    levels = sorted(set(schedule))
    pools: dict[int, Population] = {}  # all states seen at a level, with their final rewards
    p, early, solver = sampler.prior(sizes[0]), dict[int, Population](), eta
    if look is not None:
        p, early = sampler.run(p, look, keep=[t for t in levels if t < look], eta=solver)
        going = going_on(sizes[0], finish)
        if sampler.edits:  # those that go on pay for their prediction again: as many fewer are looked at
            p = p[: max(1, sizes[0] - going)]
        p = preview(p, sampler, reward, twice=True)
        yield p
        best = top(_rewards(p), going)
        p, early = p[best], {t: state[best] for t, state in early.items()}
    wave = -(-_WAVE // sampler.batch_size) * sampler.batch_size
    for s, size in zip((*schedule, None), (*sizes[1:], 0), strict=True):
        for start, part in zip(range(0, len(p), wave), p.split(wave), strict=True):
            finished, states = roll_out(part, sampler, reward, [t for t in levels if t >= p.i], solver)  # equation 6
            yield finished
            before = {t: state[start : start + len(part)] for t, state in early.items()}
            for t, state in (before | states).items():
                state = replace(state, reward=finished.reward)
                pools[t] = concat(pools[t], state) if t in pools else state
                if parents is not None:
                    pools[t] = pools[t][top(_rewards(pools[t]), parents)]
        if s is None:
            return
        early, solver = {}, eta if child_eta is None else child_eta
        pool, k = pools[s], size - elites
        chosen = pool[survivors(_rewards(pool), k) if parents else tournament_of(_rewards(pool), k, tournament, rng)]
        if mutation == "renoise" and s > 0:
            child = sampler.renoise(chosen.born("branch", rng, eta=child_eta), max(0, s - span))
            p = replace(child, parent=chosen.id)
        else:
            operator = mutation if s > 0 else "level_preserving"  # at pure noise they are all one
            p = mutate(chosen, sampler, rng, rate=rate, operator=operator, inherit_noise=inherit_noise, eta=child_eta)


def _rewards(pool: Population) -> Tensor:
    assert pool.reward is not None
    return pool.reward
