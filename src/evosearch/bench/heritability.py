"""How much of its parent's reward a child has: the correlation, by level, mutation rate and solver.

What nothing is inherited of, evolution cannot select. Parents are plain samples; each has children of the
level-preserving mutation. Rewards are compared within a prompt, since prompts differ in how hard they are. The best
parents have more children, which tell how often, and by how much, a child is ahead of the best so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from evosearch import models
from evosearch.bench.cells import C, Cells, fingerprint
from evosearch.bench.prompts import held_out_prompts
from evosearch.bench.statistics import Interval, clustered_correlation
from evosearch.mutation import mutate
from evosearch.resolve import sampler_of
from evosearch.rewards import TensorReward
from evosearch.rewards import load as load_reward
from evosearch.scoring import foreseen
from evosearch.selection import top
from evosearch.types import Population, Sampler

ETAS = (0.0, 1.0)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Levels of mutations, as shares of the trajectory."""

LOOKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Levels of previews."""

DRAFTS = (0.2, 0.3, 0.5)
"""Steps of drafts, whole trajectories through fewer levels, as shares of all."""

RATES = (0.15, 0.3, 0.6, 0.9)
SAME = 0.0
"""The rate of a child that is its parent's state again; under the SDE, with noise of its own from there on."""

REWARDS = ("shapes", "shapes_clip")
PROMPTS, PARENTS, BEST = 6, 24, 4
BROOD = 4  # children of each of the best, of each kind
_SEED = 404  # of the prompts: others than those of the comparisons


@dataclass(frozen=True)
class Cell:
    """The families of one prompt under one solver."""

    prompt: str
    eta: float


@dataclass(frozen=True)
class Kind:
    """One way to make a child."""

    level: int
    rate: float


def all_cells(model: str) -> list[Cell]:
    """All families of a model, prompt by prompt."""
    moving = models.makes_videos(model)
    return [Cell(prompt, eta) for prompt in held_out_prompts(PROMPTS, seed=_SEED, moving=moving) for eta in ETAS]


def kinds(steps: int, eta: float) -> list[Kind]:
    """All ways to make a child that are looked at; the same state again makes a difference under the SDE alone."""
    levels = [round(share * steps) for share in SHARES]
    return [Kind(level, rate) for level in levels for rate in (RATES if eta == 0 else (SAME, *RATES))]


def _drafts(steps: int, eta: float) -> list[int]:
    """Steps of the drafts that are looked at; under the SDE a draft has other noise than the sample."""
    return [round(share * steps) for share in DRAFTS] if eta == 0 else []


def bill(todo: Sequence[Cell], steps: int = 20) -> int:
    """NFE that these families take."""

    def nfe(cell: Cell) -> int:
        children = PARENTS + BEST * BROOD
        return PARENTS * (steps + sum(_drafts(steps, cell.eta))) + children * sum(
            steps - kind.level for kind in kinds(steps, cell.eta)
        )

    return sum(map(nfe, todo))


def run(
    todo: Sequence[Cell], out: Path, model: str, part: tuple[int, int] = (0, 1), dtype: str = "float32"
) -> Iterator[Cell]:
    """Breed the families that ``out`` does not hold yet.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        model: A bundled pipeline's name, a folder or a hub id.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.
        dtype: Precision of the model.

    Yields:
        Each cell, once it is done.
    """
    yield from measured(todo, out, model, part, dtype, families)


def measured(
    todo: Sequence[C], out: Path, model: str, part: tuple[int, int], dtype: str,
    find: Callable[[Sampler, Mapping[str, TensorReward], str], dict[str, Any]],
) -> Iterator[C]:  # fmt: skip
    """Keep what ``find`` finds of the cells that ``out`` does not hold yet, by a sampler and `REWARDS`; see `run`.

    A cell has a ``prompt``, and the ``eta`` of its sampler if that is not 0.
    """
    cells = Cells(out, {"model": model, "dtype": dtype, "weights": fingerprint(model, "shapes-clip")}, part)
    if not (missing := cells.missing(todo)):
        return
    pipe = models.load(model, dtype=dtype)
    rewards = {name: load_reward(name) for name in REWARDS}
    for cell in missing:
        prompt, eta = cast(Any, cell).prompt, getattr(cell, "eta", 0.0)
        sampler = sampler_of(pipe, prompt, steps=None, eta=eta, seed=0, batch_size=8, pipeline_kwargs={})
        cells.append(cell, **find(sampler, rewards, prompt))
        yield cell


def families(sampler: Sampler, rewards: Mapping[str, TensorReward], prompt: str) -> dict[str, Any]:
    """Parents and their children, by their rewards.

    Args:
        sampler: The model with its prompt; its own eta is that of all roll-outs.
        rewards: By name; the first one says who the best parents are.
        prompt: What they judge by.

    Returns:
        ``steps``; ``sigma`` by level; ``parents``, (PARENTS,) rewards by name; ``previews`` of them by level;
        under the ODE ``drafts`` of them by number of steps; ``children``, a list of kinds: ``level``, ``rate``, the
        children's ``parents`` as numbers, and the rewards of ``children`` by name. All parents have one child of each
        kind, then the best more.
    """
    judged = judge(sampler, rewards, prompt)
    rng = torch.Generator().manual_seed(0)
    eta: float = getattr(sampler, "eta", 0.0)
    found = kinds(sampler.steps, eta)
    looks = [round(share * sampler.steps) for share in LOOKS]
    levels = sorted({kind.level for kind in found} | set(looks))
    noises = sampler.prior(PARENTS)
    finished, states = sampler.run(noises, sampler.steps, keep=levels)
    parents = judged(finished)
    best = top(torch.tensor(parents[next(iter(rewards))]), BEST)
    rows = torch.cat([torch.arange(PARENTS), best.repeat_interleave(BROOD)])
    children: list[dict[str, Any]] = []
    for kind in found:
        child = mutate(states[kind.level][rows], sampler, rng, rate=kind.rate)
        ends, _ = sampler.run(child, sampler.steps)
        children.append({"level": kind.level, "rate": kind.rate, "parents": rows.tolist(), "children": judged(ends)})
    return {
        "steps": sampler.steps,
        "sigma": {level: round(float(sampler.path.sigma[level]), 4) for level in levels},
        "parents": parents,
        "previews": {level: judged(states[level]) for level in looks},
        "drafts": {draft: judged(_draft(noises, sampler, draft)) for draft in _drafts(sampler.steps, eta)},
        "children": children,
    }


