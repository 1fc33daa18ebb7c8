"""A trained model as a folder of the package."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loop import save_tensors
from safetensors import safe_open
from safetensors.torch import load_file

FACTS = "training.json"


def trained(checkpoint: Path, finished: Path | None = None) -> Path:
    """The checkpoint of a stage that others need.

    Args:
        checkpoint: Where it should be.
        finished: Part of a finished model whose weights do as well.

    Raises:
        SystemExit: There is neither.
    """
    if not checkpoint.exists() and (finished is None or not finished.exists()):
        stage = checkpoint.stem
        raise SystemExit(
            f"stage {stage} must have been trained, but there is no {checkpoint}; "
            f"run it first: python {sys.argv[0]} {stage}"
        )
    return checkpoint


def write(save: Callable[[Path], object], folder: Path, checkpoints: list[Path]) -> None:
    """Write a model into its folder, each file whole or not at all; what else is there stays.

    Weights are stored in half precision. Text encoders say in their configuration that they run in single precision all
    the same: transformers goes by it, diffusers runs its models in single precision, and the pipeline needs both alike.

    Args:
        save: Writes the model, in single precision, into a folder.
        folder: Of the model.
        checkpoints: Of its stages, whose steps and minutes are kept beside it for the model card.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    save(temporary)
    for weights in temporary.rglob("*.safetensors"):
        halves = {name: value.half() for name, value in load_file(weights).items()}
        save_tensors(weights, halves, {"format": "pt"})
    # A stage without a checkpoint is one whose weights were taken over from the finished model, or one left out.
    done = stages(folder) | {path.stem: _facts(path) for path in checkpoints if path.exists()}
    facts = {path.stem: done[path.stem] for path in checkpoints if path.stem in done}
    (temporary / FACTS).write_text(json.dumps({"stages": facts}, indent=2) + "\n")
    for source in filter(Path.is_file, temporary.rglob("*")):
        target = folder / source.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o644)  # safetensors writes files for their owner alone
        os.replace(source, target)
    shutil.rmtree(temporary)


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """Steps, minutes and hardware of the training stages of a finished model; none where there is no model."""
    path = folder / FACTS
    return json.loads(path.read_text())["stages"] if path.exists() else {}


def table(folder: Path) -> str:
    """The training stages of a finished model as lines of the card's table."""
    return "\n".join(
        f"| {name} | {done['steps']:,} | {done['minutes']} | {done['hardware']} |"
        for name, done in stages(folder).items()
    )


def _facts(checkpoint: Path) -> dict[str, Any]:
    """What a stage took, with what its weights had behind them when it began."""
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    before = json.loads(metadata.get("former", "null")) or {"steps": 0, "minutes": 0, "hardware": ""}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "steps": before["steps"] + int(metadata["step"]),
        "minutes": before["minutes"] + round(float(metadata["seconds"]) / 60),
        "hardware": ", ".join(dict.fromkeys(filter(None, (before["hardware"], hardware)))),
    }
