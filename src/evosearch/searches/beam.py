"""Beam search: the most promising states of all, judged by a lookahead of several steps.

- DLBS: Oshima, Suzuki, Matsuo, Furuta (2025), "Inference-Time Text-to-Video Alignment with Diffusion Latent Beam
  Search", arXiv:2501.19252.
- DSearch: Li, Uehara, Su, Scalia, Biancalani, Regev, Levine, Ji (2025), "Dynamic Search for Inference-Time Alignment in
  Diffusion Models", arXiv:2503.02039; with ``narrowing``.

Differs from the papers:
- DSearch's beam narrows geometrically, from all the particles to one; it scores after every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import flag, whole_number
from evosearch.declaration import Wave, fill, search
from evosearch.scoring import preview
from evosearch.selection import survivors
from evosearch.types import Population, Reward, Sampler


def _widths(steps: int, beams: int, narrowing: bool) -> list[int]:
    """How many states are kept at each level but the last."""
    if not narrowing:
        return [beams] * steps
    return [max(1, round(beams ** (1 - level / max(1, steps - 1)))) for level in range(steps)]


def _waves(
    steps: int, *, beams: int, children: int, lookahead: int = 6, narrowing: bool = False, **_: Any
) -> list[Wave]:
    whole_number("beams", beams, 1)
    whole_number("children", children, 1)
    whole_number("lookahead", lookahead, 1)
    flag("narrowing", narrowing)
    widths = _widths(steps, beams, narrowing)
    rows = [beams * children, *(width * (beams * children // width) for width in widths[:-1])]
    # The last step adds no noise, and is arithmetic.
    return [*(Wave(n, min(lookahead, steps - i)) for i, n in enumerate(rows)), Wave(widths[-1], 0)]


def _fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
    """Two or three children a beam, or one beam of all where there are few."""
    if "beams" in given:
        return fill("beam", _waves, "children")(steps, budget, **given)
    if "children" in given:
        return fill("beam", _waves, "beams")(steps, budget, **given)
    rows = fill("beam", _waves, "children", beams=1)(steps, budget, **given)["children"]
    children = rows if rows < 8 else 3 if rows % 2 and rows % 3 == 0 else 2
    return {"beams": rows // children, "children": children}


@search(waves=_waves, fit=_fit, space="trajectory", needs=("SDE", "previews"))
def beam(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    beams: int,
    children: int,
    lookahead: int = 6,
    narrowing: bool = False,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Draw several next states of each of the best, and keep as many of all of them.

    NFE: beams · children · Σ_i min(lookahead, steps - i), less where narrowing leaves a remainder.
    Rewards: beams · children · steps + the beams at the end, less as above.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        beams: States kept after each step; DLBS's B.
        children: Next states of each; DLBS's K.
        lookahead: Deterministic steps of a preview; 1 is x0 as predicted.
        narrowing: Keep fewer and fewer, with as many more children each (DSearch).
        eta: 1 = ancestral SDE; at 0, next states would be alike.

    Yields:
        The states kept after each step, then the finished ones.
    """
    _waves(sampler.steps, beams=beams, children=children, lookahead=lookahead, narrowing=narrowing)
    p = preview(sampler.prior(beams * children), sampler, reward, lookahead)
    for width in _widths(sampler.steps, beams, narrowing):
        assert p.reward is not None
        p = p[survivors(p.reward, width)]
        yield p
        if p.i < sampler.steps - 1:
            p = p.branch(torch.arange(width).repeat_interleave(beams * children // width), rng)
        p = preview(sampler.run(p, p.i + 1, eta=eta)[0], sampler, reward, lookahead)
    yield p
