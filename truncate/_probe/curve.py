"""The curve of a probe as SVG that needs nothing else: the score of each layer against its share of the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
svg { --ground: #ffffff; --text: #1f2328; --faint: #626a73; --line: #d8dee4; --point: #1a7f37; --best: #7a35d4; }
@media (prefers-color-scheme: dark) {
  svg { --ground: #0d1117; --text: #e6edf3; --faint: #969fa9; --line: #30363d; --point: #46c15a; --best: #c49bff; }
}
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: var(--text); }
.title { font-size: 16px; font-weight: bold; }
.ground { fill: var(--ground); }
.faint { fill: var(--faint); }
.grid { stroke: var(--line); }
.curve, .bar { stroke: var(--point); fill: none; }
circle { fill: var(--point); }
.marked circle { fill: var(--best); }
.marked .bar { stroke: var(--best); }
.marked text { fill: var(--best); font-weight: bold; }
"""
_LETTER, _LINE = 7.25, 14
_LEFT, _TOP, _WIDTH, _HEIGHT, _RIGHT, _BOTTOM = 72, 52, 620, 300, 40, 56


@dataclass
class Point:
    """A layer on the curve."""

    name: str
    x: float  # the share of the whole, from 0 to 1
    y: float
    spread: float
    marked: str = ""  # what it is marked as


def page(title: str, x_name: str, y_name: str, points: Sequence[Point]) -> str:
    """A whole file."""
    low = min(point.y - point.spread for point in points)
    high = max(point.y + point.spread for point in points)
    margin = 0.08 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def at(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + x * _WIDTH, 1), round(_TOP + (high - y) / (high - low) * _HEIGHT, 1)

    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        '<rect class="ground" width="100%" height="100%" rx="8"/>',
        f'<text class="title" x="16" y="28">{escape(title)}</text>',
        f'<text class="faint" x="{_LEFT + _WIDTH / 2}" y="{height - 14}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text class="faint" x="{_LEFT - 8}" y="{_TOP - 10}" text-anchor="end">{escape(y_name)}</text>',
    ]
    for step in range(6):
        (x, bottom), (left, y) = at(step / 5, low), at(0, low + step / 5 * (high - low))
        parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}M{left} {y}H{_LEFT + _WIDTH}"/>')
        parts.append(f'<text class="faint" x="{x}" y="{bottom + 18}" text-anchor="middle">{20 * step} %</text>')
        value = low + step / 5 * (high - low)
        parts.append(f'<text class="faint" x="{left - 8}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
    line = " ".join("{},{}".format(*at(point.x, point.y)) for point in sorted(points, key=lambda point: point.x))
    parts.append(f'<polyline class="curve" points="{line}"/>')
    points = sorted(points, key=lambda point: not point.marked)  # which are to have their names in any case
    for point, place in zip(points, _labels([(*at(point.x, point.y), point.name) for point in points])):
        (x, y), (_, top), (_, bottom) = (at(point.x, point.y + sign * point.spread) for sign in (0, 1, -1))
        says = f"{point.name}: {point.y:.3g} ± {point.spread:.2g} at {100 * point.x:.1f} % {point.marked}".strip()
        parts.append(
            f'<g class="{"marked" if point.marked else "point"}"><title>{escape(says)}</title>'
            f'<path class="bar" d="M{x} {top}V{bottom}"/><circle cx="{x}" cy="{y}" r="4"/>'
            + (f'<text x="{place[0]:.1f}" y="{place[1]:.1f}">{escape(point.name)}</text>' if place else "")
            + "</g>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _labels(points: Sequence[tuple[float, float, str]]) -> Iterator[tuple[float, float] | None]:
    """Where the name of each point begins: near it, and clear of those before it; None where there is no room."""
    taken: list[tuple[float, float, float]] = []
    for x, y, name in points:
        wide = len(name) * _LETTER
        left = x + 6 if x + 6 + wide < _LEFT + _WIDTH + _RIGHT else x - 6 - wide
        base = y - 6
        while any(abs(base - b) < _LINE and left < r and left + wide > a for a, r, b in taken):
            base += 2 if y < _TOP + _HEIGHT / 2 else -2
        if _TOP < base < _TOP + _HEIGHT + 4:
            taken.append((left, left + wide, base))
            yield left, base
        else:
            yield None
