"""The page of an agent's evaluation: beside chance and the shortest path; films, failures."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jobs.navigation.figures import Figures, table_of
from jobs.navigation.playing import Episode
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.charts import Series
from jobs.runtime.report.page import Chart, Figure, Section, Table, page
from jobs.runtime.run import Run

NUM_BINS = 8
NUM_COUNTS = 20
"""bars of a histogram of actions"""
NUM_TICKS = 5
"""of an axis: its end is a multiple"""
NUM_FAILURES = 50
KINDS = {"greedy": "strong", "sampled": "curve", "random": "curve"}
TEXT = (
    "Greedy: always the most probable action. Sampled: one by the probabilities. Random: any, each "
    "as likely as the others. SPL is success weighted by path length (Anderson et al. 2018): 1 "
    "where each goal is reached by a shortest path. The interval is Wilson's."
)


def evaluation_page(
    run: Run,
    played: Mapping[str, Sequence[Episode]],
    figures: Mapping[str, Figures],
    films: Section,
    note: str = "",
) -> bytes:
    """The page as HTML; `note` is said above the table."""
    sections = [
        Section(
            title="How well it finds its way",
            text=f"{note} {TEXT}".strip(),
            tables=[table_of(figures)],
        ),
        *([films] if films.thumbnails else []),
        Section(title="How far, how straight", charts=list(_charts(played))),
        *_failures(played),
        *about(run),
    ]
    return page(title_of(run), run.uri, list(_figures(figures)), sections)


def _figures(figures: Mapping[str, Figures]) -> Iterator[Figure]:
    greedy, sampled, chance = (figures[name] for name in ("greedy", "sampled", "random"))
    sure = f"95 % sure: {greedy.low:.1%} to {greedy.high:.1%}"
    yield Figure(name="Success", value=f"{greedy.success:.1%}", note=f"greedy, {sure}")
    yield Figure(name="Success, sampled", value=f"{sampled.success:.1%}")
    yield Figure(name="Success of chance", value=f"{chance.success:.1%}")
    if greedy.spl == greedy.spl:
        note = "greedy; 1: the shortest path"
        yield Figure(name="Path efficiency (SPL)", value=f"{greedy.spl:.3f}", note=note)
    yield Figure(name="Return", value=f"{greedy.total:.3f}", note="greedy")
    yield Figure(
        name="Episodes",
        value=f"{greedy.episodes:,}",
        note="of each policy, of seeds that no training has",
    )


def _charts(played: Mapping[str, Sequence[Episode]]) -> Iterator[Chart]:
    shortest = np.array([each.shortest for each in played["greedy"]])
    if (shortest > 0).all() and len(set(shortest.tolist())) > 1:
        yield _by_distance(played, shortest)
        beyond = [e.length - e.shortest for e in played["greedy"] if e.success]
        told = "Of the greedy agent's successes; turns count as actions."
        yield _counted("Actions beyond the shortest path", beyond, told)
    else:
        lengths = [each.length for each in played["greedy"] if each.success]
        yield _counted("Actions to the goal", lengths, "Of the greedy agent's successes.")


def _by_distance(played: Mapping[str, Sequence[Episode]], shortest: np.ndarray) -> Chart:
    """Success by how far the goal is, in bins of equally many episodes."""
    quantiles = np.quantile(shortest, np.linspace(0, 1, NUM_BINS + 1)[1:-1])
    bins = np.searchsorted(np.unique(quantiles), shortest, side="left")
    series = []
    for name, kind in KINDS.items():
        success = np.array([each.success for each in played[name]])
        groups = [bins == number for number in np.unique(bins)]
        x = [float(shortest[group].mean()) for group in groups]
        y = [float(success[group].mean()) for group in groups]
        series.append(Series(name=name, x=x, y=y, kind=kind))
    svg = charts.lines(
        series,
        "actions of the shortest path",
        "success",
        x_range=(0, float(-(-shortest.max() // NUM_TICKS) * NUM_TICKS)),
        height=300,
    )
    return Chart(title="Success by how far the goal is", svg=svg)


def _counted(title: str, values: Sequence[int], caption: str) -> Chart:
    step = -(-(max(values, default=0) + 1) // NUM_COUNTS)
    edges = np.arange(0, (NUM_COUNTS + 1) * step, step)
    counts, _ = np.histogram(values, edges)
    svg = charts.histogram(counts.tolist(), edges.tolist(), "actions", "episodes")
    return Chart(title=title, svg=svg, caption=caption)


def _failures(played: Mapping[str, Sequence[Episode]]) -> Iterator[Section]:
    sampled = {each.seed: each for each in played["sampled"]}
    failed = [each for each in played["greedy"] if not each.success]
    if not failed:
        return
    rows = [
        [
            str(each.seed),
            each.shortest if each.shortest > 0 else float("nan"),
            each.length,
            each.total,
            "yes" if sampled[each.seed].success else "no",
        ]
        for each in failed[:NUM_FAILURES]
    ]
    columns = ("seed", "shortest path", "actions taken", "return", "reached when sampled")
    note = f"The first {NUM_FAILURES} of {len(failed):,}." if len(failed) > NUM_FAILURES else ""
    table = Table(columns=columns, rows=rows, note=note)
    yield Section(title="Where the greedy agent failed", tables=[table], folded=True)
