"""Heritability as a picture: correlation against level, a line a mutation rate, a panel a reward and solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evosearch.bench.heritability import ETAS, REWARDS, SAME, inherited, kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {SAME: "#444444", 0.15: "#00429d", 0.3: "#5681b9", 0.6: "#e58a57", 0.9: "#93003a"}


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """All correlations of a model, with their intervals."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(3.2 * len(REWARDS), 2.8 * len(ETAS)), layout="constrained")
    panels = sheet.subplots(len(ETAS), len(REWARDS), sharex=True, sharey=True, squeeze=False)
    steps = rows[0]["steps"]
    for eta, line in zip(ETAS, panels, strict=True):
        for reward, panel in zip(REWARDS, line, strict=True):
            panel.axhline(0, color="#bbbbbb", linewidth=0.8)
            for rate in dict.fromkeys(kind.rate for kind in kinds(steps, eta)):
                found = [(kind.level, inherited(rows, reward, eta, kind)) for kind in kinds(steps, eta)
                         if kind.rate == rate]  # fmt: skip
                points = [(level, *one.correlation) for level, one in found if one is not None]
                if not points:
                    continue
                levels, means, lows, highs = zip(*points, strict=True)
                label = "the same state" if rate == SAME else f"rate {rate:g}"
                panel.plot(levels, means, color=_COLOURS[rate], marker="o", markersize=3, linewidth=1.5, label=label)
                panel.fill_between(levels, lows, highs, color=_COLOURS[rate], alpha=0.12, linewidth=0)
            panel.set_title(f"{reward}, {'ODE' if eta == 0 else 'SDE'}", fontsize=9)
            panel.set_ylim(-0.4, 1.02)
            panel.tick_params(labelsize=7)
            panel.legend(fontsize=6, loc="lower right", frameon=False)
    sheet.supxlabel(f"level of the mutation, of {steps} steps", fontsize=8)
    sheet.supylabel("correlation of parent's and child's reward", fontsize=8)
    return sheet
