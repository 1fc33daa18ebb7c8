"""The curve of a search, the best reward against NFE, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 34, 60


def svg(points: Sequence[tuple[int, float]], end: int, plain: float) -> str:
    """Draw a rising step curve.

    Args:
        points: NFE and the best reward from there on.
        end: NFE in all.
        plain: Reward of the plain sample, a line across; none if NaN.
    """
    values = [reward for _, reward in points] + ([] if math.isnan(plain) else [plain])
    marks_x, marks_y = ticks(0, end), ticks(min(values), max(values))
    span = (max(values) - min(values)) * 1.08 or 1.0
    low = max(values) - span  # a little room below the lowest

    def x(nfe: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * nfe / max(end, 1)

    def y(reward: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (reward - low) / span

    first, best = points[0], points[-1][1]
    line = f"M{x(first[0]):.1f} {y(first[1]):.1f}" + "".join(f"H{x(n):.1f}V{y(r):.1f}" for n, r in points[1:])
    line += f"H{x(end):.1f}"
    floor = _HEIGHT - _BOTTOM
    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Best reward against NFE, ending at {number(best)}">'
    ]
    for mark in marks_y:
        at = y(mark)
        parts.append(f'<line class="tick" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 10}" y="{at + 5:.1f}" text-anchor="end">{number(mark)}</text>')
    for mark in marks_x:
        parts.append(f'<text x="{x(mark):.1f}" y="{floor + 24}" text-anchor="middle">{mark:,.0f}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">NFE</text>')
    parts.append(f'<text x="0" y="{_TOP - 18}">best reward</text>')
    if not math.isnan(plain):
        at = y(plain)
        parts.append(f'<line class="plain" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        below = at + 20 if best - plain < span / 4 else at - 8  # not where the curve ends
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{below:.1f}" text-anchor="end">plain {number(plain)}</text>')
    parts.append(f'<path class="under" d="{line}V{floor}H{x(first[0]):.1f}Z"/><path class="best" d="{line}"/>')
    parts.append(f'<circle cx="{x(end):.1f}" cy="{y(best):.1f}" r="6"/>')
    parts.append(
        f'<text class="final" x="{x(end):.1f}" y="{y(best) - 14:.1f}" text-anchor="end">{number(best)}</text></svg>'
    )
    return "\n".join(parts)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within and around a range, evenly apart, about as many as ``most``.

    >>> ticks(0, 1000)
    [0.0, 250.0, 500.0, 750.0, 1000.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * unit for unit in (1, 2, 2.5, 5, 10) if size * unit >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)] or [low]


def number(value: float) -> str:
    """A reward as people read it: three decimals, fewer where it is large.

    >>> number(0.93412), number(-128.4)
    ('0.934', '-128.4')
    """
    if not math.isfinite(value):
        return "invalid"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 10_000 else f"{value:.4g}"
