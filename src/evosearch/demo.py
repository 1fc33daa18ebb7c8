"""The demo: hard prompts for each bundled pipeline, by best-of-N and by EvoSearch at equal cost, side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evosearch import models, report, strict_json
from evosearch.curve import number
from evosearch.resolve import algorithm_of, check_seed
from evosearch.result import Result
from evosearch.rewards.shapes import EXACT
from evosearch.run import search
from evosearch.store import whole

REWARD = "shapes"
MODELS = {
    "shapes-diffusion": "pictures by diffusion",
    "shapes-flow": "pictures by flow",
    "shapes-video": "videos by flow",
}
METHODS = {"best_of_n": "best-of-N", "evosearch": "EvoSearch"}
CASES = (
    ("shapes-diffusion", "a red star left of a blue circle and two green squares"),
    ("shapes-flow", "two green circles and a cyan circle"),
    ("shapes-video", "four cyan squares move left"),
    ("shapes-diffusion", "three red stars and a cyan circle"),
    ("shapes-flow", "a green circle and two blue stars"),
    ("shapes-video", "two cyan squares move up and a purple square moves right"),
)
"""Bundled pipeline and prompt: counts, relations, motions, pairs never seen together; plain samples mostly fail."""

QUICK = 3
"""Cases of the quick demo, one a pipeline."""

NFE, QUICK_NFE = 600, 300
"""Budgets of one search."""

_MARK = "demo.json"


@dataclass(frozen=True)
class Row:
    """One prompt of a pipeline, searched by every method."""

    model: str
    prompt: str
    results: dict[str, Result]

    @property
    def rewards(self) -> list[float]:
        """Of the plain sample, then of each method's best."""
        return [next(iter(self.results.values())).plain.reward, *(r.best.reward for r in self.results.values())]


def run(out: Path, *, budget: int, cases: Sequence[tuple[str, str]] = CASES, seed: int = 0) -> Iterator[Row]:
    """Search every prompt by every method, each into a run folder of its own.

    Args:
        out: The demo's folder; must not exist, be empty or hold a former demo, which goes.
        budget: NFE of one search.
        cases: Bundled pipelines, and what to generate with them.
        seed: Run seed; both methods begin with the same noises.

    Yields:
        A row a prompt; the index page shows those that have been.
    """
    check_seed(seed)
    for model, method in product({model for model, _ in cases}, METHODS):
        algorithm_of(method).fit(models.defaults(model)["steps"], budget)  # too small? then the former demo stays
    _claim(out)
    pipes: dict[str, Any] = {}
    rows: list[Row] = []
    for k, (model, prompt) in enumerate(cases):
        pipe = pipes[model] = pipes.get(model) or models.load(model)
        results: dict[str, Result] = {
            method: search(pipe, prompt, REWARD, method, budget, seed=seed, run_dir=out / _folder(k, method))
            for method in METHODS
        }
        rows.append(Row(model, prompt, results))
        with whole(out / "index.html") as part:
            part.write_text(index(rows), encoding="utf-8")
        yield rows[-1]


def table(rows: Sequence[Row]) -> Table:
    """Rewards for the terminal; exact samples are ticked."""
    shown = Table(box=SIMPLE_HEAD, show_footer=True, pad_edge=False)
    shown.add_column("prompt", "exactly as asked", ratio=1)
    for k, name in enumerate(("plain", *METHODS.values())):
        exact = sum(row.rewards[k] >= EXACT for row in rows)
        shown.add_column(name, f"{exact} of {len(rows)}", justify="right", no_wrap=True)
    costs = [result.cost for row in rows for result in row.results.values()]
    shown.add_column("NFE", f"{sum(cost.nfe for cost in costs):,}", justify="right", no_wrap=True)
    shown.add_column("seconds", f"{sum(cost.seconds for cost in costs):.0f}", justify="right", no_wrap=True)
    for row in rows:
        spent = [result.cost for result in row.results.values()]
        shown.add_row(
            f"{row.prompt}\n[dim]{row.model}[/]",
            *(f"{'✓ ' if reward >= EXACT else ''}{number(reward)}" for reward in row.rewards),
            f"{sum(cost.nfe for cost in spent):,}",
            f"{sum(cost.seconds for cost in spent):.0f}",
        )
    return shown


def index(rows: Sequence[Row]) -> str:
    """The page of all prompts: plain, best-of-N and EvoSearch side by side, with links to their reports."""
    names = ("plain sampling", *METHODS.values())
    exact = [sum(row.rewards[k] >= EXACT for row in rows) for k in range(len(names))]
    verdict = ", ".join(f"{name} {count} of {len(rows)}" for name, count in zip(names, exact, strict=True))
    spent = max(result.cost.nfe for row in rows for result in row.results.values())
    return report.page(
        "EvoSearch demo",
        [
            f'<p class="over">{", ".join(dict.fromkeys(row.model for row in rows))}</p>',
            "<h1>More compute, better samples</h1>",
            f'<p class="lead">The same pipeline, the same seed, at most {spent:,} NFE for each search, no training. '
            f"Exactly what the prompt asks for: {verdict}.</p>",
            *(_section(k, row) for k, row in enumerate(rows)),
        ],
    )


def _section(k: int, row: Row) -> str:
    first = next(iter(row.results.values()))
    figures = [_figure("plain", report.image(first.plain.sample, first.settings, "plain"), first.plain.reward)]
    for method, result in row.results.items():
        link = f'<a href="{_folder(k, method)}/report.html">{METHODS[method]}</a>'
        shown = report.image(result.best.sample, result.settings, METHODS[method])
        figures.append(_figure(link, shown, result.best.reward))
    title = f"<h2>{report.text(row.prompt)} <small>{row.model}, {MODELS[row.model]}</small></h2>"
    return f'<section>{title}<div class="trio">{"".join(figures)}</div></section>'


def _figure(name: str, image: str, reward: float) -> str:
    verdict = ' <span class="exact">exact</span>' if reward >= EXACT else ""
    return f"<figure>{image}<figcaption>{name}<br><b>{number(reward)}</b>{verdict}</figcaption></figure>"


def _folder(k: int, method: str) -> str:
    return f"{k:02d}-{method}"


def _claim(out: Path) -> None:
    """Take an empty folder, or clear away a former demo and nothing else."""
    if out.exists() and not (out / _MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out must be a new or empty folder, or a former demo's, but {out} is none; name another")
    for method in METHODS:
        for former in out.glob(f"[0-9][0-9]-{method}"):
            shutil.rmtree(former)
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").unlink(missing_ok=True)
    with whole(out / _MARK) as part:
        part.write_text(strict_json.dumps({"schema": 1, "kind": "evosearch demo"}) + "\n")
