"""Samples by two rewards, and the front of those that no other beats, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from evosearch.curve import number, ticks

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 34, 60


def svg(points: Sequence[tuple[float, float]], front: int, names: tuple[str, str]) -> str:
    """Draw points, those of the front joined by a line.

    Args:
        points: Rewards across and up, (N, 2).
        front: The first so many of them are the front, from right to left.
        names: Of the two rewards.
    """
    (across, up), floor = zip(*points, strict=True), _HEIGHT - _BOTTOM
    x, y = _scale(across, _LEFT, _WIDTH - _RIGHT), _scale(up, floor, _TOP)
    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{front} samples that no other beats, by {escape(names[0])} and {escape(names[1])}">'
    ]
    for mark in ticks(min(up), max(up)):
        parts.append(f'<line class="tick" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 10}" y="{y(mark) + 5:.1f}" text-anchor="end">{number(mark)}</text>')
    for mark in ticks(min(across), max(across)):
        parts.append(f'<text x="{x(mark):.1f}" y="{floor + 24}" text-anchor="middle">{number(mark)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(names[0])}</text>')
    parts.append(f'<text x="0" y="{_TOP - 18}">{escape(names[1])}</text>')
    line = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points[:front])
    parts.append(f'<polyline class="best" points="{line}"/>')
    for k, (a, b) in enumerate(points):
        kind = "" if k < front else ' class="beaten"'
        parts.append(f'<circle{kind} cx="{x(a):.1f}" cy="{y(b):.1f}" r="6"/>')
    return "\n".join([*parts, "</svg>"])


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, span = min(values), max(values) - min(values)
    margin = 0.04 * (end - start)
    if not span:
        return lambda _: (start + end) / 2
    return lambda value: start + margin + (end - start - 2 * margin) * (value - low) / span
