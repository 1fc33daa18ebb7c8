"""What a benchmark found, a line of JSON a cell: it resumes, and several processes can share the work."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from evosearch import models

MODELS = Path(models.__file__).parent
C = TypeVar("C")  # a dataclass, whose fields name a cell
R = TypeVar("R")


class Cells:
    """The cells of one benchmark in a folder.

    Args:
        out: Folder of the results; what is in it is not run again.
        facts: What all its cells have in common, such as the model; written into every line.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.

    Attributes:
        rows: What the folder held to begin with, of all parts.

    Raises:
        ValueError: The folder holds cells of other facts, or cells that do not say.
    """

    def __init__(self, out: Path, facts: dict[str, Any], part: tuple[int, int] = (0, 1)) -> None:
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))  # as they are read again
        self._part, self.rows = part, read(out)
        for name, value in self._facts.items():
            if any(name not in row for row in self.rows):
                raise ValueError(f"out must name another folder: the runs in {out} do not say their {name}")
            if others := {str(row[name]) for row in self.rows} - {str(value)}:
                raise ValueError(
                    f"{name} must be {', '.join(others)} as in the runs in {out}, got {value}; or name another folder"
                )
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / f"cells-{part[0]}-of-{part[1]}.jsonl"
        if self._path.exists() and not self._path.read_text().endswith("\n"):
            with self._path.open("a") as lines:  # torn by an interruption; what follows must not be glued to it
                lines.write("\n")

    def missing(self, todo: Sequence[C]) -> list[C]:
        """This part's share of the cells, less those that are done."""
        return missing(todo[self._part[0] :: self._part[1]], self.rows)

    def append(self, cell: Any, **found: Any) -> None:
        """Keep what a cell found."""
        with self._path.open("a") as lines:
            lines.write(json.dumps(asdict(cell) | self._facts | found) + "\n")


def spread(missing: Sequence[C], work: Callable[[C], tuple[C, R]], workers: int | None) -> Iterator[tuple[C, R]]:
    """Each cell with what ``work`` finds of it, in the order in which processes are done; one a core by default."""
    with get_context("spawn").Pool(workers, _alone) as pool:
        yield from pool.imap_unordered(work, missing)


def _alone() -> None:
    """A process leaves Ctrl-C to its parent and uses one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def missing(todo: Sequence[C], rows: Sequence[dict[str, Any]]) -> list[C]:
    """Cells that no row tells of."""

    def done(cell: Any) -> bool:
        named = asdict(cell)
        return any(all(row.get(key) == value for key, value in named.items()) for row in rows)

    return [cell for cell in todo if not done(cell)]


def fingerprint(*names: str) -> str:
    """First digits of the SHA-256 of weights, of bundled models and rewards and of folders; the hub's do not count."""
    digest = hashlib.sha256()
    for name in names:
        bundled = MODELS / name.replace("_", "-")
        for path in sorted((bundled if bundled.is_dir() else Path(name)).rglob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read(out: Path) -> list[dict[str, Any]]:
    """Rows of all parts, unfinished last lines left out."""
    rows: list[dict[str, Any]] = []
    for path in sorted(out.glob("cells-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows
