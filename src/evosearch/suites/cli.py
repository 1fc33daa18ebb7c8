"""`evosearch export` and `evosearch import-scores`: to the scorers of benchmark suites, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from evosearch.progress import printable

Name = Annotated[
    Literal["geneval", "vbench", "vbench2"], typer.Argument(metavar="SUITE", help="geneval, vbench or vbench2.")
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Of generate --prompts; several of other seeds.")]


def export(
    name: Name,
    runs: Runs,
    out: Annotated[Path, typer.Option(help="New folder.")],
    samples: Annotated[
        int | None, typer.Option(help="Samples of a prompt.  [default: as many as the suite asks for]")
    ] = None,
) -> None:
    """Lay samples out as the scorer of a suite looks for them.

    The best of every RUN come first, then the second best of every RUN, and so on.
    """
    from evosearch.suites import suite
    from evosearch.suites.layout import write
    from evosearch.suites.runs import missing, read_runs

    searched = read_runs(runs)
    written = write(suite(name), searched, out, samples)
    for source, lacking in missing(searched).items():
        typer.echo(f"note: {lacking:,} prompts of {printable(source)} are not in these runs", err=True)
    if cut := sum(not prompt.whole for prompt in searched):
        typer.echo(f"note: {cut:,} prompts were not searched to the end", err=True)
    typer.echo(f"{written:,} samples of {len(searched):,} prompts are in {out}; to score them: docs/prompt-sets.md")


def import_scores(
    name: Name,
    runs: Runs,
    result_file: Annotated[Path, typer.Argument(metavar="RESULT_FILE", help="What the scorer wrote.")],
) -> None:
    """Store a scorer's results beside the runs, in scores.json, and show them.

    Give the same RUNs as to export. Several files, one by one: what they tell adds up.
    """
    from evosearch.suites import suite
    from evosearch.suites.scores import store, table

    sums, samples = store(suite(name), runs, result_file)
    typer.echo(table(sums))
    typer.echo(f"\nscores of {samples:,} samples are in the scores.json of their run folders")