def _draft(noises: Population, sampler: Sampler, steps: int) -> Population:
    """The same noises denoised through so many levels alone, evenly spread."""
    return sampler.run(noises, sampler.steps, through=foreseen(0, sampler.steps, steps))[0]


def judge(
    sampler: Sampler, rewards: Mapping[str, TensorReward], prompt: str
) -> Callable[[Population], dict[str, list[float]]]:
    """Rewards of finished particles, or of what predicted ones are coming to, by name."""

    def judged(p: Population) -> dict[str, list[float]]:
        found: dict[str, list[Tensor]] = defaultdict(list)
        for batch in p.split(sampler.batch_size):
            samples = (sampler.decode(batch) * 255).round() / 255
            for name, reward in rewards.items():
                found[name].append(reward(samples, [prompt] * len(samples)))
        return {name: torch.cat(parts).tolist() for name, parts in found.items()}

    return judged


@dataclass(frozen=True)
class Inherited:
    """What children of one kind have of their parents, within prompts and in units of the plain samples' spread.

    Attributes:
        correlation: Of parents' and children's rewards.
        slope: Of the children's reward on the parent's.
        residual: Spread of what the parent does not tell.
        ahead: Share of the best parents' children that are ahead of the best parent.
    """

    correlation: Interval
    slope: float
    residual: float
    ahead: float


def inherited(rows: Sequence[dict[str, Any]], reward: str, eta: float, kind: Kind) -> Inherited | None:
    """Of the families in ``rows``, one row a prompt and solver; None where no reward of a prompt varies."""
    pairs: list[np.ndarray] = []
    ahead: list[bool] = []
    for row in rows:
        own, brood = np.array(row["parents"][reward]), _brood(row, kind)
        if row["eta"] != eta or brood is None or own.std() == 0:
            continue
        children = np.array(brood["children"][reward])
        pairs.append((np.stack([own, children[:PARENTS]], 1) - own.mean()) / own.std(ddof=1))
        ahead += (children[PARENTS:] > own.max()).tolist()
    if not pairs:
        return None
    parents, children = np.concatenate(pairs).T
    slope = float(np.cov(parents, children)[0, 1] / parents.var(ddof=1))
    residual = children - slope * parents
    return Inherited(clustered_correlation(pairs), slope, float(residual.std()), float(np.mean(ahead)))


def _brood(row: dict[str, Any], kind: Kind) -> dict[str, Any] | None:
    return next((b for b in row["children"] if (b["level"], b["rate"]) == (kind.level, kind.rate)), None)


def table(rows: Sequence[dict[str, Any]], reward: str, eta: float) -> str:
    """Markdown: the correlation, its interval and the share of children ahead, a line a level, a column a rate."""
    found = dict.fromkeys(kind["rate"] for row in rows if row["eta"] == eta for kind in row["children"])
    lines = [
        f"| level | sigma | {' | '.join('the same' if rate == SAME else f'rate {rate:g}' for rate in found)} |",
        "|---:|---:|" + "---:|" * len(found),
    ]
    for level in dict.fromkeys(kind["level"] for row in rows for kind in row["children"]):
        cells = [_shown(inherited(rows, reward, eta, Kind(level, rate))) for rate in found]
        lines.append(f"| {level} | {rows[0]['sigma'][str(level)]:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(found: Inherited | None) -> str:
    if found is None:
        return ""
    r, low, high = found.correlation
    return f"{r:.2f} ({low:.2f} to {high:.2f}); {found.ahead:.0%}"


def foretold(rows: Sequence[dict[str, Any]], reward: str) -> str:
    """Markdown: how previews and drafts go with the finished samples, within prompts."""
    steps = rows[0]["steps"]
    lines = ["| seen | NFE | ODE | SDE |", "|---|---:|---:|---:|"]
    for kind, name in (("previews", "preview at level {}"), ("drafts", "draft of {} steps")):
        for k in dict.fromkeys(int(key) for row in rows for key in row[kind]):
            cells = [_told(rows, reward, eta, kind, str(k)) for eta in ETAS]
            lines.append(f"| {name.format(k)} | {k + (kind == 'previews')} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| finished | {steps} | | |"])


def _told(rows: Sequence[dict[str, Any]], reward: str, eta: float, kind: str, key: str) -> str:
    seen = [
        np.stack([row["parents"][reward], row[kind][key][reward]], 1)
        for row in rows
        if row["eta"] == eta and key in row[kind]
    ]
    return told(seen)


def told(seen: Sequence[np.ndarray]) -> str:
    """The correlation within prompts of finished samples' rewards and what went before, (n, 2) each, in words."""
    pairs = [(pair - pair.mean(0)) / pair[:, 0].std() for pair in seen if pair[:, 0].std() > 0]
    if not pairs:
        return ""
    r, low, high = clustered_correlation(pairs)
    return f"{r:.2f} ({low:.2f} to {high:.2f})"
