"""What searching costs beyond the model: best-of-N against the stock pipeline, batch for batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from evosearch import models
from evosearch.run import search

_PROMPT = "two red circles and one blue square"


@dataclass(frozen=True)
class Overhead:
    """Seconds of each run, in the order in which they alternated, and the NFE of one."""

    search: list[float]
    stock: list[float]
    nfe: int

    @property
    def ratio(self) -> float:
        """Median time of the search over that of the stock pipeline."""
        return median(self.search) / median(self.stock)

    @property
    def nfe_per_second(self) -> float:
        """NFE a second of the search, decoding included."""
        return self.nfe / median(self.search)


def overhead(model: str = "shapes-diffusion", *, n: int = 16, steps: int = 20, runs: int = 5) -> Overhead:
    """Time best-of-N and the stock pipeline with the same batch, steps and decode, by turns in one process.

    Args:
        model: A bundled pipeline's name, a folder or a hub id.
        n: Samples, in one batch.
        steps: Denoising steps.
        runs: Timed runs of each, after one that is not timed.
    """
    pipe = models.load(model)
    kwargs = {name: value for name, value in models.defaults(pipe).items() if name != "steps"}

    def searched() -> None:
        search(
            pipe, _PROMPT, _nothing, "best_of_n", n * steps, steps=steps, batch_size=n, pipeline_kwargs=kwargs,
            progress=False,
        )  # fmt: skip

    def stock() -> None:
        pipe.set_progress_bar_config(disable=True)
        pipe(_PROMPT, num_images_per_prompt=n, num_inference_steps=steps, output_type="pt", **kwargs)

    times: dict[Callable[[], None], list[float]] = {searched: [], stock: []}
    for run in range(runs + 1):
        for work, seconds in times.items():
            start = time.perf_counter()
            work()
            if run > 0:
                seconds.append(time.perf_counter() - start)
    return Overhead(times[searched], times[stock], n * steps)


def _nothing(samples: Tensor, prompts: list[str]) -> Tensor:
    del prompts
    return torch.zeros(len(samples))
