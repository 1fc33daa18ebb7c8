"""One training loop: warm-up and decay, clipping, an average of the weights, checkpoints to resume from."""

import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
    muon: float = 0.0  # its learning rate as a multiple of AdamW's; 0 leaves all to AdamW
    former: Mapping[str, Any] = field(default_factory=dict[str, Any])  # by stage, what its weights have behind them

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
    optimiser = Optimiser(model, plan.muon)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    former = json.dumps(plan.former.get(checkpoint.stem))
    step, before = 0, 0.0
    if checkpoint.exists():
        step, before, former = _load(checkpoint, model, average, optimiser)
    started = saved = time.monotonic()
    model.train()
    for data in ahead(batch, step):
        seconds = before + time.monotonic() - started
        progress = plan.progress(step, seconds)
        if progress >= 1.0:
            break
        torch.manual_seed(plan.seed * 1_000_003 + step)
        terms = loss(data)
        model.zero_grad()
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(plan.rate(step, progress))
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
            _save(checkpoint, model, average, optimiser, step, before + saved - started, former)
    _save(checkpoint, model, average, optimiser, step, before + time.monotonic() - started, former)


class Optimiser:
    """AdamW; for matrices and kernels Muon, if asked: its equal steps in all directions leave a plateau sooner.

    Args:
        model: Its parameters are trained.
        muon: Learning rate of Muon as a multiple of AdamW's; 0 leaves all to AdamW.
    """

    _MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")

    def __init__(self, model: nn.Module, muon: float) -> None:
        self._muon = muon
        embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
        # Muon knows matrices only: kernels enter as matrices that share their memory.
        self._own = {
            name: nn.Parameter(value.detach().view(len(value), -1))
            if muon and value.ndim > 1 and min(value.shape[0], value[0].numel()) > 1 and id(value) not in embeddings
            else value
            for name, value in model.named_parameters()
        }
        self._parameters = dict(model.named_parameters())
        matrices = [own for name, own in self._own.items() if own is not self._parameters[name]]
        others = [own for name, own in self._own.items() if own is self._parameters[name]]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01)]
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        """Move all parameters along their gradients."""
        for name, own in self._own.items():
            gradient = self._parameters[name].grad
            own.grad = None if gradient is None else gradient.view_as(own)
        for part, scale in zip(self._parts, (1.0, self._muon), strict=False):
            for group in part.param_groups:
                group["lr"] = scale * rate
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by moment and parameter."""
        states = {name: part.state[own] for part in self._parts for name, own in self._own.items() if own in part.state}
        return {
            f"{moment}/{name}": state[moment]
            for name, state in states.items()
            for moment in self._MOMENTS
            if moment in state
        }

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Remember what `tensors` returned after so many steps."""
        for part in self._parts:
            for group in part.param_groups:
                for own in group["params"]:
                    part.state[own] = {"step": torch.tensor(float(step))}
        for key, value in tensors.items():
            moment, name = key.split("/", 1)
            own = self._own[name]
            part = next(part for part in self._parts if own in part.state)
            part.state[own][moment] = value.to(own.device)


def half(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Compute in bfloat16 within, if wanted and where the device does so faster: CPUs without AVX512 emulate it."""
    fast = device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "SVE"))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and fast)


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


def _save(
    path: Path,
    model: nn.Module,
    average: dict[str, Tensor],
    optimiser: Optimiser,
    step: int,
    seconds: float,
    former: str,
) -> None:
    tensors = {f"average/{name}": value for name, value in average.items()}
    tensors |= {f"model/{name}": value for name, value in model.named_parameters()}
    save_tensors(path, tensors | optimiser.tensors(), {"step": str(step), "seconds": str(seconds), "former": former})


def _load(path: Path, model: nn.Module, average: dict[str, Tensor], optimiser: Optimiser) -> tuple[int, float, str]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, value in model.named_parameters():
        value.data.copy_(stored.pop(f"model/{name}"))
        average[name].copy_(stored.pop(f"average/{name}"))
    optimiser.restore(stored, int(metadata["step"]))
    return int(metadata["step"]), float(metadata["seconds"]), metadata.get("former", "null")
