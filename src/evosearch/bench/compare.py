"""EvoSearch against best-of-N at equal NFE on a bundled pipeline: paired, with intervals, whatever comes out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evosearch import models
from evosearch.bench.cells import Cells, fingerprint
from evosearch.bench.prompts import held_out_prompts
from evosearch.bench.statistics import FEWEST, Pairs, clustered_mean, paired
from evosearch.refusals import check_class
from evosearch.resolve import algorithm_of
from evosearch.rewards import load as load_reward
from evosearch.rewards.shapes import EXACT
from evosearch.run import search
from evosearch.searches import schedules
from evosearch.types import Sample

PLAIN = "one plain sample"
BASELINE = "best-of-N"
OURS, UNSTEERED = "EvoSearch", "EvoSearch, unsteered"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    BASELINE: ("best_of_n", {}),
    "best-of-N, SDE": ("best_of_n", {"eta": 1.0}),
    "EvoSearch, as in the paper": ("evosearch", {"eta": 1.0, "rate": 0.3, "mutation": "additive"}),
    "EvoSearch, ODE": ("evosearch", {"eta": 0.0, "rate": 0.15}),
    UNSTEERED: ("evosearch", {"steered": 0}),
    OURS: ("evosearch", {}),
}
"""What is compared: name -> (algorithm, knobs). The paper's EvoSearch and that by the ODE get schedule and sizes by the
paper's rules; the last one is what a user gets who names no knob, the one before the same without steering.

The SDE stands alone, too, lest what it does to samples be taken for evolution's.
"""

BUDGETS = {500: 3, 2000: 3, 8000: 1}
"""NFE, and how many seeds each gets."""

_BY_PAPER = schedules.by_paper("evosearch", algorithm_of("evosearch").waves)


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    prompt: str
    seed: int
    budget: int


def all_cells(prompts: Sequence[str], budgets: dict[int, int] | None = None) -> list[Cell]:
    """All runs of the comparison, cheap ones first."""
    return [
        Cell(method, prompt, seed, budget)
        for budget, seeds in sorted((budgets or BUDGETS).items())
        for seed in range(seeds)
        for prompt in prompts
        for method in METHODS
    ]


def bill(todo: Sequence[Cell]) -> int:
    """NFE that these runs take at the most."""
    return sum(cell.budget for cell in todo)


def run(
    todo: Sequence[Cell],
    out: Path,
    model: str = "shapes-diffusion",
    reward: str = "shapes",
    part: tuple[int, int] = (0, 1),
    dtype: str = "float32",
) -> Iterator[Cell]:
    """Run the cells that ``out`` does not hold yet, a line of JSON each.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        model: A bundled pipeline's name, a folder or a hub id.
        reward: What guides; the rules of ``shapes`` judge in any case.
        dtype: Precision of the model; states are kept in float32 whatever it is.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.

    Yields:
        Each cell, once it is done.

    Raises:
        ValueError: The folder holds runs of another model, reward or precision, or of methods with other knobs.
    """
    facts = {"model": model, "reward": reward, "dtype": dtype, "weights": fingerprint(model, reward)}
    cells = Cells(out, facts, part)
    for row in cells.rows:
        was, now = (row.get("algorithm"), row.get("knobs")), METHODS.get(row["method"])
        if was != now:
            raise ValueError(
                f"{row['method']} must be {was} as in the runs in {out}, got {now}; or name another folder"
            )
    if not (missing := cells.missing(todo)):
        return
    pipe, judge = models.load(model, dtype=dtype), load_reward("shapes")
    steps = models.defaults(pipe).get("steps") or check_class(type(pipe))["num_inference_steps"].default
    for cell in missing:
        algorithm, knobs = METHODS[cell.method]
        by_paper = algorithm == "evosearch" and cell.method not in (OURS, UNSTEERED)
        sized = _BY_PAPER(steps, cell.budget, **knobs) if by_paper else {}
        start = time.perf_counter()
        result = search(
            pipe, cell.prompt, reward, algorithm, cell.budget, steps=steps, seed=cell.seed, progress=False,
            **knobs, **sized,
        )  # fmt: skip
        rules, plain_rules = (
            float(judge(pixels(scored.sample)[None], [cell.prompt])[0]) for scored in (result.best, result.plain)
        )
        cells.append(
            cell,
            algorithm=algorithm,
            knobs=knobs,
            curve=result.curve,
            plain=result.plain.reward,
            rules=rules,
            plain_rules=plain_rules,
            exact=rules >= EXACT,
            nfe=result.cost.nfe,
            seconds=time.perf_counter() - start,
        )
        yield cell


def table(rows: Sequence[dict[str, Any]], judged: bool = False, against: str = BASELINE) -> str:
    """Markdown: mean best reward by method and budget, exact samples, and the paired difference to one of the methods.

    Args:
        rows: Runs of one model and reward. Their plain samples are those that best-of-N began with.
        judged: By the rules, which did not guide, instead of the reward that did.
        against: The method of ``METHODS`` that the others are compared with.
    """
    best: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    exact: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        key, pair = (row["method"], row["budget"]), (row["prompt"], row["seed"])
        best[key][pair] = row["rules"] if judged else row["curve"][-1][2]
        exact[key] += row["exact"]
        if row["method"] == BASELINE and "plain" in row:
            best[PLAIN, row["budget"]][pair] = row["plain_rules"] if judged else row["plain"]
            exact[PLAIN, row["budget"]] += row["plain_rules"] >= EXACT
    shown = "rules of the best" if judged else "best reward"
    lines = [
        f"| NFE | method | runs | {shown} | exact | against {against} (95 % interval) | better / equal / worse |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for budget in sorted({row["budget"] for row in rows}):
        for method in (PLAIN, *METHODS):
            found = best[method, budget]
            if not found:
                continue
            verdict = ("", "") if method == against else _against(best[against, budget], found)
            mean = float(np.mean(list(found.values())))
            figures = (f"{budget:,}", method, len(found), f"{mean:.4f}", exact[method, budget], *verdict)
            lines.append(f"| {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def _against(base: Pairs, found: Pairs) -> tuple[str, str]:
    """Mean difference over the pairs of prompt and seed that both have, with its interval; better, equal, worse."""
    if not (differences := paired(found, base)):
        return "", ""
    mean, low, high = clustered_mean(differences)
    interval = f"({low:+.4f} to {high:+.4f})" if len(differences) >= FEWEST else "(too few prompts)"
    flat = [d for values in differences.values() for d in values]
    tally = f"{sum(d > 0 for d in flat)} / {sum(d == 0 for d in flat)} / {sum(d < 0 for d in flat)}"
    return f"{mean:+.4f} {interval}", tally


def prompts(model: str) -> list[str]:
    """The 30 held-out prompts of the comparison, three or four objects each, which move if the model makes videos."""
    return held_out_prompts(30, moving=models.makes_videos(model))


def pixels(sample: Sample) -> Tensor:
    """A picture or a video as ([F,] 3, H, W) in [0, 1]."""
    frames = [np.asarray(frame) for frame in (sample if isinstance(sample, list) else [sample])]
    found = torch.from_numpy(np.stack(frames)).movedim(-1, 1) / 255
    return found if isinstance(sample, list) else found[0]
