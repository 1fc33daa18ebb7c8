"""What trials of chaos have in common: a search, what it comes to, and counts of how trials ended."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from PIL import Image

PROMPT, BUDGET, STEPS = "two red stars and a blue circle", "12x", 10


@dataclass
class Trials:
    """What came of trials of one kind.

    Attributes:
        name: Of the kind.
        ends: How often each end came.
        wrong: How many trials ended as none may.
        figures: What else was measured, in words.
    """

    name: str
    ends: Counter[str] = field(default_factory=Counter[str])
    wrong: int = 0
    figures: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {end}" for end, count in self.ends.items())
        more = "".join(f"; {name} {value}" for name, value in self.figures.items())
        return f"{self.name:16} {self.wrong:,} wrong: {ends}{more}"


def outcome(folder: Path) -> str:
    """A digest of all that a run came to, but for what its clock read."""
    manifest = json.loads((folder / "manifest.json").read_text())
    kept = [[entry[name] for name in ("id", "reward", "genome", "nfe")] for entry in manifest["kept"]]
    whole = sha256(json.dumps([manifest["status"], kept, [[nfe, best] for nfe, _, best in manifest["curve"]]]).encode())
    for entry in [*manifest["kept"], manifest["plain"]]:
        with Image.open(folder / entry["file"]) as picture:
            whole.update(picture.tobytes())
    return whole.hexdigest()


def fresh(folder: Path) -> Path:
    """The folder, made anew and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
