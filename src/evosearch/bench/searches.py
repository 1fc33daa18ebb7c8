"""Every search against every other on one bundled pipeline: at equal NFE and, apart from that, at equal seconds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from evosearch import models, searches
from evosearch.bench.cells import Cells, fingerprint
from evosearch.bench.compare import pixels
from evosearch.bench.distances import vendi
from evosearch.bench.prompts import held_out_prompts
from evosearch.bench.statistics import FEWEST, Pairs, clustered_mean, paired
from evosearch.resolve import algorithm_of
from evosearch.rewards import load as load_reward
from evosearch.rewards import resolve
from evosearch.rewards.shapes_clip import ShapesClip
from evosearch.run import search
from evosearch.session import InvalidReward

OURS, UNSTEERED, BASELINE = "evosearch", "evosearch, unsteered", "best_of_n"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in searches.__all__ if name != "particles"},
    **{f"particles, {preset}": ("particles", {"preset": preset}) for preset in ("fk", "das", "bfs")},
    UNSTEERED: (OURS, {"steered": 0}),
}
"""What is compared: name -> (algorithm, knobs). All other knobs are those that a user gets who names none."""

TIMES = (10, 30, 100, 300, 1000)
"""Budgets, in samples' worth."""

KINDS = ("nfe", "seconds")
"""What is equal: NFE, or seconds, those that best-of-N takes for as many samples."""

JUDGES = ("shapes", "shapes_clip", "shapes_quality")


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    prompt: str
    seed: int
    times: int
    equal: str


def methods(reward: str) -> list[str]:
    """Those that this reward can guide: without a gradient of its own, none that needs one."""
    differentiable = getattr(resolve(reward), "differentiable", False)
    return [name for name, (search, _) in METHODS.items()
            if differentiable or "gradient" not in algorithm_of(search).needs]  # fmt: skip


def all_cells(
    model: str, reward: str, times: Sequence[int] = TIMES, prompts: int = 8, seeds: int = 1,
    kinds: Sequence[str] = KINDS, only: Sequence[str] = (),
) -> list[Cell]:  # fmt: skip
    """All runs, cheap ones first.

    Args:
        model: A bundled pipeline's name.
        reward: What guides.
        times: Budgets, in samples' worth.
        prompts: How many held-out prompts, those of `bench compare` to begin with.
        seeds: Of each prompt.
        kinds: Of `KINDS`.
        only: Methods; all that the reward can guide by default.
    """
    texts = held_out_prompts(prompts, moving=models.makes_videos(model))
    return [
        Cell(method, text, seed, n, equal)
        for n in sorted(times)
        for equal in kinds
        for seed in range(seeds)
        for text in texts
        for method in only or methods(reward)
    ]


def bill(todo: Sequence[Cell], steps: int = 20) -> int:
    """NFE of these runs, those of equal seconds counted as best-of-N's."""
    return sum(cell.times * steps for cell in todo)


def run(
    todo: Sequence[Cell], out: Path, model: str, reward: str, part: tuple[int, int] = (0, 1), dtype: str = "float32"
) -> Iterator[Cell]:
    """Run the cells that ``out`` does not hold yet, a line of JSON each.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        model: A bundled pipeline's name.
        reward: What guides; all of `JUDGES` judge.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.
        dtype: Precision of the model.

    Yields:
        Each cell, once it is done.

    Raises:
        ValueError: The folder holds runs of another model, reward or precision.
    """
    facts = {"model": model, "reward": reward, "dtype": dtype, "weights": fingerprint(model, reward)}
    cells = Cells(out, facts, part)
    if not (missing := cells.missing(todo)):
        return
    pipe = models.load(model, dtype=dtype)
    judges, eyes = {name: load_reward(name) for name in JUDGES}, ShapesClip()
    for cell in missing:
        algorithm, knobs = METHODS[cell.method]
        budget = f"{cell.times}x" if cell.equal == "nfe" else f"{cell.times * _pace(out, pipe, reward):.3f}s"
        try:
            found = search(pipe, cell.prompt, reward, algorithm, budget, seed=cell.seed, progress=False, **knobs)
        except InvalidReward:
            raise
        except ValueError as error:  # too small a budget for this one
            cells.append(cell, refused=str(error))
            yield cell
            continue
        kept = torch.stack([pixels(scored.sample) for scored in found.kept])
        seen = torch.nn.functional.normalize(eyes.embed(kept).mean(1).double(), dim=-1)
        cells.append(
            cell,
            best=found.best.reward,
            plain=found.plain.reward,
            judged={name: float(judge(kept[:1], [cell.prompt])[0]) for name, judge in judges.items()},
            vendi=vendi(seen),
            kept=len(kept),
            nfe=found.cost.nfe,
            seconds=found.cost.seconds,
            calls=found.cost.reward_calls,
        )
        yield cell


