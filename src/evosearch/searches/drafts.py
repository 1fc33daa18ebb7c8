"""Drafts of another search: explore in fewer steps, and finish the winners in all of them.

After Flash-BoN (arXiv:2607.04461) and CachedSearch (arXiv:2607.23159). Differs from the papers:
- any search drafts, not best-of-N alone;
- drafts take fewer steps, and reuse features (``draft_cache``) where they are told to;
- a winner that was bred on the way goes on from the state at which it was bred, and is not drawn again from its noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from evosearch.checks import whole_number
from evosearch.declaration import Search, Wave, check_names, nfe_of, search
from evosearch.drafts import drafted
from evosearch.searches.schedules import drafts_and_finals, finishing, price_of, priced
from evosearch.types import Population, Reward, Sampler

_DRAFTING = ("draft_steps", "finals", "steered", "steered_from", "rungs", "draft_cache", "draft_prices")


def _inner(name: Any, knobs: dict[str, Any]) -> Search:
    from evosearch import searches  # whose last one would be this one

    inner = getattr(searches, name) if name in searches.__all__ and name != "drafts" else None
    if inner is None or inner.space not in ("noise", "trajectory") or {"SDE", "gradient"} & {*inner.needs}:
        raise ValueError(f"of must name a search that varies noises or states and needs no SDE, got {name!r}")
    check_names(inner, knobs)
    return inner


def _waves(
    steps: int,
    *,
    of: str = "best_of_n",
    draft_steps: int,
    finals: int,
    steered: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
    **knobs: Any,
) -> list[Wave]:
    knobs.pop("eta", None)
    drafting: dict[str, Any] = {"rungs": rungs, "draft_cache": draft_cache, "draft_prices": draft_prices}
    drafting |= {"steered": steered, "steered_from": steered_from}
    finished = finishing(steps, whole_number("draft_steps", draft_steps, 1), finals, **drafting)
    return [*priced(_inner(of, knobs).waves(draft_steps, **knobs), draft_prices), *finished]


def _least(steps: int, *, of: str = "best_of_n", draft_steps: int, **knobs: Any) -> list[Wave]:
    """Less where what the search finds decides how much it asks for, and where there is little to finish."""
    cached = knobs.get("draft_cache") is not None
    inner = {name: value for name, value in knobs.items() if name not in (*_DRAFTING, "eta")}
    found = _inner(of, inner).nfe(draft_steps, **inner)
    return [Wave(1, 1 if cached else found[0] if isinstance(found, tuple) else found), Wave(1, steps)]


def _fit(steps: int, budget: int, *, of: str = "best_of_n", **given: Any) -> dict[str, Any]:
    if given.get("draft_steps", 1) is None:
        raise ValueError("draft_steps must be a whole number, got None; a search without drafts goes by its own name")

    def fitted(nfe: int) -> dict[str, Any]:
        steering = whole_number("steered", given.get("steered", 0), 0) * steps
        drafts, finals = drafts_and_finals(steps, nfe - steering, given)
        own = {"draft_steps": drafts, "finals": finals}
        knobs = {name: value for name, value in given.items() if name not in (*_DRAFTING, "eta")}
        assert drafts is not None
        room = (
            (nfe - finals * steps - steering) * drafts / price_of(drafts, given.get("draft_prices"))
        )  # in steps of a draft
        found = own | _inner(of, knobs).fit(drafts, int(room), **knobs)
        return {name: value for name, value in found.items() if name not in given}

    def fits(nfe: int) -> bool:
        with suppress(ValueError):
            return bool(fitted(nfe))
        return False

    try:
        return fitted(budget)
    except ValueError as error:
        if (least := next((nfe for nfe in range(budget + 1, 100 * steps) if fits(nfe)), None)) is None:
            raise
        raise ValueError(f"budget must be at least {least} NFE for drafts in {steps} steps; got {budget}") from error


@search(waves=_waves, least=_least, fit=_fit, space="trajectory")
def drafts(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    of: str = "best_of_n",
    draft_steps: int,
    finals: int,
    steered: int = 0,
    steered_from: int = 0,
    rungs: int = 1,
    draft_cache: Any = None,
    draft_prices: Sequence[float] | None = None,
    eta: float | None = 0.0,
    **knobs: Any,
) -> Iterator[Population]:
    """Explore by drafts, whatever the search, and finish the best of them.

    NFE: that of the search in draft_steps, and at most (finals + steered) · steps.
    Rewards: that of the search, one for each that is finished, and a preview for each noise that is tried.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: The search's own; draws the ids of winners, too.
        of: Name of the search, one that varies noises or states and needs no SDE.
        draft_steps: Steps of a draft, evenly spread, in which the search counts its levels; a quarter of all where
            it is fitted to a budget.
        finals: How many whole samples' NFE finish the best drafts; a fifth of a budget. What was bred late goes on
            from where it was bred, so that more than so many may be finished.
        steered: How many whole samples' NFE steer one more: denoise the best of those that were bred where that begins,
            or before, by the better of many noises at each step, see `evosearch.steering`; none by default.
        steered_from: Level of a draft at which that begins.
        rungs: Of successive halving between drafts and samples, see `evosearch.drafts.drafted`.
        draft_cache: Let the network of drafts reuse features: ``first_block``, ``taylor_seer`` or a cache config of
            diffusers; drafts then have half the steps unless told otherwise.
        draft_prices: NFE of the first, second, ... step of such a draft; measured by a run that is not told.
        eta: 0 = ODE, 1 = ancestral SDE.
        **knobs: The search's own.

    Yields:
        The best draft so far, as the state that it was bred at; winners, once they are finished.
    """
    drafting: dict[str, Any] = {"rungs": rungs, "draft_cache": draft_cache, "draft_prices": draft_prices}
    drafting |= {"steered_from": steered_from}
    waves = _waves(sampler.steps, of=of, draft_steps=draft_steps, finals=finals, steered=steered, **drafting, **knobs)
    explore = partial(_inner(of, knobs), eta=eta, **knobs)
    room, steering = finals * sampler.steps, steered * sampler.steps
    drafting |= {"explores": nfe_of(waves) - room - steering}
    yield from drafted(explore, sampler, reward, rng, steps=draft_steps, room=room, steering=steering, **drafting)
