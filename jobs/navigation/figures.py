"""What an agent's episodes come to, beside those of chance and of the shortest path."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.navigation.evaluating import POLICIES
from jobs.navigation.playing import Episode
from jobs.runtime.report.intervals import interval
from jobs.runtime.report.page import Table
from vision_ops.metrics.navigation import path_efficiency

SHORTEST = "shortest path"
NAMES = {
    "random": "random",
    "sampled": "agent, sampled",
    "greedy": "agent, greedy",
    SHORTEST: SHORTEST,
}
"""lines of the table, from what needs no agent to what none can surpass"""
HEADINGS = ("policy", "episodes", "success", "95 % interval", "return", "length", "SPL")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one policy's episodes; what is not known is not a number."""

    episodes: int
    success: float
    """share of the episodes that reached the goal"""
    low: float
    """success is between this, with 95 % confidence (Wilson)"""
    high: float
    """… and this"""
    total: float
    """mean return"""
    length: float
    """mean of the actions taken, in failures too"""
    spl: float
    """success weighted by path length, 0..1; known where all shortest paths are"""


def read_episodes(batches: Iterable[pa.RecordBatch]) -> dict[str, list[Episode]]:
    """The rows of a run as episodes by policy, by seed; their actions are not kept."""
    found: dict[str, list[Episode]] = {name: [] for name in POLICIES}
    for batch in batches:
        for row in batch.to_pylist():
            episode = Episode(
                seed=row["seed"],
                success=row["success"],
                total=row["return"],
                length=row["length"],
                shortest=row["shortest"] or -1,
                actions=(),
            )
            found[row["policy"]].append(episode)
    return {name: sorted(played, key=lambda each: each.seed) for name, played in found.items()}


def figures_of(played: Sequence[Episode]) -> Figures:
    """Of at least one episode."""
    success = np.array([each.success for each in played])
    shortest, taken = (
        np.array([getattr(each, name) for each in played]) for name in ("shortest", "length")
    )
    low, high = interval(float(success.mean()), len(played))
    known = bool((shortest > 0).all())
    return Figures(
        episodes=len(played),
        success=float(success.mean()),
        low=low,
        high=high,
        total=float(np.mean([each.total for each in played])),
        length=float(taken.mean()),
        spl=path_efficiency(success, shortest, taken) if known else float("nan"),
    )


def all_figures(played: Mapping[str, Sequence[Episode]]) -> dict[str, Figures]:
    """Of each policy, and of the shortest path where it is known for every episode."""
    found = {name: figures_of(played[name]) for name in NAMES if played.get(name)}
    shortest = np.array([each.shortest for each in played["greedy"]])
    if (shortest > 0).all():
        found[SHORTEST] = Figures(
            episodes=len(shortest),
            success=1.0,
            low=float("nan"),
            high=float("nan"),
            total=float("nan"),
            length=float(shortest.mean()),
            spl=1.0,
        )
    return found


def words_of(figures: Mapping[str, Figures]) -> list[str]:
    """What is odd about figures, in words: where their intervals do not overlap, or barely do."""
    greedy, sampled, chance = (figures[name] for name in POLICIES)
    told = []
    if max(greedy.success, sampled.success) < 1 and max(greedy.low, sampled.low) <= chance.high:
        told.append("The agent is not surely better than chance: it has learnt little or nothing.")
    if greedy.high < sampled.low:
        told.append(
            "Sampled it reaches the goal more often than greedily: where places look alike the "
            "most probable action leads round in circles, which chance breaks. It may lack memory "
            "(train_navigation --agent.memory gru) or steps."
        )
    return told


def table_of(figures: Mapping[str, Figures]) -> Table:
    """A line per policy."""
    rows = [
        [NAMES[name], one.episodes, one.success, _sure(one), one.total, one.length, one.spl]
        for name, one in figures.items()
    ]
    bars = frozenset({HEADINGS.index("success"), HEADINGS.index("SPL")})
    return Table(columns=HEADINGS, rows=rows, bars=bars)


def text_of(figures: Mapping[str, Figures]) -> list[str]:
    """The same table as aligned lines, for a log."""
    rows = [list(HEADINGS)] + [[NAMES[n], *map(str, _cells(one))] for n, one in figures.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]


def _cells(one: Figures) -> list[str]:
    rest = (f"{one.total:.3f}", f"{one.length:.1f}", f"{one.spl:.3f}")
    told = ["–" if each == "nan" else each for each in rest]
    return [f"{one.episodes:,}", f"{one.success:.1%}", _sure(one), *told]


def _sure(one: Figures) -> str:
    return f"{one.low:.1%} to {one.high:.1%}" if one.low == one.low else "–"


def as_json(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """By policy; what is not known is null."""
    return {
        name: {
            ("return" if key == "total" else key): None if value != value else value
            for key, value in vars(one).items()
        }
        for name, one in figures.items()
    }
