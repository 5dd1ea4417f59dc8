# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Plots of an audit's page: SVG that is written into the page, with no script and nothing to load.

Lines differ in colour and in their dashes, and each plot says in words what it shows.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
MAX_SERIES = 8
# each at least 4.5 : 1 on white
COLOURS = ("#0b5fa5", "#b3261e", "#1b6e3c", "#7a3e9d", "#8a5200", "#00696d", "#5b4b00", "#9c1a6b")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "4 2", "1 4", "10 2 2 2 2 2")
# a gap of more than this many steps is one: nothing was measured
_GAP_STEPS = 2.5

# of labels the ones that tell series of a plot apart; the others are Prometheus' own
_NAMING = ("host", "model")
_OWN = ("__name__", "instance", "job", "role")

Point = tuple[float, float]


def series_of(raw: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Point]]]:
    """The series of a plot that have points, by name: the host or model, else all labels, or nothing where there is one series without labels."""
    result = []
    for item in raw:
        points = [(float(time), float(value)) for time, value in item["points"] if value is not None and math.isfinite(float(value))]
        if points:
            labels = {name: str(value) for name, value in item["labels"].items() if name not in _OWN}
            naming = [labels[name] for name in _NAMING if name in labels] or [labels[name] for name in sorted(labels)]
            result.append((", ".join(naming), points))
    return sorted(result)


def nice_top(value: float) -> float:
    """A round number that is not less, for the end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def number(value: float, percent: bool = False) -> str:
    """A number for people, short; a share as percent."""
    if percent:
        return f"{100 * value:.3g} %"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _paths(points: Sequence[Point], begin: float, end: float, top: float) -> str:
    """The line through the points, broken where samples are missing."""
    steps = sorted(right[0] - left[0] for left, right in zip(points, points[1:]))
    gap = _GAP_STEPS * steps[len(steps) // 2] if steps else math.inf
    parts: list[str] = []
    before = begin
    for time, value in points:
        x = LEFT + (time - begin) / (end - begin) * (WIDTH - LEFT - RIGHT)
        y = TOP + (1 - min(max(value / top, 0), 1)) * (HEIGHT - TOP - BOTTOM)
        parts.append(f"{'L' if parts and time - before <= gap else 'M'}{x:.1f} {y:.1f}")
        before = time
    # a single point would be no line
    return " ".join(parts) + (" h1" if len(points) == 1 else "")


def plot(title: str, raw: Iterable[Mapping[str, Any]], end: float, seconds: float, percent: bool = False) -> dict[str, Any] | None:
    """A plot of series (labels, points) over the C(seconds) until C(end), of shares where C(percent); None where there is nothing to show.

    Returns title, svg, legend (dicts of name, colour, dash, last) and left_out, the number of series that are not shown.
    """
    found = series_of(raw)
    if not found:
        return None
    shown = found[:MAX_SERIES]
    begin = end - seconds
    top = nice_top(max(value for _name, points in shown for _time, value in points))
    text = "; ".join(
        f"{name or 'in all'}: {number(min(value for _t, value in points), percent)} to {number(max(value for _t, value in points), percent)}, "
        f"last {number(points[-1][1], percent)}"
        for name, points in shown
    )
    body = _grid(begin, end, top, percent)
    for place, (_name, points) in enumerate(shown):
        dash = f' stroke-dasharray="{DASHES[place]}"' if DASHES[place] else ""
        body.append(f'<path d="{_paths(points, begin, end, top)}" fill="none" stroke="{COLOURS[place]}" stroke-width="2" stroke-linecap="round"{dash}/>')
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
        f"<desc>{escape(text)}</desc>{''.join(body)}</svg>"
    )
    legend = [
        {"name": name or "all", "colour": COLOURS[place], "dash": DASHES[place], "last": number(points[-1][1], percent)}
        for place, (name, points) in enumerate(shown)
    ]
    return {"title": title, "svg": Markup(svg), "legend": legend, "left_out": len(found) - len(shown)}


def _grid(begin: float, end: float, top: float, percent: bool) -> list[str]:
    lines = []
    for part in range(5):
        y = TOP + part / 4 * (HEIGHT - TOP - BOTTOM)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#c9ced6" stroke-width="1"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(top * (1 - part / 4), percent)}</text>')
    for part in range(5):
        x = LEFT + part / 4 * (WIDTH - LEFT - RIGHT)
        clock = datetime.datetime.fromtimestamp(begin + part / 4 * (end - begin), datetime.timezone.utc).strftime("%H:%M")
        anchor = {0: "start", 4: "end"}.get(part, "middle")
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{clock}</text>')
    return lines
