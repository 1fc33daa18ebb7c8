"""Options of the commands that workers may compute for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Number = Annotated[int | None, typer.Option("--workers", metavar="N", help="Processes.  [default: one a GPU]")]
Ray = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Workers on a Ray cluster: auto, local, ...")]
Deadline = Annotated[float | None, typer.Option(metavar="SECONDS", help="Replace a worker that is silent for so long.")]
Mixed = Annotated[bool, typer.Option("--mixed", help="Workers may be of several kinds of GPUs.")]
Insecure = Annotated[bool, typer.Option("--insecure-ray", help="Take a Ray cluster without a token.")]


def workers_of(number: int | None, ray: str | None, deadline: float | None, mixed: bool, insecure: bool) -> Any:
    """What `evosearch.search` takes as workers."""
    if (number, ray, deadline, mixed) == (None, None, None, False):
        return None  # as the machine is
    from evosearch.executors.hiring import Workers

    return Workers(number, ray, deadline, mixed, insecure)
