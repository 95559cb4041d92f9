"""Charts as inline SVG: small, sharp, and in the page's own colours, light and dark.

Shapes are styled by page.css; every mark has a <title> that browsers show on hovering, and every
chart a description for those who cannot see it. The same numbers give the same text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from jobs.runtime.report.page import shorten

NUM_COLOURS = 10
"""colours in page.css, --c0 and on"""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a line chart."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    kind: str = "curve"
    """curve: coloured and in the legend; strong: the main one; faint: background, no legend"""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The plotting area of a chart with two axes of numbers, in px of the drawing."""

    width: int = 560
    height: int = 340
    left: int = 52
    right: int = 14
    top: int = 10
    bottom: int = 42
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high = self.y_range
        room = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * room


def bars(names: Sequence[str], values: Sequence[int], muted: Sequence[str] = ()) -> Markup:
    """Horizontal bars, one a name; those `muted` are sums of others: a number without a bar."""
    step, left, right, width = 24, 158, 104, 540
    drawn = [value for name, value in zip(names, values, strict=True) if name not in muted]
    largest, total = max(drawn, default=0) or 1, sum(values) or 1
    marks: list[str] = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        length = 0.0 if name in muted else max(value / largest * (width - left - right), 1.0)
        middle, kind = i * step + step // 2, "bar" if length else "muted"
        marks.append(
            f"<g><title>{escape(name)}: {value:,} of {total:,} ({value / total:.2%})</title>"
            + _text(left - 8, middle + 4, shorten(name, 24), "" if length else "soft", "end")
            + f'<rect class="{kind}" x="{left}" y="{middle - 8}" width="{length:.1f}" '
            'height="16" rx="3"/>'
            + _text(left + length + 6, middle + 4, f"{value:,}", "number")
            + _text(width, middle + 4, f"{value / total:.1%}", "soft number", "end")
            + "</g>"
        )
    return _svg(width, max(len(names), 1) * step, f"bar chart of {len(names)} values", marks)


def histogram(
    counts: Sequence[int], edges: Sequence[float], axis: str, counted: str = "images"
) -> Markup:
    """Vertical bars of counts between `edges` (one more than counts), rising."""
    top = _ceiling(max(counts, default=0))
    frame = Frame(x_range=(float(edges[0]), float(edges[-1])), y_range=(0, top), left=64)
    marks = _axes(frame, axis, counted, _ticks(*frame.x_range), _count_ticks(top))
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        start, end, y = frame.x(low) + 1, frame.x(high) - 1, frame.y(count)
        if count:
            y = min(y, frame.y(0) - 1)
        marks.append(
            f'<rect class="bar" x="{start:.1f}" y="{y:.1f}" width="{end - start:.1f}" '
            f'height="{frame.y(0) - y:.1f}" rx="2"><title>{low:g} to {high:g}: {count:,}</title>'
            "</rect>"
        )
    return _svg(frame.width, frame.height, f"histogram of {axis}, {sum(counts):,} values", marks)


def lines(
    series: Sequence[Series],
    x_axis: str,
    y_axis: str,
    *,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
    x_ticks: Sequence[tuple[float, str]] = (),
    height: int = 470,
    diagonal: str = "",
    columns: int = 2,
) -> Markup:
    """Lines with a legend below; `diagonal` names the dashed line of chance.

    A line of a single value is a ring. `x_ticks` are values and what they are called, where it is
    not five equal steps.
    """
    named = [one for one in series if one.kind != "faint"]
    rows = math.ceil((len(named) + bool(diagonal)) / columns)
    frame = Frame(
        height=height + 20 * rows,
        bottom=50 + 20 * rows,
        width=520,
        x_range=x_range,
        y_range=y_range,
    )
    marks = _axes(frame, x_axis, y_axis, x_ticks or _ticks(*x_range), _ticks(*y_range))
    ordered = sorted(series, key=lambda one: ("faint", "curve", "strong").index(one.kind))
    colours = {id(s): i for i, s in enumerate(s for s in named if s.kind == "curve")}
    if diagonal:
        ends = (frame.x(0), frame.y(0), frame.x(1), frame.y(1))
        marks.append(_line(*ends, "chance"))
    for one in ordered:
        places = [
            (f"{frame.x(float(x)):.1f}", f"{frame.y(float(y)):.1f}")
            for x, y in zip(one.x, one.y, strict=True)
        ]
        shape, where = "polyline", f'points="{" ".join(map(",".join, places))}"'
        if len(places) == 1:
            shape, where = "circle", 'cx="{}" cy="{}" r="4"'.format(*places[0])
        marks.append(
            f'<{shape} class="{one.kind}"{_stroke(one, colours)} {where}>'
            f"<title>{escape(one.name)}</title></{shape}>"
        )
    top, space = frame.height - 20 * rows + 4, (frame.width - frame.left) / columns
    legend = [(one.kind, one.name, _stroke(one, colours)) for one in named]
    legend += [("chance", diagonal, "")] if diagonal else []
    for i, (kind, name, stroke) in enumerate(legend):
        x, y = frame.left + i % columns * space, top + i // columns * 20
        marks.append(f'<line class="{kind}"{stroke} x1="{x}" y1="{y}" x2="{x + 18}" y2="{y}"/>')
        marks.append(_text(x + 24, y + 4, shorten(name, 30), title=name))
    return _svg(frame.width, frame.height, f"{y_axis} over {x_axis}, {len(series)} lines", marks)


