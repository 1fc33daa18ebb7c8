"""What run folders hold of a set of prompts: for each prompt its samples, the best of every run first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A sample that a run kept.

    Attributes:
        folder: Run folder of its prompt.
        file: Its file there, as the manifest names it.
    """

    folder: Path
    file: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / self.file


@dataclass
class Searched:
    """A prompt of a set, searched in one run or in several.

    Attributes:
        text: The prompt.
        source: File of its set; empty where it is from none.
        place: Its number in the set, -1 where it is from none.
        of: Prompts in the set.
        entry: What the set says of it.
        whole: Whether all its searches came to their end.
        samples: The best of every run, then the second best of every run, and so on.
    """

    text: str
    source: str = ""
    place: int = -1
    of: int = 0
    entry: dict[str, Any] = field(default_factory=dict[str, Any])
    whole: bool = True
    samples: list[Sample] = field(default_factory=list[Sample])


def read_runs(runs: Sequence[Path]) -> list[Searched]:
    """The prompts that were searched, in the order of their set.

    Args:
        runs: Folders as ``evosearch generate`` makes them; their order makes no difference.

    Raises:
        ValueError: One of them is no run, is damaged, or kept nothing of a prompt.
    """
    found: dict[str, tuple[Searched, list[list[Sample]]]] = {}
    for folder in distinct(folder for run in distinct(runs) for folder in _folders(run)):
        searched, kept = _searched(folder)
        key = json.dumps([searched.text, searched.place, searched.entry])
        first, samples = found.setdefault(key, (searched, []))
        first.whole = first.whole and searched.whole
        samples.append(kept)
    for searched, kept in found.values():
        searched.samples = [sample for rank in zip_longest(*kept) for sample in rank if sample is not None]
    return sorted((searched for searched, _ in found.values()), key=lambda searched: searched.place)


def distinct(folders: Iterable[Path]) -> list[Path]:
    """Each folder once, in an order that does not depend on how they were given."""
    return [folder for _, folder in sorted({folder.resolve(): folder for folder in folders}.items())]


def missing(searched: Sequence[Searched]) -> dict[str, int]:
    """How many prompts of each set were not searched."""
    sets: dict[str, tuple[int, set[int]]] = {}
    for each in searched:
        if each.source:
            sets.setdefault(each.source, (each.of, set()))[1].add(each.place)
    return {source: of - len(places) for source, (of, places) in sets.items() if len(places) < of}


def _folders(run: Path) -> list[Path]:
    """A folder for each prompt: the run itself, or those in it."""
    if (run / "manifest.json").is_file():
        return [run]
    inside = [path.parent for path in run.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if not inside:
        lack = "holds no manifest.json" if run.is_dir() else "does not exist"
        raise ValueError(f"RUN must be a folder that evosearch generate made, but {run} {lack}")
    return inside


def _searched(folder: Path) -> tuple[Searched, list[Sample]]:
    manifest = folder / "manifest.json"
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        origin = told["settings"].get("prompt_set") or {}
        searched = Searched(told["settings"]["prompt"], **origin, whole=told["status"] == "done")
        files = [entry["file"] for entry in told.get("kept", []) if entry["file"] is not None]
        kinds = (searched.text, str), (searched.place, int), (searched.of, int), (searched.entry, dict)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError("not the settings of a run")
        outside = [file for file in files if not (folder / file).resolve().is_relative_to(folder.resolve())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{manifest} is damaged ({error}); leave its run out, or search again") from None
    if outside:
        raise ValueError(f"{manifest} is damaged ({outside[0]!r} is not in its folder); leave its run out")
    if not files:
        raise ValueError(
            f"RUN must hold samples of every prompt, but {folder} kept none ({told['status']}); leave it out"
        )
    if lost := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(f"RUN must hold the samples that its manifest names, but {folder / lost[0]} is gone")
    return searched, [Sample(folder, file) for file in files]
