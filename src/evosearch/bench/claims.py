"""What the papers say of their searches, put to the test where it costs nothing: on the toy mixture, seed by seed.

A claim is a difference that ought to be above 0. Where it is not, the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evosearch.bench import toy
from evosearch.bench.cells import Cells, spread
from evosearch.bench.statistics import small_mean
from evosearch.path import NoisePath
from evosearch.sampler import DenoiserSampler

SEEDS = 40


def layout(x: Tensor) -> Tensor:
    """Reward of pictures (N, 1, 16, 16): how near their quarters' means are to a checkerboard."""
    wanted = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return -(torch.nn.functional.avg_pool2d(x, 8)[:, 0] - wanted).square().mean((1, 2))


def _pictures(seed: int) -> DenoiserSampler:
    """White noise as pictures."""
    return DenoiserSampler(lambda x, alpha, _: alpha * x, NoisePath.cosine(5), (1, 16, 16), seed=seed)


def _best(name: str, world: str, seed: int, nfe: int = toy.NFE, **knobs: Any) -> float:
    """The reward that a search comes to."""
    if world == "layout":
        return toy.solve(name, _pictures(seed), layout, seed, **knobs)[1]
    sampler = toy.MIXTURE.sampler(toy.STEPS, seed=seed)
    return toy.solve(name, sampler, toy.REWARDS[world], seed, **toy.fitted(name, nfe, **knobs))[1]


