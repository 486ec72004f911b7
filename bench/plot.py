"""Plots of growth as SVG: some curves over the size of the input, both axes logarithmic."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 320, 40, 50
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's, which everybody can tell apart."""
_STYLE = 'role="img" font-family="sans-serif" font-size="12"'
Points = Sequence[tuple[float, float]]


class Axis:
    """Values to pixels, by whole decades."""

    def __init__(self, values: Sequence[float], first_pixel: float, last_pixel: float) -> None:
        self.first = math.floor(math.log10(min(values)))
        self.last = max(self.first + 1, math.ceil(math.log10(max(values))))
        self._from, self._to = first_pixel, last_pixel

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return self._from + share * (self._to - self._from)

    def decades(self) -> list[float]:
        """The values of the grid."""
        return [10.0**exponent for exponent in range(self.first, self.last + 1)]


def write(path: Path, *, title: str, across: str, curves: Mapping[str, Points]) -> None:
    """Draws the curves; each is named beside its last point, with its value there."""
    points = [point for curve in curves.values() for point in curve]
    x = Axis([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y = Axis([point[1] for point in points], HEIGHT - BOTTOM, TOP)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_lines(title, across, curves, x, y)) + "\n", encoding="utf-8")


def _lines(title: str, across: str, curves: Mapping[str, Points], x: Axis, y: Axis) -> list[str]:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_STYLE}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{escape(across)}</text>',
    ]
    for value in x.decades():
        lines.append(_line(x.at(value), TOP, x.at(value), HEIGHT - BOTTOM))
        lines.append(_text(x.at(value), HEIGHT - BOTTOM + 16, f"{value:,.10g}", anchor="middle"))
    for value in y.decades():
        lines.append(_line(LEFT, y.at(value), WIDTH - RIGHT, y.at(value)))
        lines.append(_text(LEFT - 6, y.at(value) + 4, f"{value:,.10g}", anchor="end"))
    names = sorted(curves, key=lambda name: -curves[name][-1][1])
    lowest = TOP - 16.0
    for name in names:
        colour = COLOURS[list(curves).index(name) % len(COLOURS)]
        drawn = [(x.at(across_value), y.at(value)) for across_value, value in curves[name]]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in drawn)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.extend(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>' for left, top in drawn
        )
        # Names that would lie on one another move down.
        lowest = max(lowest + 16, drawn[-1][1] + 4)
        label = f"{name}: {curves[name][-1][1]:,.3g}"
        lines.append(_text(WIDTH - RIGHT + 10, lowest, label, colour=colour))
    return [*lines, "</svg>"]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{escape(text)}</text>'
