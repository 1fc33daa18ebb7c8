"""What drafts foretell of the samples that they stand for, and what they cost: fewer steps, and features reused.

The same noises are denoised in all steps and as drafts of each kind. Those drafts are good that put them in the order
of the samples, for few NFE.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evosearch import models
from evosearch.bench.heritability import REWARDS, judge, measured, told
from evosearch.bench.prompts import held_out_prompts
from evosearch.drafts import levels_of
from evosearch.rewards import TensorReward
from evosearch.types import Sampler

__all__ = ["REWARDS", "all_cells", "bill", "run", "table"]

PROMPTS, NOISES, FINISHED = 6, 32, 4
_SEED = 404  # of the prompts: others than those of the comparisons


@dataclass(frozen=True)
class Kind:
    """One kind of drafts: steps as a share of all, and a feature cache's name."""

    share: float
    cache: str | None = None


KINDS = (
    *[Kind(share) for share in (0.15, 0.2, 0.25, 0.35, 0.5)],
    *[Kind(share, cache) for cache in ("first_block", "taylor_seer") for share in (0.25, 0.5, 1.0)],
)


@dataclass(frozen=True)
class Cell:
    """All drafts of one prompt."""

    prompt: str


def all_cells(model: str) -> list[Cell]:
    """The prompts of a model."""
    return [Cell(text) for text in held_out_prompts(PROMPTS, seed=_SEED, moving=models.makes_videos(model))]


def bill(todo: Sequence[Cell], steps: int = 20) -> int:
    """NFE that these take at the most, caches counted as if they saved nothing."""
    return round(len(todo) * NOISES * steps * (1 + sum(kind.share for kind in KINDS)))


def run(
    todo: Sequence[Cell], out: Path, model: str, part: tuple[int, int] = (0, 1), dtype: str = "float32"
) -> Iterator[Cell]:
    """Draft the prompts that ``out`` does not hold yet.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        model: A bundled pipeline's name, a folder or a hub id.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.
        dtype: Precision of the model.

    Yields:
        Each cell, once it is done.
    """
    yield from measured(todo, out, model, part, dtype, drafts_of)


def drafts_of(sampler: Sampler, rewards: Mapping[str, TensorReward], prompt: str) -> dict[str, Any]:
    """Samples and drafts of the same noises, by their rewards.

    Returns:
        ``steps``; ``finished``, (NOISES,) rewards by name, and the ``seconds`` that denoising took; ``drafts``, a list
        of kinds that the sampler's network allows: ``share``, ``cache``, ``nfe`` of one, ``seconds`` and ``rewards``.
    """
    judged, noises = judge(sampler, rewards, prompt), sampler.prior(NOISES)
    found: list[dict[str, Any]] = []
    for kind in (Kind(1.0), *KINDS):
        cheap = sampler
        try:
            cheap = sampler if kind.cache is None else sampler.cached(kind.cache)
        except ValueError:  # a network without caches
            continue
        levels = levels_of(sampler.steps, round(kind.share * sampler.steps))
        before, start = cheap.computed, time.perf_counter()
        ends, _ = cheap.run(noises, sampler.steps, through=levels[1:-1])
        seconds, nfe = time.perf_counter() - start, cheap.computed - before
        found.append(
            {"share": kind.share, "cache": kind.cache, "nfe": nfe / NOISES, "seconds": seconds, "rewards": judged(ends)}
        )
    whole, *drafts = found
    return {"steps": sampler.steps, "finished": whole["rewards"], "seconds": whole["seconds"], "drafts": drafts}


def table(rows: Sequence[dict[str, Any]], reward: str) -> str:
    """Markdown: of each kind its NFE and seconds, how it goes with the samples, and what its best ones come to.

    The last column is the best of the `FINISHED` samples whose drafts are best, less the best of all: what is lost by
    finishing those alone, 0 at best.
    """
    steps = rows[0]["steps"]
    lines = ["| draft | NFE | seconds | correlation | best kept |", "|---|---:|---:|---:|---:|"]
    for kind in KINDS:
        pairs = [(row, d) for row in rows for d in row["drafts"] if Kind(d["share"], d["cache"]) == kind]
        if not pairs:
            continue
        name = f"{round(kind.share * steps)} steps" + (f", {kind.cache}" if kind.cache else "")
        nfe = np.mean([draft["nfe"] for _, draft in pairs])
        seconds = np.median([draft["seconds"] / row["seconds"] for row, draft in pairs])
        both = [np.stack([row["finished"][reward], draft["rewards"][reward]], 1) for row, draft in pairs]
        kept = [x[np.argsort(-x[:, 1])[:FINISHED], 0].max() - x[:, 0].max() for x in both]
        lines.append(f"| {name} | {nfe:.1f} | {seconds:.0%} | {told(both)} | {np.mean(kept):+.3f} |")
    return "\n".join([*lines, f"| finished | {steps} | 100% | | |"])