def _effort(world: str, seed: int, quantile: float) -> int:
    """NFE that backtracking takes to reach what this share of plain samples does not reach."""
    calls = 0

    def counted(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        calls += len(x)
        return toy.MIXTURE.denoise(x, alpha, sigma)

    plain = toy.REWARDS[world](toy.MIXTURE.sample(2000, torch.Generator().manual_seed(0)))
    sampler = DenoiserSampler(counted, NoisePath.cosine(toy.STEPS), (2,), seed=seed, batch_size=1)
    toy.solve("backtrack", sampler, toy.REWARDS[world], seed, nfe=2000, threshold=float(plain.quantile(quantile)))
    return calls


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        search: Whose.
        says: What its paper, or a comparison, says.
        gain: (world, seed) to the difference that is above 0 where that is so.
        worlds: Where it is looked at.
    """

    search: str
    says: str
    gain: Callable[[str, int], float]
    worlds: tuple[str, ...] = ("circle", "peaks")


CLAIMS = (
    Claim(
        "best_of_n",
        "ahead of FK-steering at 2,000 NFE (so in the comparison of DTS)",
        lambda w, s: _best("best_of_n", w, s, 2000) - _best("particles", w, s, 2000, preset="fk"),
    ),
    Claim(
        "zero_order",
        "ahead of best-of-N at 100 samples (so in the comparison of TRS)",
        lambda w, s: _best("zero_order", w, s, n=100) - _best("best_of_n", w, s, n=100),
    ),
    Claim(
        "trust_region",
        "ahead of zero-order search at 400 samples",
        lambda w, s: _best("trust_region", w, s, n=400) - _best("zero_order", w, s, n=400),
    ),
    Claim(
        "spectral",
        "the coarse band alone is ahead of best-of-N at 50 samples",
        lambda w, s: _best("spectral", w, s, n=50) - _best("best_of_n", w, s, n=50),
        ("layout",),
    ),
    Claim(
        "evolution_strategy",
        "CMA-ES is ahead of best-of-N at 200 samples",
        lambda w, s: _best("evolution_strategy", w, s, n=200) - _best("best_of_n", w, s, n=200),
        ("layout",),
    ),
    Claim(
        "particles",
        "BFS's setting is ahead of FK-steering's",
        lambda w, s: _best("particles", w, s, preset="bfs") - _best("particles", w, s, preset="fk"),
    ),
    Claim(
        "svdd",
        "ahead of best-of-N, sampling at the target's temperature",
        lambda w, s: _best("svdd", w, s) - _best("best_of_n", w, s),
    ),
    Claim(
        "blockwise",
        "ahead of best-of-N, sampling at the target's temperature",
        lambda w, s: _best("blockwise", w, s) - _best("best_of_n", w, s),
    ),
    Claim(
        "search_over_paths",
        "behind best-of-N (so in the comparisons of RBF and BFS)",
        lambda w, s: _best("best_of_n", w, s) - _best("search_over_paths", w, s),
    ),
    Claim(
        "rollover",
        "ahead of SVDD that takes the best",
        lambda w, s: _best("rollover", w, s) - _best("svdd", w, s, temperature=0.0),
    ),
    Claim(
        "epsilon_greedy",
        "ahead of zero-order search",
        lambda w, s: _best("epsilon_greedy", w, s) - _best("zero_order", w, s),
    ),
    Claim(
        "backtrack",
        "easy thresholds take fewer NFE: the median's and the best tenth's",
        lambda w, s: _effort(w, s, 0.9) - _effort(w, s, 0.5),
    ),
    Claim("demon", "ahead of best-of-N", lambda w, s: _best("demon", w, s) - _best("best_of_n", w, s)),
    Claim(
        "tree",
        "behind FK-steering at 200 NFE",
        lambda w, s: _best("particles", w, s, 200, preset="fk") - _best("tree", w, s, 200),
    ),
    Claim(
        "tree",
        "ahead of FK-steering at 2,000 NFE",
        lambda w, s: _best("tree", w, s, 2000) - _best("particles", w, s, 2000, preset="fk"),
    ),
    Claim(
        "beam",
        "4 · 2 with a lookahead of 6 (840 NFE) is ahead of 4 · 8 with 1 (640)",
        lambda w, s: (
            _best("beam", w, s, 10_000, beams=4, children=2, lookahead=6)
            - _best("beam", w, s, 10_000, beams=4, children=8, lookahead=1)
        ),
    ),
    Claim(
        "lidar",
        "a bank of 50 and one sample (270 NFE) are ahead of best-of-13 (260)",
        lambda w, s: _best("lidar", w, s, bank=50) - _best("best_of_n", w, s, n=13),
    ),
    Claim(
        "reno",
        "50 rounds (1,000 NFE, 3,000 passes) are ahead of best-of-50 (1,000 NFE)",
        lambda w, s: _best("reno", w, s, rounds=50) - _best("best_of_n", w, s, n=50),
    ),
    Claim(
        "paper_evosearch",
        "ahead of best-of-N of its own solver",
        lambda w, s: _best("paper_evosearch", w, s) - _best("best_of_n", w, s, eta=1.0),
    ),
    Claim("evosearch", "ahead of best-of-N", lambda w, s: _best("evosearch", w, s) - _best("best_of_n", w, s)),
)


@dataclass(frozen=True)
class Cell:
    """One claim in one world."""

    search: str
    says: str
    world: str


def all_cells() -> list[Cell]:
    """All claims in all their worlds."""
    return [Cell(claim.search, claim.says, world) for claim in CLAIMS for world in claim.worlds]


def run(todo: Sequence[Cell], out: Path, workers: int | None = None) -> Iterator[Cell]:
    """Measure the claims that ``out`` does not hold yet, each over all seeds."""
    facts = {"seeds": SEEDS, "steps": toy.STEPS, "budget": toy.NFE, "temperature": toy.TEMPERATURE}
    cells = Cells(out, facts)
    if not (missing := cells.missing(todo)):
        return
    for cell, gains in spread(missing, _gains, workers):
        cells.append(cell, gains=gains)
        yield cell


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the mean difference of each claim with its 95 % interval over seeds, and what that makes of it."""
    lines = ["| search | claim | world | difference (95 % interval) | seen |", "|---|---|---|---:|---|"]
    for cell in all_cells():
        for row in rows:
            if (row["search"], row["says"], row["world"]) == (cell.search, cell.says, cell.world):
                mean, low, high = small_mean(row["gains"])
                seen = "yes" if low > 0 else "no, the contrary" if high < 0 else "undecided"
                figures = f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
                lines.append(f"| `{cell.search}` | {cell.says} | {cell.world} | {figures} | {seen} |")
    return "\n".join(lines)


def _gains(cell: Cell) -> tuple[Cell, list[float]]:
    (claim,) = (c for c in CLAIMS if (c.search, c.says) == (cell.search, cell.says))
    return cell, [float(claim.gain(cell.world, seed)) for seed in range(SEEDS)]
