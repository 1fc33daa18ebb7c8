"""`evosearch bench`: the benchmarks as commands."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from evosearch.bench.scale_cli import scale
from evosearch.progress import hush

app = typer.Typer(help="Benchmarks: every claim as a command.", no_args_is_help=True)

app.command()(scale)

_MATPLOTLIB = "bench {} needs matplotlib for its figures; install it with: pip install 'evosearch[bench]'"

Model = Annotated[str, typer.Option(help="Bundled pipeline, folder or hub id.")]
Part = Annotated[str, typer.Option(help="k/n: the k-th of n processes that share the work, from 0.")]
Results = Annotated[Path, typer.Option(help="Folder of the results; what is in it is not run again.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of this process.")]
Table = Annotated[bool, typer.Option("--table", help="Print the table of what is there, run nothing.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.  [default: one a core]")]
Precision = Annotated[str, typer.Option(help="Precision of the model: float32 or bfloat16.")]


@app.command()
def overhead(
    model: Model = "shapes-diffusion",
    algorithm: Annotated[str, typer.Option(help="A search.")] = "best_of_n",
    n: Annotated[int, typer.Option(min=1, help="Samples of the stock pipeline, in one batch.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 5,
) -> None:
    """Time a search against the stock pipeline for as many NFE and decodes, in the same batches."""
    from evosearch.bench.overhead import overhead as measure
    from evosearch.models import class_of
    from evosearch.resolve import algorithm_of

    hush()
    class_of(model)
    algorithm_of(algorithm)
    typer.echo(f"bill: {((2 * runs + 3) * steps + (runs + 1) * 4) * n} NFE")
    found = measure(model, algorithm=algorithm, n=n, steps=steps, runs=runs)
    shown = ((algorithm, found.search), ("stock pipeline", found.steps), ("its decoding", found.decode))
    for name, seconds in shown:
        typer.echo(f"{name:15} " + "  ".join(f"{s:.2f}" for s in seconds) + " s")
    typer.echo(f"expected of {found.nfe:.2f} times its NFE and {found.decodes:.2f} its decodes: {found.expected:.2f} s")
    typer.echo(f"ratio {found.ratio:.3f}, {found.nfe_per_second:.0f} NFE/s; {found.per_nfe:.3f} at equal NFE alone")


@app.command()
def compare(
    out: Results = Path("runs/compare"),
    model: Model = "shapes-diffusion",
    reward: Annotated[str, typer.Option(help="What guides; the rules judge in any case.")] = "shapes",
    part: Part = "0/1",
    table: Table = False,
    threads: Threads = 1,
    dtype: Precision = "float32",
    seeds: Annotated[str, typer.Option(help="Seeds of each budget, NFE:seeds by commas.")] = "500:3,2000:3,8000:1",
    against: Annotated[str, typer.Option(help="The method that the table compares the others with.")] = "best-of-N",
) -> None:
    """Compare EvoSearch with best-of-N at equal NFE over 30 held-out prompts; resumes by cell."""
    from evosearch.bench import compare as recipe

    if against not in recipe.METHODS:
        raise ValueError(f"--against must be one of {', '.join(map(repr, recipe.METHODS))}, got {against!r}")
    if not table:
        share, chosen = _begin(part, threads, dtype, reward), _seeds(seeds)
        todo = recipe.all_cells(recipe.prompts(model), chosen)
        _say_bill(recipe, todo, out, model, "runs")
        for cell in recipe.run(todo, out, model, reward, part=share, dtype=dtype):
            typer.echo(f"{cell.budget:6} NFE  seed {cell.seed}  {cell.method}: {cell.prompt}")
    rows = _results(out)
    typer.echo(recipe.table(rows, against=against))
    if {row.get("reward", "shapes") for row in rows} - {"shapes"}:
        typer.echo("\njudged by the rules:\n" + recipe.table(rows, judged=True, against=against))


@app.command()
def searches(
    out: Results = Path("runs/searches"),
    model: Model = "shapes-diffusion",
    reward: Annotated[
        str, typer.Option(help="What guides; the rules and the learned rewards judge in any case.")
    ] = "shapes",
    part: Part = "0/1",
    table: Table = False,
    threads: Threads = 1,
    dtype: Precision = "float32",
    times: Annotated[str, typer.Option(help="Budgets in samples' worth, by commas.")] = "10,30,100,300,1000",
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts.")] = 8,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each prompt.")] = 1,
    equal: Annotated[Literal["nfe", "seconds", "both"], typer.Option(help="What is equal.")] = "both",
    only: Annotated[list[str] | None, typer.Option("--search", help="One of them alone; may be given again.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="10x, two prompts: minutes.")] = False,
) -> None:
    """Compare all searches at equal NFE and at equal seconds; resumes by cell."""
    from evosearch.bench import searches as recipe
    from evosearch.bench.searches_figure import figure

    if find_spec("matplotlib") is None:
        raise ValueError(_MATPLOTLIB.format("searches"))
    if not table:
        share = _begin(part, threads, dtype, reward)
        known = recipe.methods(reward)
        if unknown := sorted({*(only or ())} - {*known}):
            raise ValueError(f"--search must be one of {'; '.join(known)}, got {unknown[0]!r}")
        budgets, texts = ([10], 2) if quick else (_times(times), prompts)
        kinds = recipe.KINDS if equal == "both" else (equal,)
        todo = recipe.all_cells(model, reward, budgets, texts, seeds, kinds, only or ())
        _say_bill(recipe, todo, out, model, "runs")
        for cell in recipe.run(todo, out, model, reward, part=share, dtype=dtype):
            typer.echo(f"{cell.times:5}x in {cell.equal}, seed {cell.seed}  {cell.method}: {cell.prompt}")
    rows = _results(out)
    for kind in dict.fromkeys(row["equal"] for row in rows):
        most = max(row["times"] for row in rows if row["equal"] == kind)
        typer.echo(f"\nat equal {kind}:\n{recipe.table(rows, kind)}\n\n{recipe.judged(rows, kind, most)}")
    figure(rows).savefig(out / "searches.png", dpi=120)
    typer.echo(f"\nsaved {out / 'searches.png'}")


@app.command()
def saturation(
    out: Results = Path("runs/saturation"),
    model: Model = "shapes-diffusion",
    part: Part = "0/1",
    table: Table = False,
    threads: Threads = 1,
    dtype: Precision = "float32",
) -> None:
    """Is the world rich enough? Best of 10, 100 and 1,000 samples of the hardest prompts; resumes by cell."""
    from evosearch.bench import saturation as recipe

    hush()
    if not table:
        share, todo = _begin(part, threads, dtype), recipe.all_cells(model)
        _say_bill(recipe, todo, out, model, "prompts")
        for cell in recipe.run(todo, out, model, part=share, dtype=dtype):
            typer.echo(cell.prompt)
    typer.echo(recipe.table(_results(out)))


@app.command()
def heritability(
    out: Results = Path("runs/heritability"),
    model: Model = "shapes-diffusion",
    part: Part = "0/1",
    table: Table = False,
    threads: Threads = 1,
    dtype: Precision = "float32",
) -> None:
    """How much of its parent's reward a child has, by level, mutation rate and solver; resumes by cell."""
    from evosearch.bench import heritability as recipe
    from evosearch.bench.heritability_figure import figure

    if find_spec("matplotlib") is None:
        raise ValueError(_MATPLOTLIB.format("heritability"))
    if not table:
        share, todo = _begin(part, threads, dtype), recipe.all_cells(model)
        _say_bill(recipe, todo, out, model, "cells")
        for cell in recipe.run(todo, out, model, part=share, dtype=dtype):
            typer.echo(f"eta {cell.eta:g}: {cell.prompt}")
    rows = _results(out)
    for reward in recipe.REWARDS:
        for eta, solver in zip(recipe.ETAS, ("ODE", "SDE"), strict=True):
            typer.echo(f"\n{reward}, {solver}:\n{recipe.table(rows, reward, eta)}")
        typer.echo(f"\n{reward}, foretold:\n{recipe.foretold(rows, reward)}")
    figure(rows).savefig(out / "heritability.png", dpi=120)
    typer.echo(f"saved {out / 'heritability.png'}")