def _pace(out: Path, pipe: Any, reward: str) -> float:
    """Seconds of a sample by best-of-N on this machine, measured once a folder."""
    kept = out / "pace.json"
    if not kept.exists():
        prompt = held_out_prompts(1, moving=models.makes_videos(pipe))[0]
        costs = [search(pipe, prompt, reward, BASELINE, "16x", progress=False).cost for _ in range(3)]
        kept.write_text(json.dumps(min(cost.seconds for cost in costs) / 16))
    return float(json.loads(kept.read_text()))


def table(rows: Sequence[dict[str, Any]], equal: str) -> str:
    """Markdown: mean best reward by budget, less ours with its interval, and the mean rank; best ones first.

    Differences pair runs of one prompt and seed; intervals are 95 % and resample prompts. Ours is the default, or where
    that was not run, the one without steering.
    """
    best = _by(rows, equal, lambda row: row["best"])
    times, ranks = sorted({n for _, n in best}), _ranks(best)
    lines = [
        f"| search | rank | {' | '.join(f'{n}x' for n in times)} |",
        f"|---|---:|{'---:|' * len(times)}",
    ]
    for method in sorted(ranks, key=lambda name: ranks[name]):
        ours = [OURS if (OURS, n) in best else UNSTEERED for n in times]
        cells = [
            _cell(best.get((method, n), {}), best.get((own, n), {}), method == own)
            for own, n in zip(ours, times, strict=True)
        ]
        lines.append(f"| {method} | {ranks[method]:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def judged(rows: Sequence[dict[str, Any]], equal: str, times: int) -> str:
    """Markdown: what the rewards say of the best at one budget, how varied how many kept ones are, what it took."""
    at = [row for row in rows if row["equal"] == equal and row["times"] == times and "best" in row]
    means: dict[str, list[float]] = {}
    for method in dict.fromkeys(row["method"] for row in at):
        mine = [row for row in at if row["method"] == method]
        figures = [[row["judged"][name] for row in mine] for name in JUDGES]
        figures += [[row[name] for row in mine] for name in ("vendi", "kept", "nfe", "calls", "seconds")]
        means[method] = [float(np.mean(values)) for values in figures]
    guided = JUDGES.index(at[0]["reward"]) if at and at[0]["reward"] in JUDGES else 0
    lines = [
        f"| search at {times}x | {' | '.join(JUDGES)} | Vendi score | of | NFE | rewards | seconds |",
        f"|---|{'---:|' * (len(JUDGES) + 5)}",
    ]
    for method in sorted(means, key=lambda name: -means[name][guided]):
        *values, diverse, kept, nfe, calls, seconds = means[method]
        shown = " | ".join(f"{value:.4f}" for value in values)
        lines.append(f"| {method} | {shown} | {diverse:.2f} | {kept:.0f} | {nfe:,.0f} | {calls:,.0f} | {seconds:.1f} |")
    return "\n".join(lines)


def ranking(rows: Sequence[dict[str, Any]], equal: str) -> list[str]:
    """Methods by their mean rank, the best first."""
    ranks = _ranks(_by(rows, equal, lambda row: row["best"]))
    return sorted(ranks, key=lambda name: ranks[name])


def _by(rows: Sequence[dict[str, Any]], equal: str, value: Any) -> Mapping[tuple[str, int], Pairs]:
    found: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        if row["equal"] == equal and "best" in row:
            found[row["method"], row["times"]][row["prompt"], row["seed"]] = value(row)
    return dict(found)


def _ranks(best: Mapping[tuple[str, int], Pairs]) -> dict[str, float]:
    """Mean rank of each method, 1 the best, over the prompts and seeds that all have at a budget; NaN without any."""
    ranks: dict[str, list[float]] = {name: [] for name, _ in best}
    for n in dict.fromkeys(n for _, n in best):
        there = {name: pairs for (name, m), pairs in best.items() if m == n}
        for pair in set.intersection(*(set(pairs) for pairs in there.values())):
            for name, rank in zip(there, rankdata([-pairs[pair] for pairs in there.values()]), strict=True):
                ranks[name].append(float(rank))
    return {name: float(np.mean(found)) if found else float("nan") for name, found in ranks.items()}


def _cell(found: Pairs, ours: Pairs, is_ours: bool) -> str:
    if not found:
        return ""
    mean = f"{np.mean(list(found.values())):.4f}"
    differences = paired(found, ours)
    if is_ours or len(differences) < FEWEST:
        return mean
    difference, low, high = clustered_mean(differences)
    return f"{mean}, {difference:+.4f} ({low:+.4f} to {high:+.4f})"
