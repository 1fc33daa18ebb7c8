"""Tree search over trajectories: whole roll-outs, whose rewards decide where the next one leaves the trodden paths.

Jain, Sareen, Pedramfar, Ravanbakhsh (2025), "Diffusion Tree Sampling: Scalable Inference-Time Alignment of Diffusion
Models", arXiv:2506.20701. With ``greedy``, its DTS*, which searches; without, DTS, which samples.

Differs from the paper:
- DTS* follows the best value, without a bonus for what was seldom visited;
- in DTS half of the visits go to any child alike. By value alone, a child whose first roll-out was poor is hardly seen
  again, while luck is found out: in the toy mixture that bias does not fall to half while NFE grow 16 times, with even
  visits it falls to a quarter. It is there still where nodes are young: more NFE, or a larger ``growth``, mend it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from evosearch.checks import above_zero, flag, is_number, whole_number
from evosearch.declaration import Wave, search
from evosearch.scoring import score
from evosearch.selection import finite
from evosearch.types import Population, Reward, Sampler, concat

_EVEN = 0.5  # share of DTS's visits that do not go by value
_SLOWEST = 0.25  # growth; with less, it would take ages until a state gets another child


@dataclass
class _Node:
    """A state, the root standing before all noises."""

    p: Population | None
    children: list[_Node] = field(default_factory=list["_Node"])
    value: float = -math.inf
    visits: float = 0

    def back_up(self, temperature: float) -> None:
        """The soft value: the logarithm of the mean of exp(value / temperature) over the children."""
        values = torch.tensor([child.value for child in self.children], dtype=torch.float64) / temperature
        self.value = temperature * (float(torch.logsumexp(values, 0)) - math.log(len(values)))

    def leaves(self, temperature: float, log_p: float = 0.0) -> Iterator[tuple[Population, float]]:
        """Finished particles below, with the logarithm of how likely a way down in proportion to values ends there."""
        if self.p is not None and not self.children:
            yield self.p, log_p
            return
        values = torch.tensor([child.value for child in self.children], dtype=torch.float64)
        shares = torch.log_softmax(values.nan_to_num(neginf=-1e300) / temperature, 0).tolist()
        for child, share in zip(self.children, shares, strict=True):
            yield from child.leaves(temperature, log_p + share)

    def chosen(self, temperature: float, greedy: bool, rng: torch.Generator) -> _Node:
        """The child of the best value; or one in proportion to exp(value / temperature), but now and then any."""
        values = torch.tensor([child.value for child in self.children], dtype=torch.float64)
        if greedy or not bool(values.isfinite().any()):
            return self.children[int(values.argmax())]
        shares = (1 - _EVEN) * torch.softmax(values / temperature, 0) + _EVEN / len(values)
        return self.children[int(torch.multinomial(shares, 1, generator=rng))]


def _waves(
    steps: int, *, nfe: int, temperature: float = 0.1, width: float = 2.0, growth: float = 0.5, greedy: bool = True,
    **_: Any,
) -> list[Wave]:  # fmt: skip
    if whole_number("nfe", nfe, 1) < steps:
        raise ValueError(f"nfe must be at least {steps}, one sample of {steps} steps, got {nfe}")
    above_zero("temperature", temperature)
    if not is_number(width) or width < 1:
        raise ValueError(f"width must be a number from 1, got {width!r}")
    if not is_number(growth) or not _SLOWEST <= growth <= 1:
        raise ValueError(f"growth must be a number from {_SLOWEST} to 1, got {growth!r}")
    flag("greedy", greedy)
    again = nfe - steps
    return [Wave(1, steps), *([Wave(1, again, -(-2 * again // steps))] if again else [])]  # from halfway on average


def _least(steps: int, *, nfe: int, **knobs: Any) -> list[Wave]:
    return _waves(steps, nfe=max(steps, nfe - steps + 1), **knobs)


def _fit(steps: int, budget: int, **given: Any) -> dict[str, Any]:
    if budget < steps:
        raise ValueError(f"budget must be at least {steps} NFE for tree in {steps} steps; got {budget}")
    return {} if "nfe" in given else {"nfe": budget}


@search(waves=_waves, least=_least, fit=_fit, space="trajectory", needs=("SDE",), anytime=True)
def tree(
    sampler: Sampler,
    reward: Reward,
    rng: torch.Generator,
    *,
    nfe: int,
    temperature: float = 0.1,
    width: float = 2.0,
    growth: float = 0.5,
    greedy: bool = True,
    eta: float | None = 1.0,
) -> Iterator[Population]:
    """Roll out from some state of an earlier roll-out, again and again; only finished samples are scored.

    NFE: nfe - steps + 1 to nfe; a roll-out costs the steps from where it leaves the tree.
    Rewards: one a roll-out.

    Args:
        sampler: The model with its prompt.
        reward: What to maximise.
        rng: Draws ids, and in DTS the way down the tree.
        nfe: The most to spend.
        temperature: The target is the model's distribution times exp(reward / temperature).
        width: A state may have width · visits^growth children; from 1.
        growth: See width; from .25.
        greedy: Go down to the best value (DTS*), not in proportion to exp(value / temperature) (DTS).
        eta: 1 = ancestral SDE; at 0, what leaves a state would come to the same.

    Yields:
        Each finished sample; in DTS then all of them, weighted towards the target by ``log_weight``.
    """
    _waves(sampler.steps, nfe=nfe, temperature=temperature, width=width, growth=growth, greedy=greedy)
    root, left, steps = _Node(None), nfe, sampler.steps
    while True:
        way = [root]
        while way[-1].children and len(way[-1].children) >= _most(way[-1], steps, width, growth):
            way.append(way[-1].chosen(temperature, greedy, rng))
        leaf, turns = way[-1], 1
        if leaf.p is not None and leaf.p.i == steps:
            # There is nothing to do before some state on the way may have another child.
            turns = min(_lacking(node, steps, width, growth) for node in way[:-1])
        else:
            p = sampler.prior(1) if leaf.p is None else leaf.p
            if sampler.cost(p, steps) > left:
                break
            left -= sampler.cost(p, steps)
            p = p if leaf.p is None else p.born("branch", rng)
            finished, kept = sampler.run(p, steps, keep=range(p.i, steps), eta=eta)
            finished = score(finished, sampler, reward)
            yield finished
            assert finished.reward is not None
            for level in range(p.i + (leaf.p is not None), steps):
                way[-1].children.append(_Node(kept[level]))
                way.append(way[-1].children[-1])
            way[-1].children.append(_Node(finished, value=float(finite(finished.reward))))
        for node in reversed(way):
            node.visits += turns
            if node.children:
                node.back_up(temperature)
    if not greedy:
        ends, log_p = zip(*root.leaves(temperature), strict=True)
        yield replace(concat(*ends), log_weight=torch.tensor(log_p, dtype=torch.float64))


def _lacking(node: _Node, steps: int, width: float, growth: float) -> int | float:
    """Visits until a state may have another child."""
    if node.p is not None and node.p.i >= steps - 1:
        return math.inf
    return max(1, math.ceil(((len(node.children) + 1) / width) ** (1 / growth)) - node.visits)


def _most(node: _Node, steps: int, width: float, growth: float) -> int:
    """Children that a state may have by now."""
    if node.p is not None and node.p.i >= steps - 1:
        return 1  # the last step adds no noise
    return max(1, int(width * max(1, node.visits) ** growth))
