"""Many runs -> a table, a plot, and a file with everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from tests.benchmarks.figures import Figures

REFERENCE = "ray_recipe"
"""whom ratios and agreement are told against"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of one contender, done or failed."""

    network: str
    layout: str
    contender: str
    repeat: int
    load: float
    """runnable processes on the machine when it started: other people's work"""
    figures: Figures | None
    """None where it failed"""
    failure: str = ""
    """why, in a line"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contender over all its runs: medians."""

    network: str
    layout: str
    contender: str
    runs: int
    failure: str
    """of the last run that failed; empty where none did"""
    steady_rate: float | None = None
    """images per second"""
    whole_rate: float | None = None
    """images per second, from the start of the process to its end"""
    total_s: float | None = None
    first_result_s: float | None = None
    cpu_ms: float | None = None
    """per image, start included"""
    steady_ratio: float | None = None
    """to the reference"""
    whole_ratio: float | None = None
    agreement: float | None = None
    """share of the photographs that got the reference's label"""
    accuracy: float | None = None
    """share that got the region they show"""


Key = tuple[str, str, str]
Labels = Mapping[int, str]


def summarise(
    outcomes: Sequence[Outcome], found: Mapping[Key, Labels], truth: Labels
) -> list[Line]:
    """A line for each network, layout and contender, in the order in which they first ran."""
    keys = dict.fromkeys((o.network, o.layout, o.contender) for o in outcomes)
    return [_line(key, outcomes, found, truth) for key in keys]


def share_equal(one: Labels, other: Labels) -> float | None:
    """Share of `other`'s photographs to which `one` gives the same label; None without any."""
    return sum(one.get(n) == label for n, label in other.items()) / len(other) if other else None


def _line(
    key: Key, outcomes: Sequence[Outcome], found: Mapping[Key, Labels], truth: Labels
) -> Line:
    mine, reference = _runs(outcomes, key), _runs(outcomes, (*key[:2], REFERENCE))
    failures = [o.failure for o in outcomes if _key(o) == key and o.failure]
    failure = failures[-1] if failures else ""
    if not mine:
        return Line(network=key[0], layout=key[1], contender=key[2], runs=0, failure=failure)
    steady, whole = _steady(mine), _whole(mine)
    labels = found.get(key, {})
    return Line(
        network=key[0],
        layout=key[1],
        contender=key[2],
        runs=len(mine),
        failure=failure,
        steady_rate=steady,
        whole_rate=whole,
        total_s=median(run.total_s for run in mine),
        first_result_s=median(run.first_result_s for run in mine),
        cpu_ms=median(1000 * run.cpu_s / run.rows for run in mine),
        steady_ratio=_ratio(steady, _steady(reference)),
        whole_ratio=_ratio(whole, _whole(reference)),
        agreement=share_equal(labels, found.get((*key[:2], REFERENCE), {})),
        accuracy=share_equal(labels, truth),
    )


def _key(outcome: Outcome) -> Key:
    return outcome.network, outcome.layout, outcome.contender


def _runs(outcomes: Sequence[Outcome], key: Key) -> list[Figures]:
    return [o.figures for o in outcomes if _key(o) == key and o.figures]


def _steady(runs: Sequence[Figures]) -> float | None:
    rates = [run.steady_rate for run in runs if run.steady_rate is not None]
    return median(rates) if rates else None


def _whole(runs: Sequence[Figures]) -> float | None:
    return median(run.rows / run.total_s for run in runs) if runs else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


COLUMNS = (
    ("steady img/s", "steady_rate", "{:.1f}"),
    ("ratio", "steady_ratio", "{:.2f}"),
    ("whole run img/s", "whole_rate", "{:.1f}"),
    ("ratio", "whole_ratio", "{:.2f}"),
    ("end to end s", "total_s", "{:.1f}"),
    ("first result s", "first_result_s", "{:.1f}"),
    ("CPU ms/image", "cpu_ms", "{:.1f}"),
    ("agreement", "agreement", "{:.1%}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("runs", "runs", "{}"),
)


def table(lines: Sequence[Line]) -> str:
    """The lines as Markdown, aligned for a terminal."""
    rows = [["network", "format", "contender", *(title for title, _, _ in COLUMNS), "failed"]]
    for line in lines:
        cells = [(getattr(line, name), form) for _, name, form in COLUMNS]
        texts = ["–" if value is None else form.format(value) for value, form in cells]
        rows.append([line.network, line.layout, line.contender, *texts, line.failure])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in padded)


def plot(lines: Sequence[Line], path: Path, caption: str) -> None:
    """Steady and whole-run rates as horizontal bars, a row of panels per network and format."""
    groups = list(dict.fromkeys((line.network, line.layout) for line in lines))
    tallest = max(sum((o.network, o.layout) == group for o in lines) for group in groups)
    size = (10, len(groups) * (0.9 + 0.32 * tallest) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for (network, layout), row in zip(groups, panels, strict=True):
        shown = [
            line for line in reversed(lines) if (line.network, line.layout) == (network, layout)
        ]
        for panel, what, rates in (
            (row[0], "steady", [line.steady_rate for line in shown]),
            (row[1], "whole run, start included", [line.whole_rate for line in shown]),
        ):
            colours = ["#c2410c" if o.contender.startswith("argus") else "#64748b" for o in shown]
            bars = panel.barh([o.contender for o in shown], [r or 0 for r in rates], color=colours)
            panel.bar_label(bars, [f"{r:.1f}" if r else "failed" for r in rates], padding=3)
            panel.set_title(f"{network}, {layout}: images/s, {what}", fontsize=9, loc="left")
            panel.spines[["top", "right"]].set_visible(False)
            panel.margins(x=0.15)
    figure.supxlabel(caption, fontsize=8, color="#64748b")
    figure.savefig(path, dpi=120)
