"""When the alarm of reward hacking rings: a learned reward pushed hard, the rules held out, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import evosearch as es
from evosearch.bench.cells import Cells, fingerprint
from evosearch.hacking import Stage, alarms

STEPS, NOISES, ROUNDS = 4, 8, 40
PUSHED: dict[str, Any] = {"n": NOISES, "rounds": ROUNDS, "learning_rate": 10.0, "clip": 1.0, "regularise": 0.0}
"""Steps along the gradient far beyond those that suit it, with no regard for how likely a noise is."""

PROMPTS = (
    "three purple triangles and a cyan circle",
    "two red circles and one blue square",
    "a red star left of a blue circle and two green squares",
    "a blue triangle above a purple triangle and a cyan square",
)
HELD_OUT = {"shapes_clip": "shapes", "shapes": "shapes_clip"}
"""What is held out, by what guides."""

_MODEL = "shapes-diffusion"


@dataclass(frozen=True)
class Cell:
    """One search: what guides it, and its prompt."""

    guide: str
    prompt: str


def all_cells() -> list[Cell]:
    """Both ways for every prompt."""
    return [Cell(guide, prompt) for prompt in PROMPTS for guide in HELD_OUT]


def bill(todo: Sequence[Cell]) -> int:
    """NFE that these take."""
    return len(todo) * NOISES * ROUNDS * STEPS


def run(todo: Sequence[Cell], out: Path, part: tuple[int, int] = (0, 1)) -> Iterator[Cell]:
    """Search as ``out`` does not hold yet: `reno` by the learned reward, evosearch by the rules, at equal NFE.

    Args:
        todo: All cells.
        out: Folder of the results; what is in it is not run again.
        part: (k, n): every n-th cell from the k-th, so that n processes can share the work.

    Yields:
        Each cell, once it is done.
    """
    cells = Cells(out, {"model": _MODEL, "weights": fingerprint(_MODEL, "shapes_clip")}, part)
    pipe = es.load(_MODEL)
    for cell in cells.missing(todo):
        how: dict[str, Any] = {"algorithm": "reno", **PUSHED}
        if cell.guide == "shapes":  # which has no gradient
            how = {"algorithm": "evosearch", "budget": NOISES * ROUNDS * STEPS}
        held_out = HELD_OUT[cell.guide]
        result = es.search(pipe, cell.prompt, cell.guide, steps=STEPS, held_out=held_out, progress=False, **how)
        cells.append(cell, stages=[asdict(stage) for stage in result.stages])
        yield cell


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: of each search its medians at the stage that speaks most for hacking, or the first, and at the end."""
    lines = ["| guide | prompt | reward | held out | alarm |", "|---|---|---:|---:|---:|"]
    for row in sorted(rows, key=lambda row: (list(HELD_OUT).index(row["guide"]), PROMPTS.index(row["prompt"]))):
        stages, name = [Stage(**stage) for stage in row["stages"]], HELD_OUT[row["guide"]]
        rang = alarms(stages)
        before, after = rang[0].before if rang else stages[0], stages[-1]
        low, high = median(before.guidance), median(after.guidance)
        was, now = median(before.held_out[name]), median(after.held_out[name])
        p = f"p = {rang[0].p:.3f}" if rang else ""
        lines.append(f"| {row['guide']} | {row['prompt']} | {low:.2f} to {high:.2f} | {was:.2f} to {now:.2f} | {p} |")
    return "\n".join(lines)
