"""What is known of each search, from its declaration and docstring: for `evosearch list` and docs/searches.md."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from evosearch import searches
from evosearch.resolve import algorithm_of


@dataclass(frozen=True)
class Entry:
    """One search.

    Attributes:
        name: Of the function.
        purpose: Its first line.
        papers: Numbers at arXiv.
        space: Where it searches.
        needs: What else it must have.
        nfe: What it costs in NFE.
        rewards: How many samples it has scored.
        file: Where it is, from the package's folder.
    """

    name: str
    purpose: str
    papers: tuple[str, ...]
    space: str
    needs: tuple[str, ...]
    nfe: str
    rewards: str
    file: str


def entries() -> list[Entry]:
    """All searches, by name."""
    return [_entry(name) for name in searches.__all__]


_HEAD = """# Searches

Each is one function in one file. `evosearch list searches` shows what each does; this page is written by
`evosearch list searches --markdown`. NFE counts a denoising step of a particle once, whatever guidance adds.

- *space*: what it varies. Noise: where trajectories start. Trajectory: states on the way. Guidance: the prediction.
  Gradient: the noise, along the reward's gradient.
- *needs*: SDE, steps that add noise (`eta` above 0); previews, rewards of x0 as predicted; gradient, a differentiable
  reward; grid, latents with height and width.

"""


def page() -> str:
    """docs/searches.md."""
    return f"{_HEAD}{table()}\n"


def table() -> str:
    """Markdown."""
    lines = ["| search | paper | space | NFE | rewards | needs |", "|---|---|---|---|---|---|"]
    for entry in entries():
        papers = " ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in entry.papers)
        name = f"[`{entry.name}`](../src/evosearch/{entry.file})"
        cells = (name, papers, entry.space, entry.nfe, entry.rewards, ", ".join(entry.needs))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _entry(name: str) -> Entry:
    search = algorithm_of(name)
    module = sys.modules[search.__module__]
    doc = inspect.getdoc(search) or ""
    file = Path(str(module.__file__)).relative_to(Path(searches.__file__).parents[1])
    papers = tuple(dict.fromkeys(re.findall(r"arXiv:(\d+\.\d+)", module.__doc__ or "")))
    return Entry(
        name=name,
        purpose=doc.splitlines()[0],
        papers=papers,
        space=search.space,
        needs=search.needs,
        nfe=_line(doc, "NFE"),
        rewards=_line(doc, "Rewards"),
        file=file.as_posix(),
    )


def _line(doc: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+(?:\n +.+)*)", doc, re.MULTILINE)
    return " ".join(found[1].split()).removesuffix(".") if found else ""
