"""Search over paths: states taken back a little by fresh noise, and on again a little further.

Ma, Tong, Jia, Hu, Su, Zhang, Yang, Li, Jaakkola, Jia, Xie (2025), "Inference-Time Scaling for Diffusion Models beyond
Scaling Denoising Steps", arXiv:2501.09732.

Differs from the paper:
- distances are levels: a round goes ``back`` so many by the forward process, and ``forward`` by the solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evosearch.checks import share, whole_number
from evosearch.declaration import Wave, search
from evosearch.scoring import preview
from evosearch.selection import survivors
from evosearch.types import Population, Reward, Sampler


def _rounds(steps: int, start: float, back: int, forward: int) -> tuple[int, list[tuple[int, int]]]:
    """The level of the first choice, and from where to where each round goes."""
    first = i = min(max(1, round(start * steps)), steps)
    rounds: list[tuple[int, int]] = []
    while i < steps:
        low = max(0, i - back)
        i = min(low + forward, steps)
        rounds.append((low, i))
    return first, rounds


def _waves(
    steps: int, *, n: int, children: int = 4, start: float = 0.25, back: int = 1, forward: int = 3, **_: Any
) -> list[Wave]:
    whole_number("n", n, 1)
    whole_number("children", children, 1)
    share("start", start)
    whole_number("back", back, 1)
    if whole_number("forward", forward, 1) <= back:
        raise ValueError(f"forward must be above back, or no round gets anywhere: got {forward} with back {back}")
    first, rounds = _rounds(steps, start, back, forward)
    return [
        Wave(n, first, int(first == steps)),
        # A preview costs a step of its own, since its state is left for a noisier one.
        *(Wave(n * children, high - low + (high < steps)) for low, high in rounds),
    ]


@search(waves=_waves, fit="n", space="trajectory", needs=("previews",))
def search_over_paths(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    n: int,
    children: int = 4,
    start: float = 0.25,
    back: int = 1,
    forward: int = 3,
    eta: float | None = 0.0,
) -> Iterator[Population]:
    """Noise each state anew in several ways, denoise further than before, keep the best previews, and again.

    NFE: n · first + n · children · (forward + 1) a round, less where the end is near.
    Rewards: n · children a round.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws the children's ids.
        n: States kept; the paper's N.
        children: Noised copies of each; the paper's M.
        start: Share of the trajectory before the first round.
        back: Levels that copies are taken back; the paper's Δf.
        forward: Levels that they are denoised from there; the paper's Δb.
        eta: 0 = ODE: the rounds' noise makes the difference.

    Yields:
        The states kept after each round, then all the finished ones.
    """
    _waves(sampler.steps, n=n, children=children, start=start, back=back, forward=forward)
    first, rounds = _rounds(sampler.steps, start, back, forward)
    p, _ = sampler.run(sampler.prior(n), first, eta=eta)
    if first == sampler.steps:
        p = preview(p, sampler, reward)
    for low, high in rounds:
        p = sampler.renoise(p.repeat(children).born("branch", rng), low)
        p = preview(sampler.run(p, high, eta=eta)[0], sampler, reward)
        assert p.reward is not None
        if high < sampler.steps:
            p = p[survivors(p.reward, n)]
            yield p
    yield p
