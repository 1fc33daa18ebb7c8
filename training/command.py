"""The command line that all training scripts share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from export import stages
from loop import Plan
from torch import nn

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "src/evosearch/models"
LARGE = ROOT / "training/models"  # too large for the package
RUNS = ROOT / "training/runs"

M = TypeVar("M", bound=nn.Module)


class Command:
    """Parsed arguments of a training script.

    Args:
        description: The script's docstring.
        name: Of the model that it makes.
        known: Stages, what the script can do, in order; all of it by default.
        folder: Of the finished models; of the package by default.
    """

    def __init__(self, description: str | None, name: str, known: tuple[str, ...], folder: Path = MODELS) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("stages", nargs="*", metavar="stage", help=f"any of {', '.join(known)}; default all")
        parser.add_argument("--minutes", type=float, help="limit of each stage, instead of its steps")
        parser.add_argument("--steps", type=int, help="limit of each stage; default its own")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--runs", type=Path, default=RUNS / name, help="folder of the checkpoints")
        parser.add_argument("--out", type=Path, default=folder / name, help="folder of the finished model")
        parser.add_argument(
            "--continued",
            action="store_true",
            help="begin a stage that has no checkpoint with the weights of the model in --out",
        )
        parser.add_argument("--compile", action="store_true", help="torch.compile the model; needs a C++ compiler")
        args = parser.parse_args()
        if unknown := set(args.stages) - set(known):
            parser.error(f"unknown stage {', '.join(unknown)}; expected any of {', '.join(known)}")
        self.name = name
        self.stages: tuple[str, ...] = tuple(args.stages) or known
        self.runs: Path = args.runs
        self.out: Path = args.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.compiled: bool = args.compile
        self._continued: bool = args.continued
        self._minutes, self._steps, self._seed = args.minutes, args.steps, args.seed
        self.runs.mkdir(parents=True, exist_ok=True)

    def start(self, build: Callable[[], M], restore: Callable[[M, Path], None]) -> M:
        """A model to train: a fresh one, always the same, or with the finished model's weights if so asked."""
        torch.manual_seed(self._seed)
        model = build()
        if self._continued:
            restore(model, self.out)
        return model.to(self.device)

    def plan(self, learning_rate: float, steps: int, average: float = 0.999, muon: float = 0.0) -> Plan:
        """How long a stage trains, as asked or else so many steps; weights to go on from learn half as fast."""
        limit = self._steps or (None if self._minutes else steps)
        former = stages(self.out) if self._continued else {}
        learning_rate *= 0.5 if self._continued else 1.0
        return Plan(learning_rate, limit, self._minutes, average=average, seed=self._seed, muon=muon, former=former)

    def checkpoint(self, stage: str) -> Path:
        """Where a stage keeps its weights."""
        return self.runs / f"{stage}.safetensors"
