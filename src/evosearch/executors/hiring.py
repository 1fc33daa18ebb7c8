"""Who computes: as many workers as were asked for, hired and let go."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evosearch import models
from evosearch.checks import above_zero, whole_number
from evosearch.declaration import Search
from evosearch.executors import processes
from evosearch.executors.pool import Pool
from evosearch.executors.remote import RemotePipe
from evosearch.executors.worker import Setup, backends
from evosearch.refusals import check_class


@dataclass(frozen=True)
class Workers:
    """Who computes micro-batches, beside the process that searches; their results are the same to the bit.

    Attributes:
        number: How many; one for each device by default.
        ray: Address of a Ray cluster whose devices to use, or ``auto`` for the one that this machine belongs to;
            processes of this machine by default.
        deadline: Seconds without a step or a score after which a worker is stopped and another one hired; 20 times the
            longest silence so far by default, at least a minute.
        mixed: Whether they may compute on several kinds of devices. Bits go by the kind then.
        insecure: Whether the Ray cluster may be one that anybody on the network can have run anything.
    """

    number: int | None = None
    ray: str | None = None
    deadline: float | None = None
    mixed: bool = False
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.number is not None:
            whole_number("workers", self.number, 1)
        if self.deadline is not None:
            above_zero("deadline", self.deadline)


@contextmanager
def hire(pipe: Any, workers: int | Workers | None = None, **load_kwargs: Any) -> Generator[RemotePipe]:
    """Workers for several searches, for the length of a ``with`` block.

    What comes of it is a pipeline for `evosearch.search`, which would else hire workers for each search anew.

    Args:
        pipe: What they are to have: a name, a pipeline, a sampler. Of a name each loads its own.
        workers: How many, or `Workers`; one for each device by default.
        **load_kwargs: For `evosearch.load`.

    Raises:
        ValueError: They cannot be had.

    >>> import evosearch as es
    >>> with es.hire("shapes-flow", workers=1) as pipe:
    ...     result = es.search(pipe, "a red circle", "shapes", budget="2x", steps=4, progress=False)
    >>> result.cost.nfe
    8
    """
    asked = workers if isinstance(workers, Workers) else Workers(workers)
    if os.name == "nt" and asked.ray is None:
        raise ValueError("workers need a system with fork, which Windows is not; leave them out, or give ray")
    if isinstance(pipe, str | Path):
        check_class(models.class_of(pipe, **load_kwargs))
        pipe = str(pipe)
    setup = Setup(pipe, load_kwargs, torch.get_num_threads(), backends())
    devices = torch.cuda.device_count()
    with ExitStack() as stack:
        if asked.ray is not None:
            from evosearch.executors import rays

            pool = stack.enter_context(rays.pool(setup, asked.ray, asked))
        else:
            number = max(1, devices) if asked.number is None else asked.number
            pool = Pool(processes.hire(setup, devices), number, deadline=asked.deadline, mixed=asked.mixed)
            stack.callback(pool.close)
        yield RemotePipe(pool, pipe)


@contextmanager
def hired(
    workers: int | Workers | None, pipe: Any, load_kwargs: Mapping[str, Any], algorithm: Search
) -> Generator[RemotePipe | None]:
    """The workers of one search; None where the process that searches computes by itself.

    It does so unless it is told otherwise, or the pipeline is given by name and there are several GPUs.

    Args:
        workers: As the user gave it.
        pipe: What they are to have; or workers that have it.
        load_kwargs: For `evosearch.load`.
        algorithm: The search.

    Raises:
        ValueError: They cannot be had, or the search needs its model at hand.
    """
    gradient, by_name = "gradient" in getattr(algorithm, "needs", ()), isinstance(pipe, str | Path)
    if workers is None and not isinstance(pipe, RemotePipe):
        if torch.cuda.device_count() < 2 or os.name == "nt" or gradient or not by_name:
            yield None
            return
        workers = Workers()
    if gradient:
        raise ValueError(
            f"{algorithm.__name__} follows gradients, for which it needs the model in its own process; leave out "
            "workers"
        )
    if isinstance(pipe, RemotePipe):
        if workers is not None or load_kwargs:
            raise ValueError("workers and load_kwargs go with a pipeline, and pipe has been given workers by hire")
        yield pipe
        return
    with hire(pipe, workers, **load_kwargs) as remote:
        yield remote
