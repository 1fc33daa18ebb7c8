"""`evosearch resume`, `show`, `scores`, `lineage`, `verify` and `replay`: what there is to do with a run folder."""

from __future__ import annotations

import csv
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from evosearch.executors import cli as workers_cli
from evosearch.progress import hush, printable

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Particle = Annotated[str, typer.Argument(metavar="PARTICLE", help="Its id, as in the names of media, or: best, plain.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to an application."""
    for command in (resume, show, scores, lineage, verify, replay):
        app.command(no_args_is_help=True)(command)


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of those of several prompts.")],
    workers: workers_cli.Number = None,
    ray: workers_cli.Ray = None,
    deadline: workers_cli.Deadline = None,
    mixed: workers_cli.Mixed = False,
    insecure_ray: workers_cli.Insecure = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the paths of the best pictures alone.")] = False,
) -> None:
    """Go on with a run where it stopped, however it ended: Ctrl-C, a crash, a full disk, a lost machine.

    What comes out is the same, to the bit, as without the stop.
    """
    from evosearch.resuming import resume as go_on
    from evosearch.runs import kept

    hush()
    workers = workers_cli.workers_of(workers, ray, deadline, mixed, insecure_ray)
    found = go_on(run, progress=not quiet, workers=workers)
    results = found if isinstance(found, list) else [found]
    if not results:
        typer.echo("all runs are done already", err=True)
    for result in results:
        best = result.best
        if isinstance(found, list):
            typer.echo(f"{best.reward:.4g}  {printable(str(result.settings['prompt']))}")
            continue
        path = run / kept(run)[best.id]["file"]
        typer.echo(path) if quiet else typer.echo(
            f"best reward   {best.reward:.4g}, plain sample {result.plain.reward:.4g}\nbest sample   {path}\n"
            f"report        {run / 'report.html'}"
        )


def show(run: Run) -> None:
    """Say what a run is, how far it came, and what it found; one that is going on is not disturbed."""
    from evosearch.runs import kept, summary

    for name, words in summary(run).items():
        typer.echo(f"{name:13} {printable(words)}")
    for entry in kept(run).values():
        typer.echo(f"  {entry['id']:016x}  {_number(entry['reward'])}  {entry['file'] or ''}")


def scores(
    run: Run,
    out: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write there.  [default: print]")] = None,
) -> None:
    """List all particles that a run has scored, as CSV."""
    from evosearch.runs import Score
    from evosearch.runs import scores as scored

    found = list(scored(run))
    with nullcontext(sys.stdout) if out is None else out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Score.__dataclass_fields__)
        for score in found:
            parent = "" if score.parent < 0 else f"{score.parent:016x}"
            reward = "" if math.isnan(score.reward) else repr(score.reward)
            table.writerow(
                [f"{score.id:016x}", parent, score.level, reward, score.nfe, f"{score.seconds:.3f}", score.digest]
            )


def lineage(run: Run, particle: Particle) -> None:
    """Show where a particle comes from: its ancestors as far as they were scored, the first one first."""
    from evosearch.runs import lineage as line

    for score in line(run, _id(run, particle)):
        typer.echo(f"{score.id:016x}  level {score.level:3}  reward {_number(score.reward):>8}  at {score.nfe:,} NFE")


def verify(run: Run) -> None:
    """Read all that a run wrote and compare it with its digests; exit code 65 where something is damaged."""
    from evosearch.runs import verify as check

    found = check(run)
    for sentence in found.wrong:
        typer.echo(printable(sentence), err=True)
    typer.echo(f"{found.rows:,} calls and {found.blobs:,} files of {found.bytes / 2**20:,.1f} MiB: ", nl=False)
    typer.echo(f"{len(found.wrong):,} damaged" if found.wrong else "all is what was written")
    if found.wrong:
        typer.echo("evosearch resume makes what is damaged again", err=True)
        raise typer.Exit(65)


def replay(
    run: Run,
    particle: Particle = "best",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the picture there.")] = None,
) -> None:
    """Make a kept sample again from its genome alone, and compare it with what was saved; 65 where it differs."""
    from evosearch.replaying import replay as again

    hush()
    id = _id(run, particle)
    same, sample = again(run, id)
    if out is not None:
        (sample[0] if isinstance(sample, list) else sample).save(out)
    typer.echo(f"{id:016x} is {'the same to the bit' if same else 'another sample than was saved'}")
    if not same:
        raise typer.Exit(65)


def _id(run: Path, text: str) -> int:
    from evosearch.manifest import read_manifest

    manifest = read_manifest(run)
    named = {"best": next(iter(manifest.get("kept", [])), None), "plain": manifest.get("plain")}
    if text in named:
        if (entry := named[text]) is None:
            raise ValueError(f"run {run} has no {text} sample yet; see: evosearch show {run}")
        return entry["id"]
    try:
        return int(text, 16)
    except ValueError:
        raise ValueError(f"PARTICLE must be an id in hexadecimal, best or plain, got {text!r}") from None


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
