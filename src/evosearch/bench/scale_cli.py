"""`evosearch bench scale`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evosearch.progress import hush

if TYPE_CHECKING:
    from evosearch.bench.scale import Times


def scale(
    model: Annotated[str, typer.Option(help="Bundled pipeline, folder or hub id.")] = "shapes-flow",
    reward: Annotated[str, typer.Option(help="A reward.")] = "shapes",
    budget: Annotated[int, typer.Option(min=1, help="NFE of each search.")] = 4000,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Particles in a micro-batch.")] = 4,
    prompts: Annotated[int, typer.Option(min=1, help="Searched side by side.")] = 1,
    spread: Annotated[float, typer.Option(min=0, help="Deviation of workers' speeds, as a share.")] = 0.05,
    losses: Annotated[float, typer.Option(min=0, help="Times an hour that a worker is lost.")] = 0.1,
    reload: Annotated[float, typer.Option(min=0, help="Seconds until another one is there.")] = 60.0,
    times: Annotated[
        str | None,
        typer.Option(
            metavar="STEP,DECODE,SCORE,CALL", help="Seconds of another model's micro-batch; not measured then."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Real runs by one worker and by two beside theirs.")] = False,
) -> None:
    """Simulate a search on 1 to 1,024 workers by measured times, and say where it stops to scale."""
    from evosearch.bench import scale as recipe
    from evosearch.executors.hiring import hire

    hush()
    if check:
        for found in recipe.checks(model, budget=f"{budget}", steps=steps, batch_size=batch_size, reward=reward):
            runs = ", ".join(f"{seconds:.2f}" for seconds in found.real)
            typer.echo(
                f"{found.workers} worker{'s' * (found.workers > 1)}: {runs} s, simulated {found.simulated:.2f} s, "
                f"ratio {found.ratio:.3f}"
            )
        return
    if times is None:
        with hire(model, 1) as pipe:
            own = recipe.measured(pipe, steps, batch_size, reward)
    else:
        own = _batch_times(times)
    words = {
        "a step": own.step,
        "decoding": own.decode,
        "scoring": own.score,
        "a call": own.call,
        "the search": own.own,
    }
    typer.echo("a micro-batch takes: " + ", ".join(f"{name} {seconds:.4g} s" for name, seconds in words.items()))
    trouble = recipe.Trouble(spread, losses, reload)
    waves = recipe.waves_of("evosearch", steps, budget)
    typer.echo(recipe.table(waves, own, batch_size=batch_size, prompts=prompts, trouble=trouble))


def _batch_times(text: str) -> Times:
    from evosearch.bench.scale import Times

    try:
        step, decode, score, call = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--times must be four numbers, step,decode,score,call in seconds, got {text!r}") from None
    return Times(step, decode, score, call)
