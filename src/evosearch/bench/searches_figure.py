"""The searches as a picture: best reward against NFE and against seconds, the first few in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evosearch.bench.searches import OURS, ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#00429d", "#e58a57", "#2f8f6b", "#93003a", "#8f6bb3", "#5681b9", "#b5892b")
_REST = "#c9c9cc"


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """A panel for each thing that is equal; ours thick, the six best others in colour, the rest in grey."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["equal"] for row in rows))
    first = [OURS, *(name for name in ranking(rows, kinds[0]) if name != OURS)]
    shown = dict(zip(first, _COLOURS, strict=False))
    sheet = Figure(figsize=(4.6 * len(kinds), 3.8), layout="constrained")
    for equal, panel in zip(kinds, sheet.subplots(1, len(kinds), squeeze=False, sharey=True)[0], strict=True):
        for name in reversed(ranking(rows, equal)):
            points = [_point(rows, equal, name, n) for n in sorted({row["times"] for row in rows})]
            x, y = zip(*(point for point in points if point), strict=True)
            style = {"color": shown.get(name, _REST), "linewidth": 2.5 if name == OURS else 1.2, "markersize": 3}
            panel.plot(x, y, marker="o", label=name if name in shown else None, **style)
        panel.set_xscale("log")
        panel.set_xlabel("NFE" if equal == "nfe" else "seconds", fontsize=8)
        panel.set_title(f"at equal {'NFE' if equal == 'nfe' else 'seconds'}", fontsize=9)
        panel.tick_params(labelsize=7)
        handles, labels = panel.get_legend_handles_labels()
        panel.legend(handles[::-1], labels[::-1], fontsize=6, loc="lower right", frameon=False)
    sheet.supylabel(f"mean best {rows[0]['reward']}", fontsize=8)
    return sheet


def _point(rows: Sequence[dict[str, Any]], equal: str, name: str, times: int) -> tuple[float, float] | None:
    mine = [
        row for row in rows if (row["equal"], row["method"], row["times"]) == (equal, name, times) and "best" in row
    ]
    if not mine:
        return None
    return float(np.mean([row[equal] for row in mine])), float(np.mean([row["best"] for row in mine]))
