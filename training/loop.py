"""One training loop: warm-up and decay, clipping, an average of the weights, checkpoints to resume from."""

import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CHECKPOINT_SECONDS = 180.0

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How long to train and how fast to learn; training ends at `steps` or `minutes`, whichever comes first.

    The learning rate falls to 0 at the end of the plan. A run limited by steps alone repeats exactly.
    """

    learning_rate: float
    steps: int | None = None
    minutes: float | None = None
    warm_up: int = 200
    average: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("plan: give steps, minutes or both")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the plan that is done, in [0, 1]."""
        by_steps = step / self.steps if self.steps else 0.0
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_clock))

    def rate(self, step: int, progress: float) -> float:
        """Learning rate: a linear warm-up, then a half cosine to 0."""
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * (1 + math.cos(math.pi * progress)) / 2


def train(
    model: nn.Module,
    loss: Callable[[Any], dict[str, Tensor]],
    batch: Callable[[int], Any],
    plan: Plan,
    checkpoint: Path,
) -> None:
    """Train `model` in place to the end of the plan, resuming from `checkpoint` if it exists.

    Args:
        model: What to train, on its device.
        loss: Batch to named terms; the one named "loss" is minimised.
        batch: Step number to batch, a pure function; it runs ahead in a thread.
        plan: When to stop and how fast to learn.
        checkpoint: Holds weights, their average and the optimiser's state; the log is the `.jsonl` beside it.
    """
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    step, before = _load(checkpoint, model, average, optimiser) if checkpoint.exists() else (0, 0.0)
    started = saved = time.monotonic()
    model.train()
    for data in ahead(batch, step):
        seconds = before + time.monotonic() - started
        progress = plan.progress(step, seconds)
        if progress >= 1.0:
            break
        torch.manual_seed(plan.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step, progress)
        terms = loss(data)
        optimiser.zero_grad()
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        # The average forgets its random start: a short memory at first, the full one later.
        decay = min(plan.average, (1 + step) / (10 + step))
        for name, value in model.named_parameters():
            average[name].lerp_(value.detach(), 1 - decay)
        if step % 50 == 0:
            figures = {name: round(value.item(), 5) for name, value in (*terms.items(), ("norm", norm))}
            log(checkpoint, step=step, seconds=round(seconds), progress=round(progress, 3), **figures)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            _save(checkpoint, model, average, optimiser, step, before + saved - started)
    _save(checkpoint, model, average, optimiser, step, before + time.monotonic() - started)


def ahead(make: Callable[[int], T], start: int, depth: int = 4) -> Iterator[T]:
    """Yield make(start), make(start + 1), ... for ever, made up to `depth` ahead in a background thread."""
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(make, start + i) for i in range(depth))
        for step in itertools.count(start + depth):
            yield pending.popleft().result()
            pending.append(pool.submit(make, step))


def log(checkpoint: Path, **figures: Any) -> None:
    """Write one line to stdout and to the checkpoint's log."""
    line = json.dumps(figures)
    print(checkpoint.stem, line, flush=True)
    with checkpoint.with_suffix(".jsonl").open("a") as file:
        file.write(line + "\n")


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, by parameter name."""
    with safe_open(checkpoint, "pt") as file:
        names = [name for name in file.keys() if name.startswith("average/")]  # noqa: SIM118 - not a dict
        return {name.removeprefix("average/"): file.get_tensor(name) for name in names}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _save(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    tensors = {f"average/{name}": value for name, value in average.items()}
    for name, value in model.named_parameters():
        tensors[f"model/{name}"] = value
        for moment in _MOMENTS:
            if moment in optimiser.state[value]:
                tensors[f"{moment}/{name}"] = optimiser.state[value][moment]
    save_tensors(path, tensors, {"step": str(step), "seconds": str(seconds)})


def _load(
    path: Path, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        stored = set(file.keys())
        for name, value in model.named_parameters():
            value.data.copy_(file.get_tensor(f"model/{name}"))
            average[name].copy_(file.get_tensor(f"average/{name}"))
            if f"{_MOMENTS[0]}/{name}" in stored:
                optimiser.state[value] = {"step": torch.tensor(float(metadata["step"]))} | {
                    moment: file.get_tensor(f"{moment}/{name}").to(value.device) for moment in _MOMENTS
                }
    return int(metadata["step"]), float(metadata["seconds"])