@app.command()
def drafts(
    out: Results = Path("runs/drafts"),
    model: Model = "shapes-flow",
    part: Part = "0/1",
    table: Table = False,
    threads: Threads = 1,
    dtype: Precision = "float32",
) -> None:
    """What drafts in fewer steps, or with features reused, foretell of their samples; resumes by cell."""
    from evosearch.bench import drafts as recipe

    if not table:
        share, todo = _begin(part, threads, dtype), recipe.all_cells(model)
        _say_bill(recipe, todo, out, model, "prompts")
        for cell in recipe.run(todo, out, model, part=share, dtype=dtype):
            typer.echo(cell.prompt)
    rows = _results(out)
    for reward in recipe.REWARDS:
        typer.echo(f"\n{reward}:\n{recipe.table(rows, reward)}")


@app.command()
def claims(out: Results = Path("runs/claims"), table: Table = False, workers: Workers = None) -> None:
    """What the papers say of their searches, on the toy mixture: a difference and its interval for each claim."""
    from evosearch.bench import claims as recipe
    from evosearch.bench.cells import missing, read

    if not table:
        todo = recipe.all_cells()
        left = missing(todo, read(out))
        typer.echo(
            f"bill: {len(left)} of {len(todo)} claims are left, {recipe.SEEDS} seeds of the toy mixture each; "
            f"{len(left) / len(todo) * 3:.1f} min on two cores"
        )
        for done, cell in enumerate(recipe.run(todo, out, workers), 1):
            typer.echo(f"{done:3} of {len(left)}  {cell.search}, {cell.world}: {cell.says}")
    typer.echo(recipe.table(_results(out)))


