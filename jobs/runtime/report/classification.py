"""What a page shows of a classifier's quality, from plain names and arrays."""

from collections.abc import Mapping, Sequence

import numpy as np

from jobs.runtime.report import charts
from jobs.runtime.report.charts import Series
from jobs.runtime.report.heatmap import confusion
from jobs.runtime.report.page import Chart, Table

NUM_CURVES = 10
"""up to so many classes every curve is named; beyond, the mean and the worst few"""
NUM_WORST = 5
NUM_FAINT = 200
NUM_PAIRS = 20
MAX_CLASS_ROWS = 1000

Curve = tuple[np.ndarray, np.ndarray]
"""false positive rate and true positive rate, rising from (0, 0) to (1, 1)"""


def roc_chart(names: Sequence[str], curves: Sequence[Curve | None], auc: np.ndarray) -> Chart:
    """One-vs-rest ROC curves by class (None: has none) and their mean."""
    there = [(auc[k], k) for k, curve in enumerate(curves) if curve is not None]
    worst = sorted(there)[: len(there) if len(there) <= NUM_CURVES else NUM_WORST]
    named = {k for _, k in worst}
    faint = [k for _, k in there if k not in named][:NUM_FAINT]
    series = [_series(curves[k], names[k], "faint") for k in faint]
    series += [_series(curves[k], f"{names[k]} {auc[k]:.4f}", "curve") for k in sorted(named)]
    if len(there) > 1:
        mean = float(np.mean([area for area, _ in there]))
        series.append(_mean_series([curves[k] for _, k in there], f"mean {mean:.4f}"))
    shown = "Each class against all others; the number is the area under the curve."
    if len(there) > NUM_CURVES:
        shown += f" Named: the {len(named)} smallest areas; {len(faint)} others in grey."
    svg = charts.lines(
        series,
        "false positive rate",
        "true positive rate",
        diagonal="chance 0.5",
        columns=3 if max((len(one.name) for one in series), default=0) <= 20 else 2,
    )
    return Chart(title="ROC curves", svg=svg, caption=shown)


def _series(curve: Curve | None, name: str, kind: str) -> Series:
    assert curve is not None
    return Series(name=name, x=curve[0], y=curve[1], kind=kind)


def _mean_series(curves: Sequence[Curve | None], name: str) -> Series:
    """Mean true positive rate at each false positive rate, as the macro average is drawn."""
    grid = np.linspace(0, 1, 201)
    total = np.zeros_like(grid)
    for curve in curves:
        assert curve is not None
        total += np.interp(grid, *curve)
    return Series(
        name=name, x=np.append(0.0, grid), y=np.append(0.0, total / len(curves)), kind="strong"
    )


def confusion_chart(matrix: np.ndarray, names: Sequence[str]) -> Chart:
    """The confusion matrix (K, K) [truth, label] as a heat map."""
    svg, caption = confusion(matrix, names)
    return Chart(title="Confusion matrix", svg=svg, caption=caption, wide=True)


def pair_table(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """The mistakes made most often."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
    rows = []
    for truth, label in zip(*np.unravel_index(order, wrong.shape), strict=True):
        count = int(wrong[truth, label])
        if count:
            share = count / int(matrix[truth].sum())
            rows.append((names[truth], names[label], count, share))
    columns = ("truth", "label", "images", "share of the truth")
    return Table(title="Most frequent mistakes", columns=columns, rows=rows, bars=frozenset({3}))


def class_table(names: Sequence[str], numbers: Mapping[str, np.ndarray], bars: int) -> Table:
    """One row a class, those of the lowest F1 first; the first `bars` columns are shares.

    `numbers` must hold "F1", "images" (the class's rows) and "labels given"; classes without rows
    come last, those that were not given either are left out.
    """
    absent = numbers["images"] == 0
    order = np.lexsort((np.arange(len(names)), numbers["F1"], absent))
    order = order[(numbers["images"] + numbers["labels given"])[order] > 0]
    rows = [
        (names[k], *(column[k].item() for column in numbers.values()))
        for k in order[:MAX_CLASS_ROWS]
    ]
    note = f"The first {len(rows):,} of {len(order):,} classes. " * (len(rows) < len(order))
    if unseen := len(names) - len(order):
        note += f"{unseen:,} classes neither occur nor are given."
    return Table(
        title="The lowest F1 first",
        columns=("class", *numbers),
        rows=rows,
        note=note,
        bars=frozenset(range(1, bars + 1)),
    )
