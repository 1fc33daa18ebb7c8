"""The plane as a picture: a panel a method, over the exact target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from evosearch.bench import finetuning
from evosearch.bench.toy import METHODS, MIXTURE, PLAIN, REWARDS, TARGET, TEMPERATURE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _SIDE, _BOUND = 7, 2.0, 7.0  # inches and units of the plane
_BLUE, _RED = "#00798c", "#d1495b"


def figure(rows: Sequence[dict[str, Any]], reward: str) -> Figure:
    """All clouds of a reward: answers as dots, the target's density in grey; then how the fine-tunings went."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["reward"] == reward]
    shown = [m for m in (PLAIN, TARGET, *finetuning.METHODS, *METHODS) if any(row["method"] == m for row in rows)]
    lines = math.ceil(len(shown) / _COLUMNS)
    sheet = Figure(figsize=(_COLUMNS * _SIDE, (lines + 1) * _SIDE * 1.15), layout="constrained")
    above, below = sheet.subfigures(2, 1, height_ratios=(lines, 1), squeeze=False).flat
    edge = torch.linspace(-_BOUND, _BOUND, 141, dtype=torch.float64)
    points = torch.cartesian_prod(edge, edge)
    tilted = MIXTURE.log_density(points) + REWARDS[reward](points.float()).double() / TEMPERATURE
    density = (tilted - tilted.max()).exp().view(141, 141).T
    for k, method in enumerate(shown):
        cloud = torch.cat([torch.tensor(row["points"]) for row in rows if row["method"] == method])
        panel = above.add_subplot(lines, _COLUMNS, k + 1)
        panel.contourf(edge, edge, density, levels=[0.02, 0.1, 0.3, 0.6, 1.0], cmap="Greys", alpha=0.6)
        panel.scatter(*cloud.T, s=5, color=_RED, alpha=0.7, linewidths=0)
        panel.set(xlim=(-_BOUND, _BOUND), ylim=(-_BOUND, _BOUND), xticks=[], yticks=[], aspect="equal")
        panel.set_title(f"{method}\n{float(REWARDS[reward](cloud).mean()):.2f}", fontsize=8)
    for k, method in enumerate(finetuning.METHODS):
        courses = [row["course"] for row in rows if row["method"] == method]
        _course(courses, method, below.add_subplot(1, len(finetuning.METHODS), k + 1))
    return sheet


def _course(courses: Sequence[Sequence[Sequence[float]]], method: str, panel: Axes) -> None:
    """Reward and distance to the target along a fine-tuning, a line a seed."""
    other = panel.twinx()
    for course in courses:
        updates, rewards, distances = zip(*course, strict=True)
        panel.plot(updates, rewards, color=_BLUE, linewidth=1)
        other.plot(updates, distances, color=_RED, linewidth=1)
    panel.set_title(method, fontsize=8)
    panel.set_yscale("symlog", linthresh=0.1)
    panel.set_xlabel("updates", fontsize=7)
    panel.set_ylabel("reward", fontsize=7, color=_BLUE)
    other.set_ylabel("distance to the target", fontsize=7, color=_RED)
    other.set_ylim(bottom=0)
    for axis in (panel, other):
        axis.tick_params(labelsize=6)
