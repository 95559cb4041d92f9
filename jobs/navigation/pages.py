"""The page of an agent's training: curves of what it reached, in rooms learnt in and in others."""

from collections.abc import Iterator, Sequence
from typing import Literal

from jobs.navigation.judging import best_of
from jobs.runtime.learner import Metrics
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.charts import Series
from jobs.runtime.report.page import Chart, Figure, Section, Table, page
from jobs.runtime.report.training import round_up
from jobs.runtime.run import Run

CURVES = ("success", "spl", "return", "length", "entropy")
NAMES = {"spl": "Path efficiency (SPL)", "entropy": "Entropy of the policy"}
SHARES = ("success", "spl")
KEPT_BACK = "seeds kept back"
"""from learning"""
COLUMNS = ("step", "success", "spl", "return", "length", "train_success", "train_return", "entropy")


def write_training_page(
    run: Run, history: Sequence[Metrics], beside: Metrics, films: Section | None
) -> str:
    """Put report/index.html; returns its URI. `beside` is what chance reaches."""
    rows = [[judged.get(name, "") for name in COLUMNS] for judged in history]
    sections = [
        *([films] if films else []),
        Section(title="What it learnt", charts=_curves(history)),
        Section(
            title="Judgements",
            tables=[Table(columns=[name.replace("_", " ") for name in COLUMNS], rows=rows)],
            folded=True,
        ),
        *about(run),
    ]
    figures = list(_figures(history, beside))
    return run.put("report/index.html", page(title_of(run), run.uri, figures, sections))


def _figures(history: Sequence[Metrics], beside: Metrics) -> Iterator[Figure]:
    best, last = best_of(history), history[-1]
    chance = f"chance: {beside['success']:.1%}"
    yield Figure(name="Success", value=f"{best['success']:.1%}", note=f"{KEPT_BACK}; {chance}")
    if "spl" in best:
        note = f"of 1, the shortest path's; chance: {beside['spl']:.3f}"
        yield Figure(name="Path efficiency (SPL)", value=f"{best['spl']:.3f}", note=note)
    if "shortest" in beside:
        note = f"of the shortest path: {beside['shortest']:.1f}; of chance: {beside['length']:.1f}"
        yield Figure(name="Actions", value=f"{best['length']:.1f}", note=note)
    chance = f"chance: {beside['return']:.3f}"
    yield Figure(name="Return", value=f"{best['return']:.3f}", note=f"{KEPT_BACK}; {chance}")
    yield Figure(name="Steps", value=f"{last['step']:,.0f}", note=f"best at {best['step']:,.0f}")
    speed = last["step"] / max(last["seconds"], 1e-9)
    yield Figure(name="Speed", value=f"{speed:,.0f}/s", note="steps")


def _curves(history: Sequence[Metrics]) -> list[Chart]:
    """Of what there are numbers; rewards while learning hold shaping, and are another thing."""
    return [_curve(name, history) for name in CURVES if any(name in each for each in history)]


def _curve(name: str, history: Sequence[Metrics]) -> Chart:
    sides: list[tuple[str, str, Literal["strong", "curve"]]] = [
        (f"greedy, on {KEPT_BACK}", name, "strong")
    ]
    if name in ("success", "length"):
        sides.append(("as it learns", f"train_{name}", "curve"))
    if name == "entropy":
        sides = [("as it learns", name, "curve")]
    series = []
    for told, key, kind in sides:
        there = [judged for judged in history if key in judged]
        if there:
            x, y = [judged["step"] for judged in there], [judged[key] for judged in there]
            series.append(Series(name=told, x=x, y=y, kind=kind))
    lowest = min(min(one.y) for one in series)
    highest = max(max(one.y) for one in series)
    svg = charts.lines(
        series,
        "steps",
        name,
        x_range=(0, history[-1]["step"]),
        x_ticks=[(n, f"{n / 1_000:g}k") for n, _ in charts.count_ticks(int(history[-1]["step"]))],
        y_range=(
            -round_up(-lowest) if lowest < 0 else 0.0,
            1.0 if name in SHARES else round_up(max(highest, 1e-9)),
        ),
        height=300,
    )
    return Chart(title=NAMES.get(name, name.capitalize()), svg=svg, caption="")