@app.command()
def hacking(out: Results = Path("runs/hacking"), part: Part = "0/1", table: Table = False) -> None:
    """When the alarm of reward hacking rings: shapes_clip pushed hard, the rules held out, and the other way round."""
    from evosearch.bench import hacking as recipe

    if not table:
        share, todo = _begin(part, 1, "float32"), recipe.all_cells()
        _say_bill(recipe, todo, out, "shapes-diffusion", "searches")
        for cell in recipe.run(todo, out, share):
            typer.echo(f"{cell.guide}: {cell.prompt}")
    typer.echo(recipe.table(_results(out)))


@app.command()
def toy(out: Results = Path("runs/toy"), table: Table = False, workers: Workers = None) -> None:
    """Searches and fine-tuning in the plane, against the exact target: tables, and a figure for each reward."""
    from evosearch.bench import toy as recipe
    from evosearch.bench.cells import missing, read
    from evosearch.bench.toy_figure import figure

    if find_spec("matplotlib") is None:
        raise ValueError(_MATPLOTLIB.format("toy"))
    if not table:
        todo = recipe.all_cells()
        left = missing(todo, read(out))
        typer.echo(
            f"bill: {len(left)} of {len(todo)} clouds are left, {recipe.bill(left):,} NFE of the toy mixture; minutes"
        )
        for done, cell in enumerate(recipe.run(todo, out, workers), 1):
            typer.echo(f"{done:4} of {len(left)}  {cell.reward}, seed {cell.seed}: {cell.method}")
    rows = _results(out)
    for reward in recipe.REWARDS:
        typer.echo(f"\n{reward}:\n{recipe.table(rows, reward)}")
        figure(rows, reward).savefig(out / f"{reward}.png", dpi=120)
        typer.echo(f"saved {out / reward}.png")