def reliability(
    edges: Sequence[float], counts: Sequence[int], confidence: Sequence[float], accuracy: np.ndarray
) -> Markup:
    """Accuracy and mean confidence by bin of confidence, and below them the images of each bin.

    Between the two stands the gap: `over` where confidence is too high, `under` where too low.
    """
    frame = Frame(width=520, height=490, bottom=146)
    marks = _axes(frame, "", "accuracy", [], [(v, f"{v:g}") for v in _steps(0, 1)])
    below = Frame(
        width=520, height=490, top=374, bottom=42, y_range=(0, max(max(counts, default=0), 1))
    )
    marks += _axes(below, "confidence", "images", _ticks(0, 1), [])
    for i, count in enumerate(counts):
        if not count:
            continue
        x, width = frame.x(edges[i]) + 1, frame.x(edges[i + 1]) - frame.x(edges[i]) - 2
        mean, right = float(confidence[i]), float(accuracy[i])
        low, high = sorted((mean, right))
        gap = "gap over" if mean > right else "gap under"
        told = (
            f"confidence {edges[i]:.2f} to {edges[i + 1]:.2f}: {count:,} images, "
            f"mean confidence {mean:.3f}, accuracy {right:.3f}"
        )
        marks.append(
            f"<g><title>{told}</title>"
            + _rect(x, frame.y(low), width, frame.y(0) - frame.y(low), "bar")
            + _rect(x, frame.y(high), width, frame.y(low) - frame.y(high), gap)
            + _rect(x, below.y(count), width, below.y(0) - below.y(count), "muted")
            + "</g>"
        )
    marks.append(_line(frame.x(0), frame.y(0), frame.x(1), frame.y(1), "chance"))
    return _svg(frame.width, frame.height, "reliability diagram: accuracy over confidence", marks)


def _stroke(one: Series, colours: dict[int, int]) -> str:
    if one.kind != "curve":
        return ""
    return f' style="stroke: var(--c{colours[id(one)] % NUM_COLOURS})"'


def _axes(
    frame: Frame,
    x_name: str,
    y_name: str,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
) -> list[str]:
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    marks = []
    for value, name in y_ticks:
        y = frame.y(value)
        marks.append(_line(frame.left, y, right, y, "grid"))
        marks.append(_text(frame.left - 8, y + 4, name, "soft number", "end"))
    marks.append(_line(frame.left, bottom, right, bottom, "axis"))
    for value, name in x_ticks:
        marks.append(_text(frame.x(value), bottom + 18, name, "soft number", "middle"))
    middle = (frame.top + bottom) / 2
    if x_name:
        marks.append(_text((frame.left + right) / 2, bottom + 36, x_name, "soft", "middle"))
    marks.append(
        f'<text class="soft" text-anchor="middle" transform="translate(13 {middle:.0f}) '
        f'rotate(-90)">{escape(y_name)}</text>'
    )
    return marks


def _steps(low: float, high: float, num: int = 5) -> list[float]:
    return [low + (high - low) * i / num for i in range(num + 1)]


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    return [(value, f"{value:g}") for value in _steps(low, high)]


def count_ticks(last: int) -> list[tuple[float, str]]:
    """Marks of an axis that counts from 1 to `last`: whole numbers, eight at the most."""
    powers = (10**exponent for exponent in range(len(str(last)) + 1))
    steps = (factor * power for power in powers for factor in (1, 2, 5))
    step = next(step for step in steps if last <= 8 * step)
    return [(n, f"{n:,}") for n in range(step, last + 1, step)]


def _ceiling(value: int) -> int:
    """The next larger of 4, 8, 10, 20, 40, 80, 100 …: divides into round steps."""
    if value <= 4:
        return 4
    power = 10 ** (len(str(value)) - 1)
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value)


def _count_ticks(top: int) -> list[tuple[float, str]]:
    parts = 4 if top % 4 == 0 else 5
    return [(top * i // parts, f"{top * i // parts:,}") for i in range(parts + 1)]


def _text(
    x: float, y: float, text: str, kind: str = "", anchor: str = "start", title: str = ""
) -> str:
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    told = f"<title>{escape(title)}</title>" if title not in ("", text) else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{told}{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}/>'


def _svg(width: float, height: float, description: str, marks: Sequence[str]) -> Markup:
    return Markup(  # every text above went through escape
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(description)}">' + "".join(marks) + "</svg>"
    )
