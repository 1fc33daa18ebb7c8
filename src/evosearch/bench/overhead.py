"""What searching costs beyond the model: a search against the stock pipeline, NFE for NFE."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from evosearch import models
from evosearch.result import Result
from evosearch.run import search

_PROMPT = "two red circles and one blue square"


@dataclass(frozen=True)
class Overhead:
    """Seconds of each run, in the order in which they alternated.

    Attributes:
        search: Of the search.
        steps: Of the stock pipeline without decoding.
        decode: Of its decoding: what two steps with it take more than two steps without.
        nfe: Of the search, as a multiple of the stock pipeline's.
        decodes: Of the search, as a multiple of the stock pipeline's.
        nfe_per_second: Of the search, decoding included.
    """

    search: list[float]
    steps: list[float]
    decode: list[float]
    nfe: float
    decodes: float
    nfe_per_second: float

    @property
    def expected(self) -> float:
        """Seconds that the stock pipeline takes for as many NFE and decodes."""
        return self.nfe * median(self.steps) + self.decodes * median(self.decode)

    @property
    def ratio(self) -> float:
        """Median time of the search over that of the stock pipeline for as many NFE and decodes."""
        return median(self.search) / self.expected

    @property
    def per_nfe(self) -> float:
        """Median time of the search over that of the stock pipeline for as many NFE, a decode a sample."""
        return median(self.search) / (self.nfe * (median(self.steps) + median(self.decode)))


def overhead(
    model: str = "shapes-diffusion", *, algorithm: str = "best_of_n", n: int = 16, steps: int = 20, runs: int = 5
) -> Overhead:
    """Time a search and the stock pipeline with the same batch and steps, by turns in one process.

    Args:
        model: A bundled pipeline's name, a folder or a hub id.
        algorithm: A search, of as many NFE as the stock pipeline takes, or just below.
        n: Samples of the stock pipeline, in one batch; particles in a batch of the search.
        steps: Denoising steps.
        runs: Timed runs of each, after one that is not timed.
    """
    pipe = models.load(model)
    kwargs = {name: value for name, value in models.defaults(pipe).items() if name != "steps"}

    def searched() -> Result:
        return search(
            pipe, _PROMPT, _nothing, algorithm, n * steps, steps=steps, batch_size=n, pipeline_kwargs=kwargs,
            progress=False,
        )  # fmt: skip

    def stock(output: str, steps: int) -> None:
        pipe.set_progress_bar_config(disable=True)
        pipe(_PROMPT, num_images_per_prompt=n, num_inference_steps=steps, output_type=output, **kwargs)

    works: dict[str, Callable[[], Any]] = {
        "search": searched,
        "steps": lambda: stock("latent", steps),
        "two": lambda: stock("latent", 2),
        "two and decode": lambda: stock("pt", 2),
    }
    cost, times = searched().cost, {name: list[float]() for name in works}
    for _ in range(runs + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    timed = {name: seconds[1:] for name, seconds in times.items()}
    decode = [more - less for more, less in zip(timed["two and decode"], timed["two"], strict=True)]
    nfe, speed = cost.nfe / (n * steps), cost.nfe / median(timed["search"])
    return Overhead(timed["search"], timed["steps"], decode, nfe, cost.decodes / n, speed)


def _nothing(samples: Tensor, prompts: list[str]) -> Tensor:
    del prompts
    return torch.zeros(len(samples))