@app.command()
def device(
    model: Annotated[list[str] | None, typer.Option(help="One of them alone, by its name.  [default: all]")] = None,
    small: Annotated[bool, typer.Option("--small", help="Tiny sizes, to try the command itself.")] = False,
) -> None:
    """Time the large models at their real sizes with random weights: NFE/s, best micro-batch, memory."""
    import torch

    from evosearch.bench import device as recipe
    from evosearch.models import accelerator

    hush()
    names = [case.name for case in recipe.CASES]
    if unknown := set(model or ()) - set(names):
        raise ValueError(f"--model must be one of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    where = accelerator()
    if where == "cpu" and not small:
        raise ValueError("bench device needs an accelerator, and there is none here; --small tries it without")
    chosen = [case for case in recipe.CASES if not model or case.name in model]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else where
    batches = (1, 2) if small else (1, 2, 4, 8, 16)
    typer.echo(f"bill: {len(chosen)} models on {name}, {recipe.bill(batches):,} NFE each at the most")
    rows: list[recipe.Row] = []
    try:
        for case in chosen:
            for row in recipe.measure(case, full=not small, device=where, batches=batches):
                typer.echo(row)
                rows.append(row)
    finally:
        typer.echo(recipe.table(rows))


@app.command()
def chaos(
    out: Annotated[Path, typer.Option(help="Folder for what the runs write.")] = Path("runs/chaos"),
    model: Model = "shapes-diffusion",
    short: Annotated[bool, typer.Option("--short", help="A few trials of each kind: minutes, not an hour.")] = False,
) -> None:
    """Kill runs, damage their files, fill their disks, take their memory, race for them; count what comes of it."""
    import torch

    from evosearch.bench.chaos import all_trials

    hush()
    torch.set_num_threads(1)
    wrong = 0
    for trials in all_trials(model, out, long=not short):
        typer.echo(str(trials))
        wrong += trials.wrong
    if wrong:
        raise typer.Exit(1)


def _begin(part: str, threads: int, dtype: str, reward: str = "shapes") -> tuple[int, int]:
    """Which part of how many this process takes; what is wrong is said before the bill."""
    import torch

    from evosearch import models, rewards

    hush()
    models.dtype_of(dtype)
    rewards.resolve(reward)
    torch.set_num_threads(threads)
    return _part(part)


def _say_bill(recipe: Any, todo: list[Any], out: Path, model: str, what: str) -> None:
    from evosearch.bench.cells import missing, read

    left = missing(todo, read(out))
    nfe, pace = recipe.bill(left), _PACE.get(model)
    hours = f"; {nfe / 3600 / pace:.1f} h of one core at {pace} NFE/s" if pace else ""
    typer.echo(f"bill: {len(left)} of {len(todo)} {what} are left, {nfe:,} NFE{hours}")


def _results(out: Path) -> list[dict[str, Any]]:
    from evosearch.bench.cells import read

    if not (rows := read(out)):
        raise ValueError(f"--table shows what is in --out, but {out} holds no results")
    return rows


_PACE = {"shapes-diffusion": 120, "shapes-flow": 80, "shapes-video": 35}
"""NFE/s of a process of one thread, as measured on a server's core, with decoding and scoring."""


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"--part must be k/n with k from 0 to n - 1, such as 0/2, got {text!r}")
    return int(match[1]), int(match[2])


def _seeds(text: str) -> dict[int, int]:
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*(,[1-9]\d*:[1-9]\d*)*", text):
        raise ValueError(f"--seeds must be NFE:seeds by commas, both above 0, such as 500:3,2000:1, got {text!r}")
    return {int(nfe): int(seeds) for nfe, seeds in (pair.split(":") for pair in text.split(","))}


def _times(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ValueError(f"--times must be samples' worth by commas, such as 10,30,100, got {text!r}")
    return [int(n) for n in text.split(",")]


@app.command()
def picture(
    out: Annotated[Path, typer.Option(help="Where to save it.")] = Path("runs/scaling.png"),
    model: Model = "shapes-diffusion",
    seed: Annotated[int, typer.Option(help="Run seed.")] = 0,
) -> None:
    """Make the picture of README: the same prompts at 1x, 10x and 100x."""
    from evosearch import models
    from evosearch.bench import picture as recipe

    hush()
    if models.makes_videos(model):
        raise ValueError(f"--model must make pictures, and {model} makes videos; name another")
    typer.echo(f"bill: {len(recipe.PROMPTS) * 111 * 20:,} NFE at 20 steps")
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe.picture(model, seed=seed).save(out)
    typer.echo(f"saved {out}")
